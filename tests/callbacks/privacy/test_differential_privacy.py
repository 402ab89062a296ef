"""Private runs with all else that a run has: checkpoints, other processes, callbacks, odd modules."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_optreg import callbacks
from lightning_optreg.callbacks import DifferentialPrivacy
from lightning_optreg.layers import DropConnect, GaussianNoise
from tests.callbacks.privacy.private_runs import Small, fit, images, loader
from tests.contracts.images import SmallNet, train
from tests.contracts.runs import checkpoint_every_step
from tests.processes import ddp, in_processes, needs_gloo
from tests.resume_tools import assert_identical, spoil_random_state

pytestmark = [
    pytest.mark.filterwarnings("ignore:DifferentialPrivacy. epsilon is computed for Poisson"),
    pytest.mark.filterwarnings("ignore:GDP accounting is experimental"),  # and the quickest
]


def private(noise: float | None = 1.0, **options: Any) -> DifferentialPrivacy:
    return DifferentialPrivacy(noise, **{"accountant": "gdp", **options})


# ---- resume ------------------------------------------------------------------------------------------------


def scheduled(parameters: Any) -> Any:
    optimizer = torch.optim.SGD(parameters, lr=0.5, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 20)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class State(Callback):
    """Keeps what a run ended with."""

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        optimizer = trainer.optimizers[0]
        schedule = trainer.lr_scheduler_configs[0].scheduler
        self.state = {"optimizer": optimizer.state_dict(), "rate": schedule.get_last_lr()}


@pytest.mark.parametrize("step", [3, 5])
def test_a_resumed_run_is_the_same(step: int, tmp_path: Path) -> None:
    def run(**options: Any) -> tuple[dict[str, Any], DifferentialPrivacy]:
        dp, state = private(), State()
        made = [dp, state, *([checkpoint_every_step(tmp_path)] if "ckpt_path" not in options else [])]
        kept = "ckpt_path" not in options
        small = Small(optimizer=scheduled)
        weights, trainer = fit(
            made, small, loader(2), enable_checkpointing=kept, max_epochs=2, max_steps=24, **options
        )
        return {**weights, **state.state, "epsilon": dp.epsilon, "step": trainer.global_step}, dp

    torch.manual_seed(1)
    straight, _ = run()
    saved = torch.load(tmp_path / f"step={step}.ckpt", weights_only=True)
    assert saved["callbacks"]["DifferentialPrivacy"]["history"] == [(1.0, 2 / 40, step)]
    plain = Small(optimizer=scheduled)
    assert saved["state_dict"].keys() == plain.state_dict().keys()
    assert saved["optimizer_states"][0]["param_groups"][0]["params"] == [0, 1, 2, 3]
    spoil_random_state()
    resumed, _ = run(ckpt_path=tmp_path / f"step={step}.ckpt")
    assert_identical(straight, resumed)


def test_a_resumed_run_keeps_its_noise_and_stops_at_its_target(tmp_path: Path) -> None:
    saver = checkpoint_every_step(tmp_path)
    first = private(None, target_epsilon=2.0, delta=1e-3)
    fit([first, saver], Small(), max_epochs=2, enable_checkpointing=True)
    longer = private(None, target_epsilon=2.0, delta=1e-3)
    _, trainer = fit([longer], Small(), max_epochs=8, ckpt_path=tmp_path / "step=4.ckpt")
    assert 10 <= trainer.global_step < 14  # the noise was that for 10 steps
    assert 1.98 < longer.epsilon <= 2.0
    saver = checkpoint_every_step(tmp_path / "end")
    fit(
        [private(1.5, target_epsilon=1.0, delta=1e-3), saver],
        Small(),
        max_epochs=8,
        enable_checkpointing=True,
    )
    last = max((tmp_path / "end").glob("*.ckpt"), key=lambda path: int(path.stem.partition("=")[2]))
    again = private(1.5, target_epsilon=1.0, delta=1e-3)
    _, trainer = fit([again], Small(), max_epochs=8, ckpt_path=last)
    assert trainer.global_step == int(last.stem.partition("=")[2])


def test_another_noise_counts_from_then_on(tmp_path: Path) -> None:
    saver = checkpoint_every_step(tmp_path)
    fit([private(1.0, accountant="rdp"), saver], Small(), max_steps=2, enable_checkpointing=True)
    other = private(2.0, accountant="rdp")
    fit([other], Small(), max_steps=5, ckpt_path=tmp_path / "step=2.ckpt")
    assert other.state_dict()["history"] == [(1.0, 0.2, 2), (2.0, 0.2, 3)]
    with pytest.raises(MisconfigurationException, match="gdp can't add up"):
        fit([private(2.0)], Small(), max_steps=5, ckpt_path=tmp_path / "step=2.ckpt")


def test_steps_without_it_are_not_called_private(tmp_path: Path) -> None:
    fit([checkpoint_every_step(tmp_path)], Small(), max_steps=2, enable_checkpointing=True)
    with pytest.raises(MisconfigurationException, match="2 of the 2 steps that this run continues were made"):
        fit([private()], Small(), max_steps=5, ckpt_path=tmp_path / "step=2.ckpt")


def test_a_trainer_that_goes_on_counts_on_and_a_new_one_begins_anew() -> None:
    dp, module = private(), Small()
    _, trainer = fit([dp], module)
    trainer.fit_loop.max_epochs = 2
    trainer.fit(module, loader())
    assert trainer.global_step == 10
    assert dp.state_dict()["history"] == [(1.0, 0.2, 10)]
    fit([dp], Small())
    assert dp.state_dict()["history"] == [(1.0, 0.2, 5)]


# ---- several processes -------------------------------------------------------------------------------------


def run_both(rank: int, folder: Path, clipping: Any, processes: int = 2) -> None:
    torch.manual_seed(3)
    dp = private(0.7, clipping=clipping, seed=2)
    found = train(folder, [dp], processes, rank=rank, net=SmallNet(nn.Identity()), shuffle="poisson")
    torch.save({**found, "epsilon": dp.epsilon}, folder / f"{processes}-{rank}.pt")


@needs_gloo
@pytest.mark.slow
@pytest.mark.parametrize("clipping", ["flat", "per_layer"])
def test_two_processes_train_as_one(clipping: str, tmp_path: Path) -> None:
    run_both(0, tmp_path, clipping, 1)
    in_processes(2, run_both, tmp_path, clipping)
    one, *two = (torch.load(tmp_path / name, weights_only=True) for name in ("1-0.pt", "2-0.pt", "2-1.pt"))
    assert_identical(two[0], two[1])
    assert one["epsilon"] == two[0]["epsilon"]
    for name, weight in one["weights"].items():
        # Rounding: sums of two halves instead of one.
        torch.testing.assert_close(two[0]["weights"][name], weight, rtol=1e-4, atol=1e-5)


def run_refused(rank: int, folder: Path) -> None:
    with pytest.raises(MisconfigurationException) as error:
        fit([private(0.7)], Penalised(), devices=2, strategy=ddp())
    (folder / f"{rank}.txt").write_text(str(error.value))


@needs_gloo
def test_two_processes_refuse_a_term_without_examples(tmp_path: Path) -> None:
    in_processes(2, run_refused, tmp_path)
    for rank in range(2):
        assert "the gradient is not the sum of those" in (tmp_path / f"{rank}.txt").read_text()


# ---- what comes in -----------------------------------------------------------------------------------------


def test_an_empty_batch_is_a_step_of_noise() -> None:
    module = Small()
    weights, trainer = fit([private(0.0, max_grad_norm=0.1)], module, loader(1), max_epochs=1)
    assert trainer.global_step == 40
    assert 5 < module.empty < 25  # 40 / e = 14.7 on average
    assert all(weight.isfinite().all() for weight in weights.values())


@pytest.mark.parametrize("mode", ["hooks", "functorch"])
def test_opacus_own_loader(mode: Any) -> None:
    from opacus.data_loader import DPDataLoader

    data = DPDataLoader.from_data_loader(DataLoader(TensorDataset(*images()), batch_size=2))
    torch.manual_seed(4)
    dp, module = private(mode=mode), Small()
    weights, _ = fit([dp], module, data, max_epochs=2)
    assert module.empty > 0
    assert dp.state_dict()["history"] == [(1.0, 0.05, 40)]
    assert all(weight.isfinite().all() for weight in weights.values())


def test_a_loader_that_shuffles_has_a_warning() -> None:
    with pytest.warns(UserWarning, match="epsilon is computed for Poisson samples"):
        fit([private()], Small(), DataLoader(TensorDataset(*images()), batch_size=8, shuffle=True))


# ---- modules -----------------------------------------------------------------------------------------------


class Thaws(Small):
    """Trains its convolution from the second epoch on."""

    def configure_optimizers(self) -> Any:
        self.net[0].requires_grad_(False)
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def on_train_epoch_start(self) -> None:
        self.net[0].requires_grad_(self.current_epoch == 1)


def test_layers_that_are_trained_later_are_observed_then() -> None:
    module = Thaws()
    before = module.net[0].weight.detach().clone()
    fit([private(0.0, max_grad_norm=1.0)], module, max_epochs=1)
    assert torch.equal(module.net[0].weight, before)
    fit([private(0.0, max_grad_norm=1.0)], module, max_epochs=2)
    assert not torch.equal(module.net[0].weight, before)


def test_the_module_is_left_as_it_was() -> None:
    module = Small(nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(64, 3)))
    fit([], module)
    attributes = [dir(part) for part in (*module.modules(), *module.parameters())]
    fit([private()], module)
    now = [dir(part) for part in (*module.modules(), *module.parameters())]
    assert now == attributes
    assert module.net[1].inplace
    assert not any(part._forward_hooks or part._backward_hooks for part in module.modules())


def test_layers_are_converted() -> None:
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Tanh(), nn.Flatten(), nn.Linear(64, 3))
    module = Small(net)
    weights, _ = fit([private(convert=True)], module)
    assert isinstance(module.net[1], nn.GroupNorm)
    assert "net.1.running_mean" not in weights


@pytest.mark.filterwarnings("ignore:.*training_step. returned .None.")  # Lightning says it once a process
def test_a_training_step_without_a_loss_can_not_be_told() -> None:
    class Lazy(Small):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return None

    dp = private(1.0, max_grad_norm=1.0)
    weights, _ = fit([dp], Lazy())
    assert dp.state_dict()["history"] == [(1.0, 0.2, 5)]
    assert not torch.equal(weights["net.0.weight"], Small().state_dict()["net.0.weight"])


def test_mixed_precision_keeps_the_bound() -> None:
    everything = loader("full", "poisson")
    start = Small()
    found, _ = fit([private(0.0, max_grad_norm=1e-3)], Small(), everything, precision="bf16-mixed")
    moved = [weight - found[name] for name, weight in start.state_dict().items()]
    assert 0 < float(torch.cat([step.flatten() for step in moved]).norm()) <= 1e-3 * (1 + 1e-4)


# ---- callbacks beside it -----------------------------------------------------------------------------------


def test_penalties_act_on_the_private_gradient() -> None:
    options: dict[str, Any] = {"max_steps": 1, "precision": "64-true"}
    alone, _ = fit([private(seed=1)], Small(), **options)
    for order in (0, 1):
        both = [private(seed=1), callbacks.L2Penalty(0.1)]
        together, _ = fit(both[:: (1, -1)[order]], Small(), **options)
        start = Small().double().state_dict()["net.3.weight"]
        torch.testing.assert_close(together["net.3.weight"], alone["net.3.weight"] - 0.2 * start)


class ByName(Small):
    """Its batches are lists of images on [0, 1], which callbacks can change."""

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return [batch[0].to(self.dtype) / 255, batch[1]]

    def scores(self, pixels: Tensor) -> Tensor:
        found: Tensor = self.net(pixels)
        return found


@pytest.mark.parametrize("method", ["pgd", "trades"])
def test_adversarial_training_is_private_too(method: Any) -> None:
    """An image changes the sum by its bound at most, whatever the search has computed before."""
    from lightning_optreg.data import BatchLoader

    pixels, labels = images()
    sums, bound = [], 0.5
    for count in (40, 36):  # torch draws the same numbers for the first images then
        everything = BatchLoader(pixels[:count], labels[:count], batch_size="full", shuffle="poisson", seed=0)
        attack = callbacks.AdversarialTraining(method, eps=0.1, steps=2, seed=4)
        for beside in ([], [attack]):
            found, _ = fit([private(0.0, max_grad_norm=bound), *beside], ByName(), everything)
            steps = [weight - found[name] for name, weight in ByName().state_dict().items()]
            sums.append(torch.cat([step.flatten() for step in steps]) * count)
    assert not torch.allclose(sums[0], sums[1], atol=1e-2)
    assert bound < (sums[1] - sums[3]).norm() <= 4 * bound * (1 + 1e-4)


def beside(other: Callback, **options: Any) -> None:
    fit([private(), other], ByName(), **options)


@pytest.mark.parametrize(
    "other",
    [
        callbacks.MixUp(num_classes=3),
        callbacks.CutMix(num_classes=3),
        callbacks.Curriculum(order="random"),
        callbacks.FullBatch(),
        callbacks.NaNGuard(),
        callbacks.BatchSizeGrowth([1]),
        callbacks.AdversarialTraining("free"),
        callbacks.NoisyEnsemble(0.1, "batch", blocks=["0"]),
    ],
    ids=lambda other: type(other).__name__,
)
def test_what_breaks_privacy_is_refused(other: Callback) -> None:
    name = type(other).__name__
    with pytest.raises(
        MisconfigurationException, match=f"^DifferentialPrivacy: {name} can't stand beside it, as"
    ):
        beside(other)


class Penalised(Small):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        penalty = sum(p.square().sum() for p in self.parameters())
        return super().training_step(batch, batch_idx) + penalty


class Functional(Small):
    def scores(self, pixels: Tensor) -> Tensor:
        last = self.net[3]
        hidden = self.net[:3](pixels.to(self.dtype) / 64 - 2)
        return nn.functional.linear(hidden, last.weight, last.bias)


class Twice(Small):
    """Two views of each image, one under the other."""

    def scores(self, pixels: Tensor) -> Tensor:
        first, second = super().scores(torch.cat((pixels, pixels.flip(3)))).chunk(2)
        return first + second


class Temperature(Small):
    def __init__(self) -> None:
        super().__init__()
        self.temperature = nn.Parameter(torch.ones(()))

    def scores(self, pixels: Tensor) -> Tensor:
        return super().scores(pixels) * self.temperature


class Evaluating(Small):
    def on_train_start(self) -> None:
        self.net[3].eval()


class Manual(Small):
    automatic_optimization = False


def with_layer(layer: nn.Module, at: int = 1) -> Small:
    layers = [nn.Conv2d(1, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(64, 3)]
    layers.insert(at, layer)
    return Small(nn.Sequential(*layers))


REFUSED: dict[str, tuple[Any, str, dict[str, Any]]] = {
    "penalty in the loss": (Penalised, "the gradient is not the sum of those of the examples", {}),
    "functional": (Functional, r"net\.3\.weight has a gradient, but its layer was not called", {}),
    "two rows for one": (Twice, "called with 12 rows for the 6 examples", {}),
    "own parameter": (Temperature, "temperature belongs to no layer", {}),
    "evaluation mode": (Evaluating, r"net\.3 is in evaluation mode", {}),
    "batch norm": (
        lambda: with_layer(nn.BatchNorm2d(4)), r"1 BatchNorm2d layer \(net\.1\) use the stat.*GroupNorm", {}
    ),
    "batch norm without weights": (lambda: with_layer(nn.BatchNorm2d(4, affine=False)), "GroupNorm", {}),
    "instance norm": (
        lambda: with_layer(nn.InstanceNorm2d(4, affine=True, track_running_stats=True)),
        r"net\.1 \(InstanceNorm2d\) has no gradient of a single example; convert=True",
        {},
    ),
    "noise of a batch": (
        lambda: with_layer(GaussianNoise(0.1, relative_to="batch")),
        r"net\.1's noise depends on the whole batch",
        {},
    ),
    "noise beside weights": (
        lambda: with_layer(DropConnect(64, 64), 3), r"net\.3 \(DropConnect\) draws random numbers", {}
    ),
    "compiled": (lambda: Small(torch.compile(Small().net, backend="eager")), "net is compiled", {}),
    "manual optimization": (Manual, "needs automatic optimization", {}),
    "L-BFGS": (lambda: Small(optimizer=torch.optim.LBFGS), "LBFGS compares losses", {}),
    "half precision": (Small, "has weights in bfloat16", {"precision": "bf16-true"}),
    "accumulation": (Small, "accumulate_grad_batches must be 1, got 2", {"accumulate_grad_batches": 2}),
    "several loaders": (Small, "needs one training loader", {"data": [loader(), loader()]}),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_can_not_be_private_is_refused_before_the_first_step(case: str) -> None:
    make, says, options = REFUSED[case]
    module = make()
    if case == "several loaders":  # each batch is a list of two
        options = {"data": [loader(shuffle="never"), loader(shuffle="never")]}
    dtype = torch.bfloat16 if case == "half precision" else torch.float32
    before = {name: weight.to(dtype, copy=True) for name, weight in module.state_dict().items()}
    with pytest.raises(MisconfigurationException, match=f"^DifferentialPrivacy: .*{says}") as error:
        fit([private()], module, options.get("data"), **{k: v for k, v in options.items() if k != "data"})
    assert "\n" not in str(error.value)
    for name, weight in module.state_dict().items():
        assert torch.equal(weight, before[name]), name


def test_a_target_needs_an_end_and_lets_no_minimum_exceed_it() -> None:
    with pytest.raises(MisconfigurationException, match="the run has no end"):
        fit([private(None, target_epsilon=3.0)], Small(), max_epochs=-1)
    with pytest.raises(MisconfigurationException, match="min_epochs"):
        fit([private(None, target_epsilon=3.0)], Small(), min_epochs=1)


def test_without_opacus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opacus", None)
    with pytest.raises(
        ModuleNotFoundError,
        match=r"^DifferentialPrivacy: needs opacus; pip install 'lightning-optreg\[privacy\]'",
    ):
        fit([private()], Small())
