"""Adversarial training against loops written by hand from the papers, in float64."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from lightning_optreg.callbacks import AdversarialTraining, BatchSizeGrowth, LabelSmoothing, NoiseFree
from lightning_optreg.randomness.draws import Draws, Place, mix
from tests.callbacks.robustness.small_classifier import BATCH, Classifier, batches, train, weights_of
from tests.processes import WriteAtEnd, ddp, in_processes, needs_gloo, written
from tests.small_runs import ACCELERATOR, Diary, quiet_trainer

EPS, STEP, TIMES = 0.1, 0.03, 4

Perturb = Callable[[nn.Module, Tensor, Tensor, Draws], Tensor]


def draws_of(step: int) -> Draws:
    """What a callback with the seed 7 draws from in a step of the first epoch."""
    place = Place(0, step, 0, BATCH)
    seed = mix(7, *b"AdversarialTraining", 0, step)
    return Draws(seed, place, BATCH, torch.device(ACCELERATOR))


def gradient(loss: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    (found,) = torch.autograd.grad(loss(x), x)
    return found


def clip(x: Tensor, around: Tensor) -> Tensor:
    return x.clamp(around - EPS, around + EPS).clamp(0.0, 1.0)


def madry(net: nn.Module, x: Tensor, y: Tensor, draws: Draws) -> Tensor:
    found = clip(x + draws.uniform(1, 6, 6, low=-EPS, high=EPS).double(), x)
    for _ in range(TIMES):
        found = clip(found + STEP * gradient(lambda z: F.cross_entropy(net(z), y), found).sign(), x)
    return found


def fast(net: nn.Module, x: Tensor, y: Tensor, draws: Draws) -> Tensor:
    found = clip(x + draws.uniform(1, 6, 6, low=-EPS, high=EPS).double(), x)
    return clip(found + 1.25 * EPS * gradient(lambda z: F.cross_entropy(net(z), y), found).sign(), x)


def by_hand(perturb: Perturb) -> dict[str, Tensor]:
    """An epoch of training on changed images."""
    module = Classifier().to(ACCELERATOR)
    optimizer = module.configure_optimizers()
    for step, (x, y) in enumerate(batches()):
        found = perturb(module.net, x, y, draws_of(step))
        optimizer.zero_grad()
        module.loss(found, y).backward()
        optimizer.step()
    return weights_of(module)


def assert_same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    torch.testing.assert_close(found, wanted, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(
    ("perturb", "callback"),
    [
        (madry, AdversarialTraining(eps=EPS, steps=TIMES, step_size=STEP, seed=7)),
        (fast, AdversarialTraining("fgsm", eps=EPS, seed=7)),
    ],
)
def test_it_is_the_loop_written_by_hand(perturb: Perturb, callback: AdversarialTraining) -> None:
    found = train([callback])
    assert_same(found, by_hand(perturb))
    assert not torch.equal(found["net.0.weight"], train([])["net.0.weight"])
    # Batch normalisation took part in all passes, as in the authors' code.
    passes = 1 + (TIMES if perturb is madry else 1)
    assert found["net.1.num_batches_tracked"] == 6 * passes


def test_in_evaluation_mode_batch_normalisation_counts_steps_only() -> None:
    found = train([AdversarialTraining(eps=EPS, steps=TIMES, step_size=STEP, mode="eval", seed=7)])
    assert found["net.1.num_batches_tracked"] == 6


# ---- TRADES ------------------------------------------------------------------------------------------------


def trades_loss(module: Classifier, x: Tensor, y: Tensor, draws: Draws, beta: float) -> Tensor:
    """Zhang et al.'s equation 5, with the search of their code."""
    net = module.net.eval()
    natural = net(x).softmax(1).detach()
    found = clip(x + 0.001 * draws.normal(1, 6, 6).double(), x)
    for _ in range(TIMES):
        found = clip(
            found
            + STEP
            * gradient(lambda z: F.kl_div(net(z).log_softmax(1), natural, reduction="sum"), found).sign(),
            x,
        )
    net.train()
    scores = net(x)
    divergence = F.kl_div(net(found).log_softmax(1), scores.softmax(1), reduction="batchmean")
    return F.cross_entropy(scores, y) + beta * divergence


def trades_by_hand(beta: float, accumulate: int = 1) -> dict[str, Tensor]:
    module = Classifier().to(ACCELERATOR)
    optimizer = module.configure_optimizers()
    for step, (x, y) in enumerate(batches()):
        if step % accumulate == 0:
            optimizer.zero_grad()
        (trades_loss(module, x, y, draws_of(step), beta) / accumulate).backward()
        if (step + 1) % accumulate == 0:
            optimizer.step()
    return weights_of(module)


def trades(beta: float = 6.0) -> AdversarialTraining:
    return AdversarialTraining("trades", eps=EPS, steps=TIMES, step_size=STEP, beta=beta, seed=7)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_trades_is_the_loss_written_by_hand(accumulate: int) -> None:
    found = train([trades()], accumulate_grad_batches=accumulate)
    assert_same(found, trades_by_hand(6.0, accumulate))


def test_trades_under_a_gradient_scaler() -> None:
    """The divergence is scaled as the loss is: by different factors, the weights are the same."""

    def trained(scale: float) -> dict[str, Tensor]:
        scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        return train([trades()], SingleImages(), plugins=[MixedPrecision("16-mixed", "cpu", scaler)])

    # Products with powers of two are exact, except for numbers too small for 16 bits.
    torch.testing.assert_close(trained(64.0), trained(1024.0), rtol=1e-3, atol=1e-4)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(trained(64.0), train([trades(0.0)], SingleImages()), rtol=1e-3, atol=1e-4)


class SingleImages(Classifier):
    """In float32."""

    def __init__(self) -> None:
        super().__init__()
        self.float()

    def train_dataloader(self) -> Any:
        images, labels = super().train_dataloader().dataset.tensors
        return DataLoader(TensorDataset(images.float(), labels), batch_size=BATCH)


def test_trades_with_beta_0_is_plain_training() -> None:
    found, plain = train([trades(0.0)]), train([])
    for name, value in plain.items():
        if "running" not in name and "tracked" not in name:  # of both passes
            assert torch.equal(found[name], value), name


def test_trades_with_a_network_that_stays_in_evaluation_mode() -> None:
    class Frozen(Classifier):
        def on_train_epoch_start(self) -> None:
            self.net.eval()

    found, plain = train([trades()], Frozen()), train([trades(0.0)], Frozen())
    assert found["net.1.num_batches_tracked"] == 0
    assert not torch.equal(found["net.0.weight"], plain["net.0.weight"])


class OwnForward(Classifier):
    """The network is the LightningModule itself, which DDP calls with the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = self.net[:4], self.net[4]
        del self.net

    def forward(self, images: Tensor) -> Any:
        return self.head(self.body(images))

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(self(images), labels)


def trades_under_ddp(rank: int, folder: Path) -> None:
    train(
        [trades(), WriteAtEnd(folder)],
        OwnForward(),
        accelerator="cpu",
        strategy=ddp(),
        use_distributed_sampler=False,
    )


@needs_gloo
def test_trades_of_a_module_with_its_own_forward_under_ddp(tmp_path: Path) -> None:
    in_processes(1, trades_under_ddp, tmp_path)
    (found,) = written(tmp_path, 1)
    alone = train([trades()], OwnForward())
    for name, value in found["weights"].items():
        torch.testing.assert_close(value.detach(), alone[name], rtol=1e-7, atol=1e-9)


def test_the_logged_loss_is_that_of_the_images() -> None:
    diary = Diary()
    train([trades()], logger=diary)
    assert {name for _, name in diary.values} == {
        "loss",
        "optreg/adversarial_training/change",
        "optreg/adversarial_training/kl",
    }
    kl = [value for (_, name), value in diary.values.items() if name.endswith("kl")]
    assert all(0.0 < value < 1.0 for value in kl)


# ---- free --------------------------------------------------------------------------------------------------


def free_by_hand(replays: int) -> dict[str, Tensor]:
    """Shafahi et al.'s algorithm 1 for the batches that the loader has at every `replays`-th place."""
    module = Classifier().to(ACCELERATOR)
    optimizer = module.configure_optimizers()
    change = torch.zeros(BATCH, 1, 6, 6, dtype=torch.float64, device=ACCELERATOR)
    for x, y in list(batches())[::replays]:
        for _ in range(replays):
            delta = ((x + change).clamp(0.0, 1.0) - x).requires_grad_()
            optimizer.zero_grad()
            module.loss(x + delta, y).backward()
            assert delta.grad is not None
            change = (delta.detach() + EPS * delta.grad.sign()).clamp(-EPS, EPS)
            optimizer.step()
    return weights_of(module)


@pytest.mark.parametrize("replays", [1, 2, 3])
def test_free_is_the_loop_written_by_hand(replays: int) -> None:
    found = train([AdversarialTraining("free", eps=EPS, replays=replays)])
    assert_same(found, free_by_hand(replays))
    assert found["net.1.num_batches_tracked"] == 6  # no pass beside those of the steps


@pytest.mark.parametrize("as_dict", [False, True])
def test_free_repeats_all_parts_of_a_batch(as_dict: bool) -> None:
    seen: list[list[int]] = []

    class Numbered(Classifier):
        def train_dataloader(self) -> Any:
            images, labels = super().train_dataloader().dataset.tensors
            rows = list(zip(images[:44], labels, range(44), strict=False))  # the last batch is smaller
            named = [{0: image, 1: label, "number": i} for image, label, i in rows]
            return DataLoader(named if as_dict else rows, batch_size=BATCH)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            seen.append(batch["number" if as_dict else 2].tolist())
            return self.loss(batch[0], batch[1])

    train([AdversarialTraining("free", eps=EPS, replays=2)], Numbered())
    assert seen == [list(range(start, start + 8)) for start in (0, 0, 16, 16, 32, 32)]


@pytest.mark.parametrize("method", ["free", "trades"])
def test_optimizers_that_call_the_step_several_times(method: Any) -> None:
    class WithClosure(Classifier):
        def configure_optimizers(self) -> Any:
            return torch.optim.LBFGS(self.parameters(), lr=0.01, max_iter=3)

    found = train([AdversarialTraining(method, eps=EPS, seed=7)], WithClosure())
    assert found["net.1.num_batches_tracked"] > 6
    assert all(value.isfinite().all() for value in found.values())


# ---- labels, pixels and what is refused --------------------------------------------------------------------


def test_normalised_images_are_changed_in_pixels() -> None:
    class Normalised(Classifier):
        def train_dataloader(self) -> Any:
            images, labels = super().train_dataloader().dataset.tensors
            return DataLoader(TensorDataset((images - 0.4) / 0.2, labels), batch_size=BATCH)

        def loss(self, images: Tensor, labels: Tensor) -> Tensor:
            return super().loss(images, labels)

    class Inverse(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * 0.2 + 0.4

    module = Normalised()
    module.net = nn.Sequential(Inverse(), *module.net)
    options = {"eps": EPS, "steps": TIMES, "step_size": STEP, "seed": 7}
    found = train([AdversarialTraining(mean=[0.4], std=[0.2], **options)], module)
    torch.testing.assert_close(found["net.1.weight"], by_hand(madry)["net.0.weight"], rtol=1e-6, atol=1e-8)
    with pytest.raises(
        MisconfigurationException, match=r"AdversarialTraining: pixels must be on \[0, 1\].*mean"
    ):
        train([AdversarialTraining(eps=EPS)], Normalised())


def test_soft_labels_are_attacked() -> None:
    module = Classifier()
    smooth = LabelSmoothing(0.1, num_classes=3)
    found = train([smooth, AdversarialTraining(eps=EPS, steps=2)], module)
    assert all(value.isfinite().all() for value in found.values())


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
def test_classes_in_few_bits(dtype: torch.dtype) -> None:
    class Few(Classifier):
        def train_dataloader(self) -> Any:
            images, labels = super().train_dataloader().dataset.tensors
            return DataLoader(TensorDataset(images, labels.to(dtype)), batch_size=BATCH)

        def loss(self, images: Tensor, labels: Tensor) -> Tensor:
            return super().loss(images, labels.long())

    options = {"eps": EPS, "steps": TIMES, "step_size": STEP, "seed": 7}
    assert_same(train([AdversarialTraining(**options)], Few()), by_hand(madry))


class Normalises(Classifier):
    def forward(self, images: Tensor) -> Any:
        return self.net((images - 0.4) / 0.2)

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(self(images), labels)


@pytest.mark.parametrize("method", ["pgd", "fgsm", "free", "trades"])
def test_it_warns_if_the_network_gets_other_images(method: Any) -> None:
    with pytest.warns(UserWarning, match="AdversarialTraining: the training step does not call Sequential"):
        train([AdversarialTraining(method, eps=EPS)], Normalises())
    module = Normalises()
    train([AdversarialTraining(method, eps=EPS, net="self")], module)
    assert not module._forward_pre_hooks
    assert not module._forward_hooks


class Manual(Classifier):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(self.loss(*batch))
        optimizer.step()


class Numbers(Classifier):
    def train_dataloader(self) -> Any:
        images, _ = super().train_dataloader().dataset.tensors
        return DataLoader(TensorDataset(images, images.mean((1, 2, 3))), batch_size=BATCH)


class Elsewhere(Classifier):
    """Does not call the network that the callback finds."""

    def __init__(self) -> None:
        super().__init__()
        self.other = nn.Sequential(nn.Flatten(), nn.Linear(36, 3)).double()

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(self.other(images), labels)


class OneNumber(Classifier):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(36, 1)).double()


def test_manual_optimization_trains_on_adversarial_examples() -> None:
    callback = AdversarialTraining(eps=EPS, steps=TIMES, step_size=STEP, seed=7)
    assert_same(train([callback], Manual()), by_hand(madry))


@pytest.mark.parametrize(
    ("callbacks", "module", "options", "message"),
    [
        ([trades()], Manual, {}, "needs automatic optimization"),
        ([AdversarialTraining("free")], Manual, {}, "needs automatic optimization"),
        ([AdversarialTraining("free")], Classifier, {"accumulate_grad_batches": 2}, "leave out gradient acc"),
        ([AdversarialTraining("free"), BatchSizeGrowth([1])], Classifier, {}, "leave out gradient acc"),
        ([AdversarialTraining()], Numbers, {}, "labels must be classes, .*set loss='mse'"),
        ([AdversarialTraining()], OneNumber, {}, r"must return scores \(N, K\) of K >= 2 classes"),
        (
            [AdversarialTraining(net="net.4")],
            Classifier,
            {},
            "Linear can't be called with the batch",
        ),
        ([AdversarialTraining(net="body")], Classifier, {}, "net='body' is not a module"),
        ([trades()], Elsewhere, {}, "the training step did not call the network"),
        ([AdversarialTraining(), NoiseFree()], Classifier, {}, "it makes training steps random"),
    ],
)
def test_refusals(
    callbacks: list[Any], module: type[Classifier], options: dict[str, Any], message: str
) -> None:
    built = module()
    before = weights_of(built)
    with pytest.raises(MisconfigurationException, match=f"^AdversarialTraining: .*{message}"):
        quiet_trainer(max_epochs=1, callbacks=callbacks, **options).fit(built)
    for name, value in weights_of(built).items():
        if message.startswith("the training step did not call") and "net.1" in name:
            continue
        assert torch.equal(value, before[name]), name


def test_replays_go_on_in_a_resumed_run(tmp_path: Path) -> None:
    """In the middle of a batch's replays, and with a change that is not 0."""
    from lightning.pytorch.callbacks import ModelCheckpoint

    def callbacks() -> list[Any]:
        return [AdversarialTraining("free", eps=EPS, replays=4)]

    saver = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
    whole = train([*callbacks(), saver], enable_checkpointing=True, max_epochs=2)
    module = Classifier()
    quiet_trainer(max_epochs=2, callbacks=callbacks()).fit(module, ckpt_path=tmp_path / "step=6.ckpt")
    for name, value in weights_of(module).items():
        assert torch.equal(value, whole[name]), name
