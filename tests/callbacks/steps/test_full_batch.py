"""FullBatch: chunks make the whole gradient, and L-BFGS in Lightning is L-BFGS by hand."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import LearningRateFinder
from lightning.pytorch.demos.boring_classes import ManualOptimBoringModel
from torch import Tensor, nn
from torch.optim import LBFGS, SGD, Optimizer
from torch.utils.data import DataLoader, TensorDataset

from lightning_optreg import ImageClassifier
from lightning_optreg.callbacks import (
    BatchAugmentation,
    CutMix,
    ExactResume,
    FullBatch,
    GradientNoise,
    LabelSmoothing,
    MixUp,
    NoiseFree,
    NoisyEnsemble,
)
from lightning_optreg.callbacks.steps._running_gradient import RunningMean
from lightning_optreg.data import FashionMNISTDataModule, RandomErasing
from lightning_optreg.nets import SoftmaxRegression
from lightning_optreg.optimizers import BFGS, Newton
from tests.contracts.runs import checkpoint_every_step
from tests.processes import WriteAtEnd, needs_gloo, written
from tests.resume_tools import assert_identical, final_state, spoil_random_state
from tests.small_runs import quiet_trainer


def data(images: int = 22) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(images, 3, generator=generator, dtype=torch.float64)
    return x, (x[:, 0] + 0.5 * torch.randn(images, generator=generator) > 0).long()


def make_net() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()


def lbfgs(parameters: Any) -> Optimizer:
    return LBFGS(parameters, max_iter=5, line_search_fn="strong_wolfe")


class Module(LightningModule):
    """A small network, its losses logged, its optimizer given."""

    def __init__(self, optimizer: Any = lbfgs, dropout: float = 0.0) -> None:
        super().__init__()
        self.net, self.make, self.dropout = make_net(), optimizer, nn.Dropout(dropout)
        self.idle = nn.Parameter(torch.ones(1, dtype=torch.float64))
        self.logged: list[float] = []

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        loss = nn.functional.cross_entropy(self.dropout(self.net(x)), y)
        self.log("loss", loss, on_step=False, on_epoch=True, batch_size=len(y), sync_dist=True)
        return {"loss": loss}

    def on_train_epoch_end(self) -> None:
        self.logged.append(float(self.trainer.callback_metrics["loss"]))

    def configure_optimizers(self) -> Any:
        return self.make(self.parameters())


def loader(batch_size: int, images: int = 22, shuffle: bool = False) -> Any:
    return DataLoader(TensorDataset(*data(images)), batch_size=batch_size, shuffle=shuffle)


def fit(
    folder: Path,
    module: LightningModule,
    batch_size: int = 8,
    *,
    data: Any = None,
    ckpt_path: Path | None = None,
    **options: Any,
) -> Trainer:
    trainer = quiet_trainer(
        **{
            "precision": "64-true",
            "callbacks": [FullBatch()],
            "default_root_dir": folder,
            "max_epochs": 4,
            **options,
        }
    )
    trainer.fit(module, data if data is not None else loader(batch_size), ckpt_path=ckpt_path)
    return trainer


def by_hand(make: Any, batch_size: int, steps: int) -> nn.Module:
    """The same without Lightning: torch's optimizer, and a closure that goes through the chunks."""
    net = make_net()
    optimizer = make([nn.Parameter(torch.ones(1, dtype=torch.float64)), *net.parameters()])

    def closure() -> Tensor:
        optimizer.zero_grad()
        mean = RunningMean(4)
        for x, y in loader(batch_size):
            loss = nn.functional.cross_entropy(net(x), y)
            mean.add(loss.detach(), list(torch.autograd.grad(loss, list(net.parameters()))), len(y))
        for parameter, gradient in zip(net.parameters(), mean.gradients, strict=True):
            parameter.grad = gradient
        assert mean.loss is not None
        return mean.loss

    def plain() -> Tensor:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net(data()[0]), data()[1])
        loss.backward()
        return loss

    for _ in range(steps):
        optimizer.step(plain if batch_size == 22 else closure)
    return net


@pytest.mark.parametrize("batch_size", [22, pytest.param(8, marks=pytest.mark.slow), 5])
@pytest.mark.parametrize(
    "make",
    [
        lbfgs,
        lambda p: LBFGS(p, max_iter=4),
        lambda p: BFGS(p, iterations=4),
        lambda p: SGD(p, lr=0.5, momentum=0.9),
    ],
    ids=["lbfgs", "lbfgs_fixed", "bfgs", "sgd"],
)
def test_is_the_optimizer_by_hand_bit_for_bit(make: Any, batch_size: int, tmp_path: Path) -> None:
    module = Module(make)
    trainer = fit(tmp_path, module, batch_size)
    expected = by_hand(make, batch_size, 4)
    assert_identical(dict(expected.state_dict()), dict(module.net.state_dict()))
    assert trainer.global_step == 4
    assert not torch.equal(make_net().state_dict()["0.weight"], module.net.state_dict()["0.weight"])
    assert module.idle.item() == 1.0


class Gradient(Callback):
    """Keeps what the optimizer finds."""

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        self.flat = torch.cat([p.grad.flatten() for p in pl_module.net.parameters()])
        self.none = pl_module.idle.grad is None


@pytest.mark.parametrize("batch_size", [22, 8, 5, 1])
def test_chunks_make_the_whole_gradient(batch_size: int, tmp_path: Path) -> None:
    keep = Gradient()
    fit(tmp_path, Module(lambda p: SGD(p, lr=0.0)), batch_size, callbacks=[FullBatch(), keep], max_epochs=1)
    net = make_net()
    nn.functional.cross_entropy(net(data()[0]), data()[1]).backward()
    whole = torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None])
    assert (keep.flat - whole).abs().max() <= 1e-12
    assert keep.none


@pytest.mark.parametrize("batch_size", [22, 8])
@pytest.mark.parametrize("hessian", ["exact", "free"])
def test_newton(batch_size: int, hessian: Any, tmp_path: Path) -> None:
    def make(parameters: Any) -> Optimizer:
        return Newton(parameters, hessian=hessian, cg_tolerance=1e-12, weight_decay=0.01)

    module = Module(make)
    trainer = fit(tmp_path, module, batch_size, max_epochs=3)
    net, (x, y) = make_net(), data()
    optimizer = make([*net.parameters(), nn.Parameter(torch.ones(1, dtype=torch.float64))])
    for _ in range(3):
        optimizer.step(lambda: nn.functional.cross_entropy(net(x), y))
    for name, value in net.state_dict().items():
        torch.testing.assert_close(module.net.state_dict()[name], value, rtol=0, atol=1e-9)
    assert trainer.global_step == 3
    assert trainer.optimizers[0].objective is None  # type: ignore[attr-defined]


def test_newton_with_manual_optimization(tmp_path: Path) -> None:
    class Manual(Module):
        def __init__(self) -> None:
            super().__init__(lambda p: Newton(p, weight_decay=0.01))
            self.automatic_optimization = False

        def training_step(self, batch: Any, batch_idx: int) -> None:
            optimizer: Any = self.optimizers()
            loss = optimizer.step(lambda: nn.functional.cross_entropy(self.net(batch[0]), batch[1]))
            self.log("loss", loss)

    module = Manual()
    fit(tmp_path, module, 22, callbacks=[], max_epochs=3)
    automatic = Module(lambda p: Newton(p, weight_decay=0.01))
    fit(tmp_path, automatic, 22, max_epochs=3)
    for name, value in automatic.net.state_dict().items():
        torch.testing.assert_close(module.net.state_dict()[name], value, rtol=0, atol=1e-12)


def test_newton_without_it_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"without calling backward.*add the callback FullBatch"):
        fit(tmp_path, Module(Newton), 22, callbacks=[])


def test_logs_the_first_evaluation_and_counts(tmp_path: Path) -> None:
    module = Module()
    trainer = fit(tmp_path, module, 8, max_epochs=1)
    with torch.no_grad():
        first = float(nn.functional.cross_entropy(make_net()(data()[0]), data()[1]))
    assert module.logged[0] == pytest.approx(first, abs=1e-12)
    metrics = trainer.callback_metrics
    assert float(metrics["optreg/full_batch/loss"]) == pytest.approx(first, abs=1e-12)
    evaluations = next(iter(trainer.optimizers[0].state.values()))["func_evals"]
    assert float(metrics["optreg/full_batch/evaluations"]) == evaluations > 1


def test_all_is_put_back(tmp_path: Path) -> None:
    module = Module(dropout=0.5)
    trainer = fit(tmp_path, module, 8, limit_train_batches=2)
    assert trainer.limit_train_batches == 2  # type: ignore[attr-defined]
    assert not {"training_step", "log", "log_dict"} & set(vars(module))
    assert module.dropout.training

    class Breaks(Callback):
        def on_train_batch_end(self, *args: Any) -> None:
            raise ArithmeticError

    module = Module(dropout=0.5)
    callback = FullBatch()
    with pytest.raises(ArithmeticError):
        fit(tmp_path, module, 8, callbacks=[callback, Breaks()])
    assert not {"training_step", "log", "log_dict"} & set(vars(module))
    assert module.dropout.training


@pytest.mark.parametrize(("limit", "images"), [(2, 16), (0.7, 16), (100, 22), (1.0, 22)])
def test_limit_train_batches_limits_chunks(limit: Any, images: int, tmp_path: Path) -> None:
    seen: list[int] = []

    class Count(Module):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            seen.append(len(batch[0]))
            return super().training_step(batch, batch_idx)

    fit(tmp_path, Count(lambda p: SGD(p, lr=0.1)), 8, limit_train_batches=limit, max_epochs=1)
    assert sum(seen) == images


@pytest.mark.parametrize("step", [1, 3])
@pytest.mark.parametrize(
    "make", [lbfgs, lambda p: BFGS(p, iterations=3), lambda p: Newton(p, damping=0.3)], ids=["l", "b", "n"]
)
def test_resumes_exactly(make: Any, step: int, tmp_path: Path) -> None:
    module = Module(make, dropout=0.3)
    callbacks = [ExactResume(), FullBatch(), checkpoint_every_step(tmp_path)]
    straight = final_state(fit(tmp_path, module, callbacks=callbacks, enable_checkpointing=True), module)
    path = tmp_path / f"step={step}.ckpt"
    torch.load(path, weights_only=True)
    spoil_random_state()
    module = Module(make, dropout=0.3)
    trainer = fit(tmp_path, module, callbacks=[ExactResume(), FullBatch()], ckpt_path=path)
    assert_identical(straight, final_state(trainer, module))


def test_bf16_for_first_order(tmp_path: Path) -> None:
    keep = Gradient()
    module = Module(lambda p: SGD(p, lr=0.0)).float()
    x, y = data()
    single = DataLoader(TensorDataset(x.float(), y), batch_size=8)
    fit(
        tmp_path,
        module,
        data=single,
        callbacks=[FullBatch(), keep],
        max_epochs=1,
        precision="bf16-mixed",
    )
    net = make_net()
    nn.functional.cross_entropy(net(data()[0]), data()[1]).backward()
    whole = torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None])
    error = float((keep.flat.double() - whole).norm() / whole.norm())
    assert 1e-6 < error < 0.03
    assert keep.flat.dtype == torch.float32


@needs_gloo
@pytest.mark.parametrize("make", [lbfgs], ids=["lbfgs"])
def test_two_processes_are_as_one(make: Any, tmp_path: Path) -> None:
    module = Module(make)
    module.idle.requires_grad_(False)  # DDP would want to know of parameters that are not used
    fit(
        tmp_path,
        module,
        data=loader(4),
        strategy="ddp_fork",
        devices=2,
        max_epochs=3,
        callbacks=[FullBatch(), WriteAtEnd(tmp_path)],
    )
    first, second = (
        torch.cat([weight.detach().flatten() for weight in state["weights"].values()])
        for state in written(tmp_path)
    )
    assert torch.equal(first, second)
    alone = by_hand(make, 22, 3)
    expected = torch.cat([p.detach().flatten() for p in alone.parameters()])
    torch.testing.assert_close(first[1:], expected, rtol=0, atol=1e-8)


# ---- what it refuses ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "options", "text"),
    [
        (lbfgs, {"accumulate_grad_batches": 2}, "it accumulates over the whole set itself"),
        (lbfgs, {"gradient_clip_val": 1.0}, "LBFGS needs the unclipped gradient of the loss"),
        (BFGS, {"gradient_clip_val": 1.0}, "BFGS needs the unclipped gradient of the loss"),
        (lbfgs, {"precision": "bf16-mixed"}, "LBFGS compares losses, for which precision bf16-mixed"),
    ],
)
def test_refuses(make: Any, options: dict[str, Any], text: str, tmp_path: Path) -> None:
    module = Module(make)
    before = copy.deepcopy(module.state_dict())
    with pytest.raises(MisconfigurationException, match=f"^FullBatch: {text}") as error:
        fit(tmp_path, module, **options)
    assert "\n" not in str(error.value)
    after = {name: value.double() for name, value in module.state_dict().items()}
    assert_identical(dict(before), after)


def test_refuses_manual_optimization_and_several_loaders(tmp_path: Path) -> None:
    with pytest.raises(MisconfigurationException, match=r"^FullBatch: needs automatic optimization"):
        fit(tmp_path, ManualOptimBoringModel(), precision="32-true")
    with pytest.raises(MisconfigurationException, match=r"^FullBatch: there must be one training loader"):
        fit(tmp_path, Module(), data=[loader(8), loader(8)])


def test_refuses_lbfgs_with_channels_last(tmp_path: Path) -> None:
    module = Module()
    module.net.append(nn.Conv2d(2, 2, 3).to(memory_format=torch.channels_last))
    with pytest.raises(MisconfigurationException, match=r"^FullBatch: torch's LBFGS needs contiguous"):
        fit(tmp_path, module)


def test_refuses_newton_on_several_processes(tmp_path: Path) -> None:
    trainer = Trainer(accelerator="cpu", devices=2, strategy="ddp_spawn", logger=False)
    trainer.strategy.optimizers = [Newton(make_net().parameters())]
    with pytest.raises(MisconfigurationException, match=r"^FullBatch: Newton works on one process, not on 2"):
        FullBatch().on_fit_start(trainer, Module())


def test_refuses_a_gradient_scaler(tmp_path: Path) -> None:
    from lightning.pytorch.plugins import MixedPrecision

    plugin = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))
    with pytest.raises(
        MisconfigurationException, match=r"^FullBatch: it does not work with a gradient scaler"
    ):
        fit(tmp_path, Module().float(), precision=None, plugins=[plugin])


class Silent(Module):
    def on_train_epoch_end(self) -> None:
        return

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return None


def test_an_optimizer_that_compares_losses_needs_one(tmp_path: Path) -> None:
    with pytest.raises(MisconfigurationException, match=r"^FullBatch: training_step must return a loss, got"):
        fit(tmp_path, Silent(lbfgs))


@pytest.mark.filterwarnings("ignore:.*training_step. returned .None.")
def test_chunks_without_a_loss_are_left_out(tmp_path: Path) -> None:
    """As if they were not in the set; and if there is no other chunk, no step is made."""

    def sgd(parameters: Any) -> Optimizer:
        return torch.optim.SGD(parameters, lr=0.1)

    class AtTimes(Module):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return None if batch_idx == 2 else super().training_step(batch, batch_idx)

    def trained(module: Module, images: int) -> Tensor:
        module.net.load_state_dict(start)
        chunks = DataLoader(TensorDataset(*(part[:images] for part in data())), batch_size=8)
        fit(tmp_path, module, data=chunks)
        return module.net[0].weight.detach()

    start = make_net().state_dict()
    some = trained(AtTimes(sgd), 22)
    assert torch.equal(some, trained(Module(sgd), 16))
    assert not torch.equal(some, start["0.weight"])
    assert torch.equal(trained(Silent(sgd), 22), start["0.weight"])


# ---- with this package's data and classifier ---------------------------------------------------------------


def test_classifier_counts_each_image_once(tmp_path: Path, fashion_mnist_dir: Path) -> None:
    """And L-BFGS lowers the loss of softmax regression."""
    seed_everything(0, verbose=False)
    fashion_mnist = FashionMNISTDataModule(str(fashion_mnist_dir), batch_size=200, verify_checksum=False)
    model = ImageClassifier(SoftmaxRegression(), optimizer=lbfgs)
    trainer = fit(tmp_path, model, data=fashion_mnist, precision="32-true", max_epochs=1)
    start = float(trainer.callback_metrics["train/loss"])
    assert start == pytest.approx(float(trainer.callback_metrics["optreg/full_batch/loss"]), rel=1e-5)
    trainer = fit(tmp_path, model, data=fashion_mnist, precision="32-true", max_epochs=1)
    assert float(trainer.callback_metrics["train/loss"]) < 0.9 * start


def test_is_a_noise_free_callback() -> None:
    assert isinstance(FullBatch(), NoiseFree)
    with pytest.raises(TypeError, match="FullBatch: noise_free must be true or false"):
        FullBatch(noise_free="yes")  # type: ignore[arg-type]


class Listed(Module):
    """Its batches are lists, which can be changed; keeps what its steps get."""

    num_classes = 2

    def __init__(self) -> None:
        super().__init__(lambda parameters: SGD(parameters, lr=0.1))
        self.labels: list[Tensor] = []

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return list(batch)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.labels.append(batch[1])
        return super().training_step(batch, batch_idx)


def test_labels_are_smoothed_in_every_chunk(tmp_path: Path) -> None:
    module = Listed()
    fit(tmp_path, module, callbacks=[FullBatch(), LabelSmoothing(0.2)], max_epochs=2)
    y = nn.functional.one_hot(data()[1], 2) * 0.8 + 0.1
    for epoch in (module.labels[:3], module.labels[3:]):
        torch.testing.assert_close(torch.cat(epoch), y.double())


def test_batches_are_mixed_in_every_chunk_if_noise_is_allowed(tmp_path: Path) -> None:
    module = Listed()
    fit(tmp_path, module, callbacks=[FullBatch(noise_free=False), MixUp(1.0)], max_epochs=1)
    assert len(module.labels) == 3
    for labels in module.labels:
        assert ((labels > 0.0) & (labels < 1.0)).any()


NOISE = {
    "MixUp": lambda: MixUp(),
    "CutMix": lambda: CutMix(),
    "BatchAugmentation": lambda: BatchAugmentation([RandomErasing()]),
    "GradientNoise": lambda: GradientNoise(),
    "NoisyEnsemble": lambda: NoisyEnsemble(blocks=["Tanh"]),
}
SILENT = [MixUp(alpha=0.0), BatchAugmentation([]), GradientNoise(eta=0.0), LabelSmoothing(0.0)]


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize(
    "noise_free", [FullBatch, NoiseFree, lambda: NoiseFree(shuffling=False, layers=False)]
)
@pytest.mark.parametrize("name", NOISE)
def test_callbacks_that_are_noise_are_refused(
    name: str, noise_free: Any, first: bool, tmp_path: Path
) -> None:
    module = Listed()
    callbacks = [noise_free(), NOISE[name]()]
    excludes = type(callbacks[0]).__name__
    says = f"^{name}: it makes training steps random, which {excludes} turns off; remove one of the two$"
    with pytest.raises(MisconfigurationException, match=says):
        fit(tmp_path, module, callbacks=callbacks if first else callbacks[::-1])
    assert not module.labels


def test_noise_that_is_off_and_noise_that_is_allowed_are_not(tmp_path: Path) -> None:
    fit(tmp_path, Listed(), callbacks=[FullBatch(), *SILENT], max_epochs=1)
    only_shuffling = NoiseFree(augmentation=False, layers=False)
    fit(tmp_path, Listed(), callbacks=[only_shuffling, NOISE["GradientNoise"]()], max_epochs=1)


def test_noise_on_the_gradient_of_an_optimizer_that_compares_losses(tmp_path: Path) -> None:
    with pytest.raises(
        MisconfigurationException, match=r"^GradientNoise: LBFGS needs gradients without noise"
    ):
        fit(tmp_path, Module(), callbacks=[GradientNoise()])


def test_a_finder_of_rates_has_no_batches_to_try_them_on(tmp_path: Path) -> None:
    with pytest.raises(
        MisconfigurationException, match=r"^FullBatch: an epoch has one batch, but LearningRateFinder"
    ):
        fit(tmp_path, Module(), callbacks=[LearningRateFinder(), FullBatch()])
