"""Attacks: closed forms of linear networks, the short loop of our own beside Foolbox's, and no trace left."""

import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_optreg.attacks import FGSM, IFGSM, PGD, Attack, AutoAttack, CarliniWagner, PixelSpace
from lightning_optreg.attacks.steps import maximise
from lightning_optreg.layers import GaussianNoise
from tests.attacks.small_attacked import SPACE, images_and_labels, linear, trained

ATTACKS: dict[str, Callable[[], Attack]] = {
    "FGSM": lambda: FGSM(0.1),
    "IFGSM": lambda: IFGSM(0.1, steps=5),
    "PGD": lambda: PGD(0.1, steps=5),
    "PGD l2": lambda: PGD(1.0, steps=5, norm="l2"),
    "restarts": lambda: PGD(0.1, steps=2, restarts=3),
    "C&W": lambda: CarliniWagner(1.0, steps=20, search_steps=3),
    "samples": lambda: PGD(0.1, steps=2, samples=3),
    "AutoAttack": lambda: AutoAttack(0.1, version="rand"),
}
SLOW = {"AutoAttack"}
every_attack = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in ATTACKS]
)


def accuracy(net: nn.Module, inputs: Tensor, labels: Tensor) -> float:
    with torch.no_grad():
        return float((net(inputs).argmax(1) == labels).float().mean())


@every_attack
def test_changes_are_small_and_make_the_network_wrong(name: str) -> None:
    attack, net, (images, labels) = ATTACKS[name](), trained(), images_and_labels()
    assert accuracy(net, images, labels) > 0.9
    found = attack(net, images, labels, SPACE)
    change = SPACE.pixels(found) - SPACE.pixels(images)
    order = torch.inf if attack.norm == "linf" else 2
    assert torch.linalg.vector_norm(change.flatten(1), order, dim=1).max() <= attack.eps + 1e-5
    assert SPACE.outside(found) <= 1e-6
    assert accuracy(net, found, labels) < accuracy(net, images, labels) - 0.3


@every_attack
def test_nothing_is_left_behind(name: str) -> None:
    net, (images, labels) = trained(), images_and_labels(20)
    net[1].train()  # modes may be mixed
    net[5].weight.requires_grad_(False)
    modes = [module.training for module in net.modules()]
    needs = [parameter.requires_grad for parameter in net.parameters()]
    before = {key: value.clone() for key, value in net.state_dict().items()}
    state, given = torch.get_rng_state(), images.clone()
    try:
        with torch.inference_mode():  # as a Trainer evaluates
            ATTACKS[name]()(net, images, labels, SPACE)
        assert [module.training for module in net.modules()] == modes
        assert [parameter.requires_grad for parameter in net.parameters()] == needs
    finally:
        net.eval().requires_grad_(True)
    assert all(parameter.grad is None for parameter in net.parameters())
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(images, given)


@every_attack
def test_the_seed_says_everything(name: str) -> None:
    net, (images, labels) = trained(), images_and_labels(20)
    first, again, other = (ATTACKS[name]()(net, images, labels, SPACE, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    has_random_start = isinstance(ATTACKS[name](), PGD | AutoAttack) and name != "IFGSM"
    assert torch.equal(first, other) is not has_random_start


@every_attack
def test_the_network_normalises_and_the_attack_sees_pixels(name: str) -> None:
    net, (images, labels) = trained(), images_and_labels(50)

    class FromPixels(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, pixels: Tensor) -> Tensor:
            mean, std = torch.tensor([0.4, 0.5]), torch.tensor([0.25, 0.3])
            scores: Tensor = self.net((pixels - mean.view(-1, 1, 1)) / std.view(-1, 1, 1))
            return scores

    found = SPACE.pixels(ATTACKS[name]()(net, images, labels, SPACE))
    pixels = SPACE.pixels(images).clamp(0.0, 1.0)
    alone = ATTACKS[name]()(FromPixels(), pixels, labels)
    # Rounding may turn the sign of a gradient that is nearly 0.
    assert float((found - alone).abs().gt(1e-4).float().mean()) < 0.01


# ---- closed forms ------------------------------------------------------------------------------------------


def test_on_a_linear_network_the_sign_of_the_weights_is_best() -> None:
    weights = torch.tensor([1.0, -2.0, 3.0, -0.5])
    pixels = torch.full((1, 1, 2, 2), 0.5)
    for attack in (FGSM(0.1), IFGSM(0.1), PGD(0.1, steps=40)):
        found = attack(linear(weights), pixels, torch.tensor([1]))  # the score of class 1 goes down
        torch.testing.assert_close((found - pixels).flatten(), -0.1 * weights.sign())


def test_on_a_linear_network_the_weights_are_best_in_l2() -> None:
    weights = torch.tensor([1.0, -2.0, 3.0, -0.5])
    pixels = torch.full((1, 1, 2, 2), 0.5)
    found = PGD(0.2, steps=60, step_size=0.1, norm="l2")(linear(weights), pixels, torch.tensor([1]))
    wanted = -0.2 * weights / weights.norm()
    torch.testing.assert_close((found - pixels).flatten(), wanted, rtol=0.0, atol=2e-4)


def test_carlini_and_wagner_find_the_distance_to_a_linear_boundary() -> None:
    weights = torch.tensor([1.0, -2.0, 3.0, -0.5])
    pixels = torch.full((1, 1, 2, 2), 0.5)
    distance = float((weights * 0.5).sum() / weights.norm())  # of (0, <w, p>)
    attack = CarliniWagner(eps=2.0, steps=150, search_steps=7, step_size=0.02)
    found = attack(linear(weights), pixels, torch.tensor([1]))
    assert float((found - pixels).norm()) == pytest.approx(distance, rel=0.02)
    scores = linear(weights)(found)
    assert scores.argmax(1).item() == 0
    for eps, wrong in ((0.9 * distance, False), (1.1 * distance, True)):
        attack = CarliniWagner(eps=eps, steps=150, search_steps=7, step_size=0.02)
        taken_for = linear(weights)(attack(linear(weights), pixels, torch.tensor([1]))).argmax(1).item()
        assert (taken_for == 0) is wrong


def test_pixels_at_the_edge_do_not_leave_it() -> None:
    weights = torch.tensor([1.0, -2.0, 3.0, -0.5])
    pixels = torch.tensor([0.0, 1.0, 0.05, 0.95]).view(1, 1, 2, 2)
    found = FGSM(0.1)(linear(weights), pixels, torch.tensor([1]))
    torch.testing.assert_close(found.flatten(), torch.tensor([0.0, 1.0, 0.0, 1.0]))


# ---- the short loop beside Foolbox's -----------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_loop_of_training_is_as_strong_as_foolbox(norm: Any) -> None:
    net, (images, labels) = trained(), images_and_labels(400)
    eps, steps = (0.05, 10) if norm == "linf" else (0.4, 10)
    attack = PGD(eps, steps, norm=norm)
    attack.random_start = False
    theirs = attack(net, images, labels, SPACE)
    change = maximise(
        lambda inputs: F.cross_entropy(net(inputs), labels, reduction="sum"),
        images,
        torch.zeros_like(images),
        space=SPACE,
        eps=eps,
        step_size=attack.step_size,
        steps=steps,
        norm=norm,
    )
    ours = SPACE.moved(images, change)
    assert all(parameter.grad is None for parameter in net.parameters())
    assert abs(accuracy(net, ours, labels) - accuracy(net, theirs, labels)) <= 0.01
    assert float((SPACE.pixels(ours) - SPACE.pixels(theirs)).abs().gt(1e-4).float().mean()) < 0.01


def test_16_bits_are_attacked_in_32() -> None:
    images = torch.rand(4, 1, 4, 4).bfloat16()
    weight = torch.randn(1, 1, 4, 4)
    change = maximise(
        lambda inputs: (inputs.float() * weight).sum(),
        images,
        torch.zeros(4, 1, 4, 4),
        space=PixelSpace(),
        eps=0.001,
        step_size=0.001,
        steps=1,
    )
    assert change.dtype == torch.float32
    inner = (images.float() - 0.5).abs() < 0.49
    torch.testing.assert_close(change.abs()[inner], torch.full((int(inner.sum()),), 0.001))
    assert PixelSpace().moved(images, change).dtype == torch.bfloat16


# ---- noise -------------------------------------------------------------------------------------------------


class Flickering(nn.Module):
    """Scores whose gradient has more noise than signal."""

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.weights = weights

    def forward(self, x: Tensor) -> Tensor:
        noise = 1.0 + 3.0 * torch.randn(x.shape)
        score = (x * noise).flatten(1) @ self.weights.flatten()
        return torch.stack([torch.zeros_like(score), score], 1)


def test_the_mean_gradient_of_many_passes_sees_through_noise() -> None:
    weights = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(0)).sign() / 64
    pixels, labels = torch.full((8, 1, 8, 8), 0.5), torch.ones(8, dtype=torch.long)

    def right_signs(samples: int) -> float:
        found = FGSM(0.1, samples=samples, average="outputs")(Flickering(weights), pixels, labels)
        return float(((found - pixels).sign() == -weights.sign()).float().mean())

    # P(1 + 3 z / sqrt(S) > 0) = 0.63 for S = 1, and 1 - 2e-5 for S = 150; the standard error of the first
    # over 512 pixels is 0.021.
    assert right_signs(1) == pytest.approx(0.63, abs=0.08)
    assert right_signs(150) > 0.99


def test_a_layer_that_is_noisy_in_evaluation_stays_so() -> None:
    images, labels = images_and_labels(30)
    noise = GaussianNoise(0.5)
    net = nn.Sequential(noise, trained())
    net.eval()
    still = FGSM(0.1)(net, images, labels, SPACE, seed=1), FGSM(0.1)(net, images, labels, SPACE, seed=2)
    noise.sampling = True
    noisy = FGSM(0.1)(net, images, labels, SPACE, seed=1), FGSM(0.1)(net, images, labels, SPACE, seed=2)
    assert torch.equal(*still)
    assert not torch.equal(*noisy)


# ---- what is refused ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FGSM(1.5), r"FGSM: eps must be in \[0, 1\], got 1.5"),
        (lambda: FGSM(float("nan")), r"FGSM: eps must be in \[0, 1\], got nan"),
        (lambda: FGSM(0.1, samples=0), "FGSM: samples must be >= 1, got 0"),
        (lambda: FGSM(0.1, average="scores"), "FGSM: average must be 'probabilities' or 'outputs'"),  # type: ignore[arg-type]
        (lambda: PGD(0.1, steps=0), "PGD: steps must be >= 1, got 0"),
        (lambda: PGD(0.1, steps=1.5), "PGD: steps must be a whole number >= 1, got 1.5"),  # type: ignore[arg-type]
        (lambda: PGD(0.1, step_size=0.0), r"PGD: step_size must be in \(0, inf\), got 0.0"),
        (lambda: PGD(0.1, norm="l1"), "PGD: norm must be 'linf' or 'l2', got 'l1'"),  # type: ignore[arg-type]
        (lambda: PGD(0.1, restarts=0), "PGD: restarts must be >= 1, got 0"),
        (lambda: CarliniWagner(-1.0), r"CarliniWagner: eps must be in \[0, inf\), got -1.0"),
        (lambda: CarliniWagner(c=0.0), r"CarliniWagner: c must be in \(0, inf\), got 0.0"),
        (lambda: PixelSpace([0.5], [0.0]), r"PixelSpace: std must be > 0, got \[0.0\]"),
    ],
)
def test_wrong_settings(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        make()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"inputs": torch.full((2, 1, 4, 4), 1.2)},
            r"FGSM: pixels must be on \[0, 1\], some are 0.2",
        ),
        ({"inputs": torch.zeros(2, 4)}, r"FGSM: images must be floating-point \(N, C, H, W\)"),
        ({"inputs": torch.zeros(2, 1, 4, 4, dtype=torch.uint8)}, "FGSM: images must be floating-point"),
        ({"labels": torch.zeros(3, dtype=torch.long)}, r"FGSM: labels must be classes, integers \(2,\)"),
        ({"labels": torch.zeros(2)}, r"FGSM: labels must be classes, integers \(2,\)"),
    ],
)
def test_wrong_images_and_labels(change: dict[str, Tensor], message: str) -> None:
    given = {"inputs": torch.zeros(2, 1, 4, 4), "labels": torch.zeros(2, dtype=torch.long), **change}
    with pytest.raises(ValueError, match=f"^{message}"):
        FGSM(0.1)(linear(torch.ones(16)), **given)


def test_a_network_without_scores() -> None:
    with pytest.raises(TypeError, match=r"scores \(N, K\) of K >= 2 classes, got \(2, 1\)"):
        FGSM(0.1)(
            nn.Sequential(nn.Flatten(), nn.Linear(16, 1)), torch.zeros(2, 1, 4, 4), torch.zeros(2).long()
        )


def test_a_network_that_does_not_look() -> None:
    with pytest.raises(RuntimeError, match="no gradient with respect to the images"):
        maximise(
            lambda inputs: inputs.detach().sum(),
            torch.zeros(1, 1, 2, 2),
            torch.zeros(1, 1, 2, 2),
            space=PixelSpace(),
            eps=0.1,
            step_size=0.1,
            steps=1,
        )


def test_without_foolbox(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "foolbox", None)
    with pytest.raises(ModuleNotFoundError, match=r"^FGSM: needs foolbox; pip install 'lightning-optreg\["):
        FGSM(0.1)


def test_autoattack_of_a_few_images() -> None:
    net, (images, labels) = trained(), images_and_labels(4)
    assert accuracy(net, images, labels) == 1.0
    found = AutoAttack(0.2, version="rand")(net, images, labels, SPACE)
    assert accuracy(net, found, labels) == 0.0
    change = SPACE.pixels(found) - SPACE.pixels(images)
    assert 0.1 < float(change.abs().max()) <= 0.2 + 1e-5


def test_autoattack_wants_classes_for_its_losses() -> None:
    images, labels = images_and_labels(2)
    with pytest.raises(ValueError, match=r"AutoAttack: version 'standard' needs at least 4 classes, got 3"):
        AutoAttack(0.1)(trained(), images, labels, SPACE)


@pytest.mark.slow
@pytest.mark.parametrize("version", ["standard", "plus"])
def test_autoattack_is_at_least_as_strong_as_pgd(version: Any) -> None:
    """On a network of 5 classes, and without a tracer that it leaves."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(128, 32), nn.Tanh(), nn.Linear(32, 5)).eval()
    pixels = torch.rand(20, 2, 8, 8)
    labels = net(pixels).argmax(1)
    tracer = sys.gettrace()
    found = AutoAttack(0.02, version=version)(net, pixels, labels)
    assert sys.gettrace() is tracer
    assert 0.0 < accuracy(net, found, labels) <= accuracy(net, PGD(0.02)(net, pixels, labels), labels) < 1.0


def test_rounding_of_normalised_pixels_is_no_fault() -> None:
    """ImageNet's mean and deviation in bfloat16: black comes back as -0.0016."""
    space = PixelSpace(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])
    pixels = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).expand(2, 3, 4, 4)
    images = ((pixels - space.mean) / space.std).bfloat16()
    assert space.outside(images) > 1e-3
    net = nn.Sequential(nn.Flatten(), nn.Linear(48, 3)).bfloat16()
    found = FGSM(0.1)(net, images, torch.tensor([0, 1]), space)
    assert found.dtype == torch.bfloat16
    assert not torch.equal(found, images)


def test_pixels_that_are_not_numbers_are_refused() -> None:
    images, labels = images_and_labels(2)
    images[1, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match=r"^PGD: pixels must be on \[0, 1\], some are not numbers"):
        PGD(0.1)(trained(), images, labels, SPACE)


class TwoHeads(nn.Module):
    """Returns a tuple, as networks with auxiliary heads do."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return trained()(x), x


def test_of_a_tuple_the_first_part_is_attacked() -> None:
    images, labels = images_and_labels(10)
    attack = FGSM(0.1)
    assert torch.equal(attack(TwoHeads(), images, labels, SPACE), attack(trained(), images, labels, SPACE))
