"""What a private step does: with no noise and no bound it is SGD's; its clipping, its noise, its epsilon."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from opacus.accountants import GaussianAccountant, PRVAccountant, RDPAccountant
from opacus.accountants.analysis.rdp import compute_rdp
from opacus.accountants.utils import get_noise_multiplier
from torch import Tensor, nn

from lightning_optreg.callbacks import DifferentialPrivacy
from lightning_optreg.callbacks.privacy._budget import Budget
from tests.callbacks.privacy.private_runs import Small, fit, images, loader

pytestmark = [
    pytest.mark.filterwarnings("ignore:DifferentialPrivacy. epsilon is computed for Poisson"),
    pytest.mark.filterwarnings("ignore:GDP accounting is experimental"),  # and the quickest
]
MODES: Any = pytest.mark.parametrize("mode", ["hooks", "functorch"])
CLIPPINGS: Any = pytest.mark.parametrize("clipping", ["flat", "per_layer"])


def examples_gradients(module: Small, data: tuple[Tensor, Tensor]) -> list[list[Tensor]]:
    """The gradients of the parameters, one example after the other."""
    found = []
    for pixels, label in zip(*data, strict=True):
        loss = module.loss(module.scores(pixels[None]), label[None])
        found.append(list(torch.autograd.grad(loss, list(module.parameters()))))
    return found


def moved(after: dict[str, Tensor], module: Small) -> list[Tensor]:
    """The gradients of the only step, of a new module with learning rate 1."""
    return [parameter.detach() - after[name] for name, parameter in module.named_parameters()]


# ---- without noise and bound -------------------------------------------------------------------------------


@MODES
@CLIPPINGS
def test_one_step_without_noise_and_bound_is_that_of_sgd(mode: Any, clipping: Any) -> None:
    data = loader(shuffle="every_epoch")
    plain, _ = fit([], Small(), data, max_steps=1)
    private = DifferentialPrivacy(0.0, max_grad_norm=math.inf, mode=mode, clipping=clipping)
    found, _ = fit([private], Small(), data, max_steps=1)
    for name, weight in plain.items():
        # Sums in float32 over 8 examples in another order.
        torch.testing.assert_close(found[name], weight, rtol=0, atol=1e-6)


def test_fifty_steps_without_noise_and_bound_are_those_of_sgd() -> None:
    def optimizer(parameters: Any) -> Any:
        return torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=1e-3)

    options: dict[str, Any] = {"precision": "64-true", "max_epochs": 10}
    data = loader(shuffle="every_epoch")
    plain, trainer = fit([], Small(optimizer=optimizer), data, **options)
    assert trainer.global_step == 50
    private = DifferentialPrivacy(0.0, max_grad_norm=math.inf)
    found, _ = fit([private], Small(optimizer=optimizer), data, **options)
    for name, weight in plain.items():
        torch.testing.assert_close(found[name], weight, rtol=0, atol=1e-10)


@MODES
def test_the_layout_of_images_makes_no_difference(mode: Any) -> None:
    """Opacus 1.6 alone finds other gradients for `channels_last`."""

    class Last(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.contiguous(memory_format=torch.channels_last)

    class ChannelsLast(Small):
        def __init__(self) -> None:
            torch.manual_seed(2)
            layers = nn.Conv2d(1, 4, 3), nn.Tanh(), Last(), nn.Conv2d(4, 3, 2), nn.Flatten(), nn.Linear(27, 3)
            super().__init__(nn.Sequential(*layers))

    data = loader(shuffle="every_epoch")
    plain, _ = fit([], ChannelsLast(), data, max_steps=1)
    found, _ = fit(
        [DifferentialPrivacy(0.0, max_grad_norm=math.inf, mode=mode)], ChannelsLast(), data, max_steps=1
    )
    for name, weight in plain.items():
        torch.testing.assert_close(found[name], weight, rtol=0, atol=1e-6)


# ---- clipping ----------------------------------------------------------------------------------------------


@MODES
@CLIPPINGS
def test_the_step_is_the_clipped_sum_of_the_gradients_of_single_examples(mode: Any, clipping: Any) -> None:
    module, batch_size = Small().double(), 40
    every = examples_gradients(module, images())
    norms = [float(torch.stack([gradient.norm() for gradient in gradients]).norm()) for gradients in every]
    bound = sorted(norms)[20]
    found, _ = fit(
        [DifferentialPrivacy(0.0, max_grad_norm=bound, mode=mode, clipping=clipping)],
        Small().double(),
        loader(batch_size, "never"),
        precision="64-true",
    )
    sums = [torch.zeros_like(parameter) for parameter in module.parameters()]
    clipped = 0
    for gradients, norm in zip(every, norms, strict=True):
        if clipping == "flat":
            factors = [min(1.0, bound / norm)] * len(sums)
        else:
            each = bound / math.sqrt(len(sums))
            factors = [min(1.0, each / float(gradient.norm())) for gradient in gradients]
        clipped += sum(factor < 1.0 for factor in factors)
        for total, gradient, factor in zip(sums, gradients, factors, strict=True):
            total += factor * gradient
    assert 0 < clipped < 40 * len(sums)
    for total, step in zip(sums, moved(found, Small().double()), strict=True):
        # Opacus adds 1e-6 to a norm before it divides by it.
        torch.testing.assert_close(step, total.detach() / batch_size, rtol=1e-5, atol=1e-8)


def step_sum(data: tuple[Tensor, Tensor], bound: float | None) -> Tensor:
    """The gradient of a step on all images, times their number: the sum, clipped if there is a bound."""
    from lightning_optreg.data import BatchLoader

    callbacks = [] if bound is None else [DifferentialPrivacy(0.0, max_grad_norm=bound)]
    everything = BatchLoader(*data, batch_size="full", shuffle="poisson", seed=0)
    found, _ = fit(callbacks, Small(), everything)
    return torch.cat([step.flatten() for step in moved(found, Small())]) * len(data[0])


def test_one_image_changes_the_clipped_sum_by_max_grad_norm_at_most() -> None:
    pixels, labels = images()
    bound = 0.5
    whole, unclipped = step_sum((pixels, labels), bound), step_sum((pixels, labels), None)
    for absent in range(3):
        rest = torch.arange(len(pixels)) != absent
        change = (whole - step_sum((pixels[rest], labels[rest]), bound)).norm()
        assert change <= bound * (1 + 1e-4)
        assert (unclipped - step_sum((pixels[rest], labels[rest]), None)).norm() > 2 * bound
    # An adversary puts another image in its place: that is one less and one more.
    replaced = pixels.clone(), labels.clone()
    replaced[0][0], replaced[1][0] = 255, (labels[0] + 1) % 3
    assert bound < (whole - step_sum(replaced, bound)).norm() <= 2 * bound * (1 + 1e-4)


# ---- noise -------------------------------------------------------------------------------------------------


class Wide(Small):
    """12,102 weights and a loss without a gradient, so that a step is noise."""

    def __init__(self) -> None:
        torch.manual_seed(2)
        super().__init__(nn.Sequential(nn.Flatten(), nn.Linear(36, 300), nn.Tanh(), nn.Linear(300, 3)))
        self.loss = lambda scores, labels: 0.0 * scores.mean()


@CLIPPINGS
def test_the_noise_is_normal_with_the_standard_deviation_that_the_accounting_assumes(clipping: Any) -> None:
    noise, bound, batch_size = 1.5, 0.4, 8
    private = DifferentialPrivacy(noise, max_grad_norm=bound, clipping=clipping, accountant="gdp", seed=11)
    found, _ = fit([private], Wide(), max_steps=1)
    drawn = torch.cat([step.flatten() for step in moved(found, Wide())]).double()
    scaled = drawn * batch_size / (noise * bound)
    n = len(scaled)
    # Four standard errors: of a mean 1 / sqrt(n), of a variance sqrt(2 / n), of a fourth moment sqrt(96 / n).
    assert abs(scaled.mean()) < 4 / math.sqrt(n)
    assert abs(scaled.var() - 1) < 4 * math.sqrt(2 / n)
    assert abs((scaled**4).mean() - 3) < 4 * math.sqrt(96 / n)


def test_noise_is_a_function_of_seed_and_step_and_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    runs = [
        fit([DifferentialPrivacy(1.0, accountant="gdp", seed=seed)], module, max_steps=2)[0]
        for seed, module in ((1, Wide()), (1, Wide()), (2, Wide()))
    ]
    Wide()  # sets it
    after = torch.get_rng_state()
    fit([DifferentialPrivacy(1.0, accountant="gdp")], Wide(), max_steps=2)
    assert torch.equal(after, torch.get_rng_state())
    torch.set_rng_state(before)
    weights = [run["net.1.weight"] for run in runs]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    one = fit([DifferentialPrivacy(1.0, accountant="gdp", seed=1)], Wide(), max_steps=1)[0]["net.1.weight"]
    start = Wide().state_dict()["net.1.weight"]
    assert not torch.allclose(weights[0] - one, one - start)


# ---- epsilon -----------------------------------------------------------------------------------------------


def test_epsilon_is_that_of_opacus_for_the_steps_that_were_made() -> None:
    private = DifferentialPrivacy(1.3, delta=1e-3, accountant="rdp")
    _, trainer = fit([private], Small(), max_epochs=2)
    apart = RDPAccountant()
    for _ in range(10):
        apart.step(noise_multiplier=1.3, sample_rate=8 / 40)
    assert trainer.global_step == 10
    assert private.epsilon == apart.get_epsilon(delta=1e-3)
    assert float(trainer.callback_metrics["optreg/differential_privacy/epsilon"]) == pytest.approx(
        private.epsilon
    )


def test_delta_is_a_tenth_of_an_example() -> None:
    private = DifferentialPrivacy(1.3, accountant="gdp")
    fit([private], Small())
    apart = GaussianAccountant()
    apart.history = [(1.3, 8 / 40, 5)]
    assert private.epsilon == apart.get_epsilon(delta=1 / 400)


def test_epsilon_agrees_with_the_one_that_was_published() -> None:
    """Abadi et al. 2016, section 3.2: q = 0.01, sigma = 4, delta = 1e-5, T = 10,000 steps: epsilon 1.26."""
    orders = np.arange(2, 64)
    moments = compute_rdp(q=0.01, noise_multiplier=4.0, steps=10_000, orders=orders)
    theirs = float(np.min(moments + np.log(1e5) / (orders - 1)))  # their theorem 2, from the same moments
    assert theirs == pytest.approx(1.26, abs=0.005)
    rdp, prv = (
        Budget(name, 1e-5, [(4.0, 0.01, 10_000)], "DifferentialPrivacy").epsilon for name in ("rdp", "prv")
    )
    assert 0.9 < prv < rdp < theirs  # later conversions are tighter


def test_the_noise_for_a_target_reaches_it() -> None:
    private = DifferentialPrivacy(target_epsilon=2.0, delta=1e-3, accountant="gdp")
    _, trainer = fit([private], Small(), max_epochs=2)
    assert trainer.global_step == 10
    assert 1.98 < private.epsilon <= 2.0


def test_training_stops_before_it_exceeds_the_target() -> None:
    private = DifferentialPrivacy(1.3, target_epsilon=2.0, delta=1e-3, accountant="gdp")
    _, trainer = fit([private], Small(), max_epochs=10)
    made = trainer.global_step
    assert 5 < made < 50
    apart = Budget("gdp", 1e-3, [], "DifferentialPrivacy")
    assert apart.after(1.3, 0.2, made) == private.epsilon <= 2.0 < apart.after(1.3, 0.2, made + 1)


@pytest.mark.parametrize(
    ("noise", "rate", "steps"),
    [pytest.param(0.3, 0.01, 10_000, marks=pytest.mark.slow), (0.1, 0.034, 870), (1.0, 1.0, 100)],
)
def test_little_noise_takes_seconds_and_no_warning(noise: float, rate: float, steps: int) -> None:
    """Opacus's own PRV takes minutes for the first, overflows for the second and warns for the third."""
    prv, rdp = (
        Budget(name, 1e-5, [(noise, rate, steps)], "DifferentialPrivacy").epsilon for name in ("prv", "rdp")
    )
    assert 0.9 * rdp < prv <= rdp


def test_the_bound_of_opacus_is_kept_where_it_is_quick() -> None:
    theirs = PRVAccountant()
    theirs.history = [(1.0, 0.034, 870)]
    ours = Budget("prv", 1e-5, theirs.history, "DifferentialPrivacy")
    assert ours.epsilon == theirs.get_epsilon(delta=1e-5)


@pytest.mark.filterwarnings("ignore:Optimal order is the")  # of Opacus's own search
@pytest.mark.parametrize("target", [1.0, pytest.param(20.0, marks=pytest.mark.slow)])
def test_the_noise_for_a_target_is_that_of_opacus(target: float) -> None:
    theirs = get_noise_multiplier(
        target_epsilon=target, target_delta=1e-5, sample_rate=0.04, steps=500, accountant="rdp"
    )
    ours = Budget("rdp", 1e-5, [], "DifferentialPrivacy").noise_for(target, 0.04, 500)
    # With a tolerance of 0.01, or a thousandth of a large epsilon.
    assert ours == pytest.approx(theirs, rel=1e-3)
