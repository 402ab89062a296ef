"""Schedules are as long as the run, whatever decides on its length, or are refused before the first step."""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningDataModule, Trainer
from lightning.pytorch.callbacks import (
    BatchSizeFinder,
    GradientAccumulationScheduler,
    LearningRateFinder,
    StochasticWeightAveraging,
    Timer,
)
from lightning.pytorch.tuner import Tuner
from torch.optim import SGD, Optimizer
from torch.optim import lr_scheduler as torchs
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, OneCycleLR, PolynomialLR
from torch.utils.data import DataLoader, IterableDataset

from lightning_optreg.callbacks import BatchSizeGrowth, FullBatch, ResetOptimizer
from lightning_optreg.classifier import ImageClassifier
from lightning_optreg.schedulers import InverseTimeDecay, SnapshotCosine, Warmup, WarmupMultiStepLR
from lightning_optreg.trainer.run_length import RunLength, run_length, schedule_steps
from lightning_optreg.trainer.schedule_length import fitted, length_argument, with_lengths
from lightning_optreg.trainer.schedule_parts import check_made, warn_of_unreached
from tests.classifier.small_models import images, small_model, small_net, trainer_for
from tests.processes import ddp, in_processes

pytestmark = [
    pytest.mark.filterwarnings("ignore:You defined a `validation_step`"),
    pytest.mark.filterwarnings("ignore:.*smaller than the logging interval"),
]


class Counted(CosineAnnealingLR):
    """Has its own step for a rate, and takes a length as that of torch's does."""

    def get_lr(self) -> list[float]:
        return [float(self.last_epoch) for _ in self.optimizer.param_groups]


class Rates(Callback):
    """The rate of each optimizer step."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_before_optimizer_step(self, trainer: Trainer, *_: Any) -> None:
        self.values.append(float(trainer.optimizers[0].param_groups[0]["lr"]))


class TenBatches(LightningDataModule):
    """20 images in batches of 2, or of what is found."""

    batch_size = 2

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(images(20), batch_size=self.batch_size)


class Validated(TenBatches):
    """The same for training and validation."""

    val_dataloader = TenBatches.train_dataloader


def fit(model: ImageClassifier, *callbacks: Callback, data: Any = None, **options: Any) -> list[float]:
    """Train, with ten batches in an epoch, and return the rates."""
    resumed = {"ckpt_path": options.pop("ckpt_path", None)}
    recorder = Rates()
    trainer = trainer_for(**{"max_epochs": 3, **options}, callbacks=[*callbacks, recorder])
    trainer.fit(model, datamodule=TenBatches() if data is None else data, **resumed)
    return recorder.values


RUNS: dict[str, tuple[dict[str, Any], list[Callback], int, int]] = {
    # options, callbacks, and values of a schedule by steps and by epochs
    "epochs": ({}, [], 30, 3),
    "one step": ({"max_epochs": 1, "limit_train_batches": 1}, [], 1, 1),
    "accumulation": ({"accumulate_grad_batches": 4}, [], 9, 3),
    "half the batches": ({"limit_train_batches": 0.5}, [], 15, 3),
    "overfit_batches": ({"overfit_batches": 2}, [], 6, 3),
    "steps": ({"max_steps": 12, "max_epochs": -1}, [], 12, 2),
    "steps before epochs": ({"max_steps": 20}, [], 20, 2),
    "epochs before steps": ({"max_steps": 99}, [], 30, 3),
    "accumulation to a step": ({"max_steps": 4, "accumulate_grad_batches": 4}, [], 4, 2),
    "BatchSizeGrowth": ({}, [BatchSizeGrowth([1, 2], 2)], 10 + 5 + 3, 3),
    "accumulation scheduler": ({}, [GradientAccumulationScheduler({1: 3, 2: 4})], 10 + 4 + 3, 3),
    "FullBatch": ({}, [FullBatch()], 3, 3),
    "dry run": ({"fast_dev_run": 4}, [], 4, 1),
}


@pytest.mark.parametrize("interval", ["step", "epoch"])
@pytest.mark.parametrize("run", RUNS)
@pytest.mark.filterwarnings("ignore:You requested to overfit")
def test_a_schedule_ends_with_the_run(run: str, interval: Any) -> None:
    options, callbacks, steps, epochs = RUNS[run]
    model = small_model(lr_scheduler=Counted, lr_interval=interval)
    found = fit(model, *callbacks, **options)
    assert int(max(found)) + 1 == (steps if interval == "step" else epochs)
    assert model._schedule.length == max(found) + 1


class Asks(Callback):
    """How long the run is, in each epoch."""

    def __init__(self) -> None:
        self.found: list[float] = []

    def on_train_epoch_end(self, trainer: Trainer, *_: Any) -> None:
        self.found.append(run_length(trainer, "step", 1).times)


@pytest.mark.parametrize("run", ["accumulation", "BatchSizeGrowth", "accumulation scheduler"])
def test_the_length_is_the_same_at_any_time(run: str) -> None:
    options, callbacks, steps, _ = RUNS[run]
    asks = Asks()
    fit(small_model(), *callbacks, asks, **options)
    assert asks.found == [steps] * 3


@pytest.mark.parametrize(
    ("interval", "frequency", "options", "expected"),
    [
        ("step", 3, {}, 10),  # after 3, 6 and 9 batches of each epoch, and before the last one
        ("step", 5, {"accumulate_grad_batches": 2}, 3),  # at each epoch's end
        ("step", 4, {"max_steps": 15}, 4),
        ("epoch", 2, {}, 2),
        ("epoch", 2, {"max_epochs": 4}, 2),
        ("epoch", 2, {"max_steps": 21}, 2),
    ],
)
def test_it_counts_as_lightning_steps_it(
    interval: Any, frequency: int, options: dict[str, Any], expected: int
) -> None:
    model = small_model(lr_scheduler=Counted, lr_interval=interval, lr_frequency=frequency)
    assert max(fit(model, **options)) + 1 == expected == model._schedule.length


def test_the_count_of_large_runs() -> None:
    assert schedule_steps(422, 18, math.inf, lambda epoch: 1) == 7596
    assert schedule_steps(422, 18, math.inf, lambda epoch: 4) == 106 * 18
    assert schedule_steps(422, math.inf, 1000, lambda epoch: 1, "epoch") == 3
    assert schedule_steps(math.inf, 5, math.inf, lambda epoch: 1, "epoch") == 5
    assert schedule_steps(math.inf, 5, 100, lambda epoch: 1) == 100
    assert math.isinf(schedule_steps(math.inf, 5, math.inf, lambda epoch: 1))
    assert math.isinf(schedule_steps(422, math.inf, math.inf, lambda epoch: 1))
    assert math.isinf(schedule_steps(math.inf, 5, 100, lambda epoch: 1, "epoch"))


CYCLE = partial(OneCycleLR, max_lr=0.1)
WARMED = partial(Warmup, schedule=CosineAnnealingLR, warmup=1)


# ---- which schedules ---------------------------------------------------------------------------------------


def test_which_of_torchs_and_our_schedules_take_the_runs_length() -> None:
    named = {name: cls for name, cls in vars(torchs).items() if isinstance(cls, type)}
    ours = {cls.__name__: cls for cls in (InverseTimeDecay, SnapshotCosine, Warmup, WarmupMultiStepLR)}
    found = {name: length_argument(cls) for name, cls in {**named, **ours}.items()}
    assert {name: argument for name, argument in found.items() if argument} == {
        "OneCycleLR": "total_steps",
        "CosineAnnealingLR": "T_max",
        "PolynomialLR": "total_iters",
        "SnapshotCosine": "total_steps",
    }


class Own(LRScheduler):
    """Has such an argument, for another thing."""

    def __init__(self, optimizer: Optimizer, total_iters: int | None = None) -> None:
        self.total_iters = total_iters
        super().__init__(optimizer)

    def get_lr(self) -> list[float]:
        return [0.5 for _ in self.optimizer.param_groups]


class Longer(CosineAnnealingLR):
    """Has its own length."""

    def __init__(self, optimizer: Optimizer) -> None:
        super().__init__(optimizer, 99)


def test_other_classes_are_their_authors_matter(tmp_path: Path) -> None:
    assert length_argument(Own) is None
    assert length_argument(Longer) is None
    assert length_argument(Counted) == "T_max"
    for given in (None, 7):
        model = small_model(lr_scheduler=partial(Own, total_iters=given), lr_interval="step")
        fit(model)
    spec = {"class_path": f"{__name__}.Own", "init_args": {"total_iters": None}}
    assert with_lengths(spec, 18) == spec
    counted = {"class_path": f"{__name__}.Counted", "init_args": {"T_max": None}}
    assert with_lengths(counted, 18)["init_args"] == {"T_max": 18}


def rate_at_the_end(maker: Callable[..., Any], length: int) -> float:
    optimizer = SGD([torch.zeros(1)], lr=1.0)
    schedule = fitted(maker, RunLength(lambda: length, "steps"))(optimizer)
    for _ in range(length - 1):
        optimizer.step()
        schedule.step()
    return float(optimizer.param_groups[0]["lr"])


@pytest.mark.parametrize(
    ("maker", "expected"),
    [
        (partial(OneCycleLR, max_lr=1.0), 1 / 25 / 1e4),
        (partial(OneCycleLR, max_lr=1.0, total_steps=None, epochs=None), 1 / 25 / 1e4),
        (partial(OneCycleLR, max_lr=1.0, epochs=2, steps_per_epoch=6), 1 / 25 / 1e4),
        (CosineAnnealingLR, (1 + math.cos(math.pi * 11 / 12)) / 2),
        (partial(partial(CosineAnnealingLR, T_max=5), T_max=None), (1 + math.cos(math.pi * 11 / 12)) / 2),
        (partial(CosineAnnealingLR, T_max=12), (1 + math.cos(math.pi * 11 / 12)) / 2),
        (PolynomialLR, 1 / 12),
        (partial(SnapshotCosine, cycles=3), (1 + math.cos(math.pi * 3 / 4)) / 2),
        (partial(Warmup, schedule=PolynomialLR, warmup=2), 1 / 10),
        (partial(Warmup, schedule=partial(PolynomialLR, total_iters=7)), 1 / 7),
        (partial(Warmup, schedule=partial(Warmup, schedule=PolynomialLR, warmup=1), warmup=1), 1 / 10),
        (partial(torchs.LinearLR, start_factor=0.5), 1.0),
        (lambda optimizer: CosineAnnealingLR(optimizer, 11), 0.0),
    ],
)
def test_the_last_rate(maker: Callable[..., Any], expected: float) -> None:
    assert rate_at_the_end(maker, 12) == pytest.approx(expected)


def test_the_same_rates_as_with_constants() -> None:
    optimizer = SGD([torch.zeros(1)], lr=0.06, momentum=0.9)
    run = RunLength(lambda: schedule_steps(422, 18, math.inf, lambda epoch: 1), "steps")
    fitted(partial(OneCycleLR, max_lr=0.06), run)(optimizer)
    other = SGD([torch.zeros(1)], lr=0.06, momentum=0.9)
    first = fitted(partial(OneCycleLR, max_lr=0.06), run)(optimizer).state_dict()
    second = OneCycleLR(other, max_lr=0.06, epochs=18, steps_per_epoch=422).state_dict()
    assert first.keys() == second.keys()
    assert {k: v for k, v in first.items() if not callable(v)} == {
        k: v for k, v in second.items() if not callable(v)
    }


def test_a_search_for_a_batch_size_before_training(tmp_path: Path) -> None:
    """Its trials make more steps than the run has, which it then changes."""
    model = small_model(lr_scheduler=CYCLE, lr_interval="step")
    search = BatchSizeFinder(steps_per_trial=12, max_trials=2, init_val=4)
    data = Validated()
    found = fit(model, search, data=data, default_root_dir=tmp_path)
    assert data.batch_size == 8
    assert model._schedule.length == 9  # three batches in an epoch
    assert found[-1] == pytest.approx(0.1 / 25 / 1e4)


@pytest.mark.slow
def test_searches_on_their_own(tmp_path: Path) -> None:
    model = small_model(lr_scheduler=CYCLE, lr_interval="step")
    data = Validated()
    trainer = trainer_for(max_epochs=1, default_root_dir=tmp_path)
    Tuner(trainer).scale_batch_size(model, datamodule=data, steps_per_trial=2, max_trials=2, init_val=1)
    assert data.batch_size == 2
    assert fit(model, data=data, max_epochs=1)[-1] == pytest.approx(0.1 / 25 / 1e4)
    search_rate = LearningRateFinder(num_training_steps=40, early_stop_threshold=None)
    last = fit(model, search_rate, default_root_dir=tmp_path)[-1]
    assert last == pytest.approx((model.lr or 0.0) / 25 / 1e4)
    assert model._schedule.length == 30


@pytest.mark.parametrize("interval", ["step", "epoch"])
@pytest.mark.parametrize("frequency", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_a_trainer_that_fits_again_has_the_rest_of_the_run(
    interval: Any, frequency: int, tmp_path: Path
) -> None:
    def again() -> tuple[Trainer, ImageClassifier, Rates]:
        model = small_model(lr_scheduler=Counted, lr_interval=interval, lr_frequency=frequency)
        recorder = Rates()
        trainer = trainer_for(max_epochs=2, callbacks=[recorder])
        trainer.fit(model, datamodule=TenBatches())
        trainer.fit_loop.max_epochs = 7
        recorder.values.clear()
        return trainer, model, recorder

    trainer, model, recorder = again()
    trainer.fit(model, datamodule=TenBatches())
    assert len(recorder.values) == 50
    assert model._schedule.length == max(recorder.values) + 1
    stopped, model, _ = again()
    stopped.callbacks.append(Stop())  # type: ignore[attr-defined]  # a connector sets it
    stopped.fit(model, datamodule=TenBatches())
    stopped.save_checkpoint(tmp_path / "a.ckpt")
    resumed = small_model(lr_scheduler=Counted, lr_interval=interval, lr_frequency=frequency)
    assert fit(resumed, max_epochs=7, ckpt_path=tmp_path / "a.ckpt") == recorder.values[10:]


@pytest.mark.filterwarnings("ignore:Swapping scheduler")
def test_the_epoch_that_weight_averaging_adds_is_none_of_the_schedules() -> None:
    model = small_model(lr_scheduler=CosineAnnealingLR)
    model.net.append(torch.nn.BatchNorm1d(3))
    fit(model, StochasticWeightAveraging(1e-3, swa_epoch_start=1))
    assert model._schedule.length == 3


@pytest.mark.slow
def test_several_processes() -> None:
    in_processes(2, one_of_two)


def one_of_two(rank: int) -> None:
    model = small_model(lr_scheduler=CYCLE, lr_interval="step")
    found = fit(model, strategy=ddp(), devices=2)
    assert model._schedule.length == 15
    assert found[-1] == pytest.approx(0.1 / 25 / 1e4)


@pytest.mark.slow
def test_several_processes_find_one_rate(tmp_path: Path) -> None:
    in_processes(2, one_of_two_that_search, tmp_path)
    one, two = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert one["lr"] == two["lr"]
    assert 1e-4 <= one["lr"] <= 0.1
    assert one["rates"] == two["rates"]
    assert one["rates"][-1] == pytest.approx(one["lr"] / 25 / 1e4)
    for name, weight in one["weights"].items():
        assert torch.equal(weight, two["weights"][name])


def one_of_two_that_search(rank: int, folder: Path) -> None:
    model = small_model(lr_scheduler=CYCLE, lr_interval="step")
    finder = LearningRateFinder(1e-4, 0.1, num_training_steps=20, early_stop_threshold=None)
    found = fit(model, finder, strategy=ddp(), devices=2, default_root_dir=folder, enable_checkpointing=True)
    saved = {"lr": model.lr, "rates": found[-15:], "weights": model.state_dict()}
    torch.save(saved, folder / f"{rank}.pt")


# ---- what is refused ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("maker", "options", "says"),
    [
        (
            partial(OneCycleLR, max_lr=1, total_steps=3),
            {},
            "total_steps of OneCycleLR .* 30 steps, got 3: leave",
        ),
        (
            partial(OneCycleLR, max_lr=1, total_steps=31),
            {},
            "total_steps of OneCycleLR .* 30 steps, got 31: ",
        ),
        (
            partial(CosineAnnealingLR, T_max=3),
            {},
            "T_max of CosineAnnealingLR .* 30 steps, got 3: leave it out",
        ),
        (
            partial(SnapshotCosine, total_steps=40),
            {},
            "total_steps of SnapshotCosine .* 30 steps, got 40: leave",
        ),
        (
            lambda o: OneCycleLR(o, 1.0, total_steps=3),
            {},
            "total_steps of OneCycleLR .* 30 steps, got 3; functools.partial",
        ),
        (
            partial(Warmup, schedule=lambda o: OneCycleLR(o, 1.0, total_steps=3)),
            {},
            "total_steps of OneCycleLR .* 25 steps after the warm-up, got 3; functools.partial",
        ),
        (
            CosineAnnealingLR,
            {"max_epochs": -1},
            "no known end: set T_max, trainer.max_epochs or max",
        ),
        (PolynomialLR, {"data": "endless"}, "no known end: set total_iters, trainer.max_epochs"),
    ],
)
def test_a_length_that_contradicts_the_run(maker: Any, options: dict[str, Any], says: str) -> None:
    if options.get("data") == "endless":
        options = {"data": Endless()}
    model = small_model(lr_scheduler=maker, lr_interval="step")
    before = model.net[1].weight.clone()
    with pytest.raises(MisconfigurationException, match=says):
        fit(model, **options)
    assert torch.equal(model.net[1].weight, before)
    if isinstance(maker, type) or "lambda" not in repr(maker):
        fit(model, fast_dev_run=7)  # which ends before 40, and after 3


class Endless(LightningDataModule):
    """A loader without a length."""

    class Images(IterableDataset[Any]):
        def __iter__(self) -> Any:
            return iter(images(20))

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.Images(), batch_size=2)


def test_a_run_that_trains_nothing_refuses_nothing() -> None:
    for arguments in ({"max_epochs": 0}, {"limit_train_batches": 0}):
        for maker in (SnapshotCosine, partial(CosineAnnealingLR, T_max=18), WARMED):
            assert fit(small_model(lr_scheduler=maker, lr_interval="step"), **arguments) == []


@pytest.mark.parametrize(
    ("maker", "options", "says"),
    [
        (CYCLE, {"max_epochs": 1, "interval": "epoch"}, "3 epochs, got 1: train longer, count steps"),
        (CYCLE, {"max_steps": 1}, "3 steps, got 1: train longer or use another schedule"),
        (CYCLE, {"max_epochs": 2, "frequency": 10, "limit_train_batches": 5}, "one in 10 .* lower lr_freq"),
        (CYCLE, {"max_steps": 2}, "at least 3 steps, got 2"),
        (partial(Warmup, schedule=CYCLE, warmup=28), {}, "at least 3 steps after the warm-up, got 2"),
        (partial(CYCLE, total_steps=2), {"max_epochs": 2, "interval": "epoch"}, "at least 3 epochs, got 2"),
        (lambda o: OneCycleLR(o, 0.1, total_steps=1), {"max_steps": 1}, "at least 3 steps, got 1"),
        (partial(CYCLE, three_phase=True), {"max_steps": 5}, "at least 6 steps, got 5"),
        (partial(CYCLE, pct_start=0.1), {"max_epochs": 1}, "of 10 steps with pct_start 0.1 has a phase"),
        (
            partial(Warmup, schedule=partial(CYCLE, pct_start=0.04)),
            {},
            "of 25 steps with pct_start 0.04 has a phase",
        ),
        (partial(CYCLE, pct_start=1.0), {}, "of 30 steps with pct_start 1.0 has a phase"),  # in its last step
    ],
)
@pytest.mark.filterwarnings("ignore:A `OneCycleLR` scheduler is using")
def test_a_cycle_without_room_to_rise_and_fall(maker: Any, options: dict[str, Any], says: str) -> None:
    counted = {"lr_interval": options.pop("interval", "step"), "lr_frequency": options.pop("frequency", 1)}
    with pytest.raises(MisconfigurationException, match=says):
        fit(small_model(lr_scheduler=maker, **counted), **options)
    if isinstance(maker, partial):
        (rate,) = fit(small_model(lr_scheduler=maker, **counted), fast_dev_run=True)
        assert rate >= 0.1 / 25 / 10  # a tenth, in the warm-up


def test_the_shortest_cycles_have_a_high_rate() -> None:
    for percent in range(1, 101):
        for options in ({}, {"three_phase": True}):
            maker = partial(OneCycleLR, max_lr=1.0, pct_start=percent / 100, **options)
            found = []
            for length in range(1, 12):
                try:
                    schedule = fitted(maker, RunLength(lambda n=length: n, "steps"))
                except MisconfigurationException:
                    continue
                optimizer = SGD([torch.zeros(1)], lr=1.0, momentum=0.9)
                made, rates = schedule(optimizer), []
                for _ in range(length):
                    rates.append(optimizer.param_groups[0]["lr"])
                    optimizer.step()
                    made.step()
                found.append(max(rates))
            assert min(found, default=1.0) >= 0.499, (percent, options, found)


def test_one_step_of_the_other_schedules_has_the_full_rate() -> None:
    for maker in (CosineAnnealingLR, PolynomialLR, partial(SnapshotCosine, cycles=1)):
        assert fit(small_model(lr_scheduler=maker, lr_interval="step"), max_steps=1) == [0.1]


def test_a_loader_without_a_length() -> None:
    model = small_model(lr_scheduler=CosineAnnealingLR)
    fit(model, data=Endless())
    assert model._schedule.length == 3
    model = small_model(lr_scheduler=CosineAnnealingLR, lr_interval="step")
    fit(model, data=Endless(), max_steps=7)
    assert model._schedule.length == 7
    fit(small_model(lr_scheduler=partial(CosineAnnealingLR, T_max=30), lr_interval="step"), data=Endless())


def test_without_a_trainer() -> None:
    model = small_model(lr_scheduler=partial(CosineAnnealingLR, T_max=3))
    assert model.configure_optimizers()["lr_scheduler"]["scheduler"].T_max == 3
    halved = fitted(partial(CYCLE, epochs=18), RunLength(lambda: 3, "steps", dry=True))
    assert halved.keywords["total_steps"] == 3
    with pytest.raises(ValueError, match="SnapshotCosine: total_steps must be given outside"):
        SnapshotCosine(SGD([torch.zeros(1)], lr=1.0))


MARKS: list[tuple[Callable[..., Any], int, str | None]] = [
    (
        partial(torchs.MultiStepLR, milestones=[2, 12, 15]),
        12,
        "12 epochs end before MultiStepLR's milestones 12, 15",
    ),
    (partial(torchs.MultiStepLR, milestones=[2, 11]), 12, None),
    (partial(WarmupMultiStepLR, milestones=[20]), 12, "WarmupMultiStepLR's milestones 20"),
    (partial(torchs.StepLR, step_size=12), 12, None),  # has no time of its own, but a pace
    (torchs.LinearLR, 4, "LinearLR's total_iters 5"),
    (torchs.LinearLR, 5, None),
    (torchs.ConstantLR, 5, "ConstantLR's total_iters 5"),
    (partial(torchs.CosineAnnealingWarmRestarts, T_0=13), 12, "CosineAnnealingWarmRestarts's T_0 13"),
    (partial(torchs.CosineAnnealingWarmRestarts, T_0=12), 12, None),
    (partial(torchs.CyclicLR, base_lr=0.1, max_lr=1.0), 12, "CyclicLR's step_size_up 2000"),
    (partial(Warmup, warmup=13), 12, "Warmup's warmup 13"),
    (
        partial(Warmup, schedule=partial(torchs.MultiStepLR, milestones=[8])),
        12,
        "MultiStepLR's milestones 13",
    ),
    (lambda o: torchs.SequentialLR(o, [torchs.ConstantLR(o), torchs.StepLR(o, 3)], [9]), 9, "milestones 9"),
    (
        lambda o: torchs.ChainedScheduler([torchs.StepLR(o, 3), torchs.ConstantLR(o, 0.5, 9)]),
        9,
        "ConstantLR's total_iters 9",
    ),
    (CosineAnnealingLR, 12, None),
]


@pytest.mark.parametrize(("maker", "length", "says"), MARKS)
def test_what_the_run_never_gets_to_is_told_in_one_line(
    maker: Callable[..., Any], length: int, says: str | None
) -> None:
    optimizer = SGD([torch.zeros(1)], lr=1.0, momentum=0.9)
    run = RunLength(lambda: length, "epochs")
    schedule = fitted(maker, run)(optimizer)
    if says is None:
        warn_of_unreached(schedule, run)
        return
    with pytest.warns(UserWarning, match="lr_scheduler: the run's ") as told:
        warn_of_unreached(schedule, run)
    (line,) = [str(each.message) for each in told]
    assert says in line
    warn_of_unreached(schedule, RunLength(lambda: length, "epochs", dry=True))


def test_a_fit_tells_it() -> None:
    model = small_model(lr_scheduler=partial(torchs.MultiStepLR, milestones=[2, 5]))
    with pytest.warns(UserWarning, match="the run's 3 epochs end before MultiStepLR's milestones 5"):
        fit(model)


class OwnSchedule(ImageClassifier):
    """Makes its optimizer and its schedule itself."""

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        schedule = torchs.MultiStepLR(optimizer, [8])
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


def test_a_module_that_makes_its_schedule_counts_as_it_says() -> None:
    """Three epochs of ten steps: the milestone at step 8 comes, which one at epoch 8 would not."""
    fit(OwnSchedule(small_net(), lr_interval="step", num_classes=3))
    with pytest.warns(UserWarning, match="the run's 3 epochs end before MultiStepLR's milestones 8"):
        fit(OwnSchedule(small_net(), num_classes=3))


def test_a_time_that_may_end_the_run_first_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr("lightning_optreg.classifier._run_schedule.rank_zero_info", told.append)
    fit(small_model(lr_scheduler=CosineAnnealingLR))
    fit(small_model(lr_scheduler=partial(torchs.StepLR, step_size=1)), max_time="00:01:00:00")
    fit(small_model(lr_scheduler=CosineAnnealingLR), Timer())
    assert told == []
    fit(small_model(lr_scheduler=CosineAnnealingLR), max_time="00:01:00:00")
    assert told == ["lr_scheduler: max_time may end the run before CosineAnnealingLR does, whose T_max is 3"]


# ---- runs that go on ---------------------------------------------------------------------------------------


def checkpoint(
    folder: Path, change: Callable[[dict[str, Any]], None] | None = None, **arguments: Any
) -> Path:
    """What a run of three epochs leaves after the first one."""
    trainer = trainer_for(max_epochs=3, callbacks=[Stop()])
    trainer.fit(small_model(**arguments), datamodule=TenBatches())
    trainer.save_checkpoint(folder / "a.ckpt")
    if change is not None:
        saved = torch.load(folder / "a.ckpt", weights_only=True)
        change(saved)
        torch.save(saved, folder / "a.ckpt")
    return folder / "a.ckpt"


FUNCTIONS: dict[str, tuple[Callable[[int], Any], str]] = {
    "alone": (
        lambda n: lambda o: CosineAnnealingLR(o, n),
        "CosineAnnealingLR has T_max=30, .* given one has 40",
    ),
    "a cycle": (
        lambda n: lambda o: OneCycleLR(o, 0.1, n),
        "OneCycleLR has total_steps=30, .* given one has 40",
    ),
    "in Warmup": (
        lambda n: partial(Warmup, schedule=lambda o: PolynomialLR(o, n)),
        "PolynomialLR has total_iters=30, .* given one has 40",
    ),
    "in SequentialLR": (
        lambda n: lambda o: torchs.SequentialLR(o, [torchs.ConstantLR(o), CosineAnnealingLR(o, n)], [5]),
        "CosineAnnealingLR has T_max=30, .* given one has 40",
    ),
    "in ChainedScheduler": (
        lambda n: lambda o: torchs.ChainedScheduler([torchs.ConstantLR(o), CosineAnnealingLR(o, n)]),
        "CosineAnnealingLR has T_max=30, .* given one has 40",
    ),
}


@pytest.mark.parametrize("case", FUNCTIONS)
def test_a_checkpoint_of_a_function_that_made_another_length(case: str, tmp_path: Path) -> None:
    make, says = FUNCTIONS[case]
    path = checkpoint(tmp_path, lr_scheduler=make(30), lr_interval="step")

    def model(length: int) -> ImageClassifier:
        return small_model(lr_scheduler=make(length), lr_interval="step")

    assert len(fit(model(30), ckpt_path=path)) == 20
    with pytest.raises(MisconfigurationException, match=f"checkpoint's {says}"):
        fit(model(40), ckpt_path=path, max_epochs=4)
    assert len(fit(model(40), ResetOptimizer(), ckpt_path=path, max_epochs=4)) == 30
    fit(model(40), ckpt_path=path, fast_dev_run=True)


CYCLES: list[tuple[Callable[..., Any], str | None]] = [
    (partial(Warmup, schedule=lambda o: OneCycleLR(o, 0.1, 6)), "the run's 7 steps after the warm-up, got 6"),
    (partial(Warmup, schedule=lambda o: OneCycleLR(o, 0.1, 7)), None),
    (
        lambda o: torchs.SequentialLR(o, [torchs.ConstantLR(o), OneCycleLR(o, 0.1, 8)], [3]),
        "the run's 9 steps after the first 3, got 8",
    ),
    (lambda o: torchs.SequentialLR(o, [OneCycleLR(o, 0.1, 4), torchs.ConstantLR(o)], [4]), None),
    (
        lambda o: torchs.SequentialLR(o, [OneCycleLR(o, 0.1, 4), torchs.ConstantLR(o)], [5]),
        "its 5 steps, got 4",
    ),
    (lambda o: torchs.ChainedScheduler([OneCycleLR(o, 0.1, 4)]), "the run's 12 steps, got 4"),
    (lambda o: torchs.SequentialLR(o, [torchs.ConstantLR(o), OneCycleLR(o, 0.1, 2)], [99]), None),
]


@pytest.mark.parametrize(("maker", "says"), CYCLES)
def test_a_cycle_anywhere_that_would_stop_the_run(maker: Callable[..., Any], says: str | None) -> None:
    optimizer = SGD([torch.zeros(1)], lr=1.0, momentum=0.9)
    made = maker(optimizer)
    if says is None:
        check_made(made, RunLength(lambda: 12, "steps"))
        for _ in range(11):
            optimizer.step()
            made.step()
        return
    with pytest.raises(MisconfigurationException, match=f"total_steps of OneCycleLR must be {says}"):
        check_made(made, RunLength(lambda: 12, "steps"))
    check_made(made, RunLength(lambda: 12, "steps", dry=True))


class Stop(Callback):
    """Ends the run with its first epoch."""

    def on_train_epoch_end(self, trainer: Trainer, *_: Any) -> None:
        trainer.should_stop = True


@pytest.mark.parametrize(
    ("maker", "interval"),
    [
        pytest.param(CosineAnnealingLR, "epoch", marks=pytest.mark.slow),
        (partial(OneCycleLR, max_lr=1.0), "step"),
        (WARMED, "epoch"),
    ],
)
def test_a_checkpoint_of_a_run_of_another_length(maker: Any, interval: Any, tmp_path: Path) -> None:
    def model() -> ImageClassifier:
        return small_model(lr_scheduler=maker, lr_interval=interval)

    path = checkpoint(tmp_path, lr_scheduler=maker, lr_interval=interval)
    alone = fit(model())
    assert fit(model(), ckpt_path=path) == alone[10:]
    for epochs in (4, 2):
        with pytest.raises(
            MisconfigurationException, match=r"the checkpoint's \w+ has \w+=\d+, but the run has \d"
        ):
            fit(model(), ckpt_path=path, max_epochs=epochs)
    assert fit(model(), ResetOptimizer(), ckpt_path=path, max_epochs=4) == fit(model(), max_epochs=4)[10:]
    loaded = ImageClassifier.load_from_checkpoint(path, net=small_model().net, lr_scheduler=maker)
    loaded.lr_interval = interval
    assert fit(loaded, max_epochs=2)[-1] == fit(model(), max_epochs=2)[-1]  # a run of its own


@pytest.mark.parametrize(
    "maker",
    [
        partial(torchs.StepLR, step_size=1),
        partial(torchs.ExponentialLR, gamma=0.9),
        partial(torchs.LinearLR, total_iters=2),
        partial(torchs.CosineAnnealingWarmRestarts, T_0=1),
        partial(Warmup, warmup=1),
        lambda optimizer: CosineAnnealingLR(optimizer, 2),
    ],
)
def test_where_nothing_is_sized_a_run_may_be_made_longer(maker: Any, tmp_path: Path) -> None:
    path = checkpoint(tmp_path, lr_scheduler=maker)
    assert len(fit(small_model(lr_scheduler=maker), ckpt_path=path, max_epochs=5)) == 40


def test_a_checkpoint_from_before_lengths_were_checked(tmp_path: Path) -> None:
    def forget(saved: dict[str, Any]) -> None:
        del saved["schedule_length"]

    def age(saved: dict[str, Any]) -> None:
        forget(saved)
        saved["lr_schedulers"][0]["T_max"] = T_max

    T_max = 3  # noqa: N806  # torch's name
    path = checkpoint(tmp_path, age, lr_scheduler=CosineAnnealingLR)
    for given in (None, 3):
        assert (
            len(fit(small_model(lr_scheduler=partial(CosineAnnealingLR, T_max=given)), ckpt_path=path)) == 20
        )
    path = checkpoint(tmp_path, forget, lr_scheduler=CYCLE, lr_interval="step")
    model = small_model(lr_scheduler=partial(CYCLE, total_steps=30), lr_interval="step")
    with pytest.raises(MisconfigurationException, match="must be the run's 40 steps, got 30: leave it out"):
        fit(model, ckpt_path=path, max_epochs=4)  # it would stop
    T_max = 8  # noqa: N806
    path = checkpoint(tmp_path, age, lr_scheduler=CosineAnnealingLR)
    for given, says in ((None, "has T_max=8, but the run has 3"), (5, "must be the run's 3 epochs, got 5")):
        with pytest.raises(MisconfigurationException, match=says):
            fit(small_model(lr_scheduler=partial(CosineAnnealingLR, T_max=given)), ckpt_path=path)
    model = small_model(lr_scheduler=partial(CosineAnnealingLR, T_max=8))
    assert len(fit(model, ckpt_path=path)) == 20  # the same setting goes on
    again: dict[str, Any] = {"hyper_parameters": {}}
    model.on_save_checkpoint(again)
    assert "schedule_length" not in again  # and can be resumed again


def test_a_checkpoint_of_a_schedule_that_was_carried_on_to_another_optimizer() -> None:
    inner = {"schedule": {"T_max": 11}, "warmup": 1}
    run = RunLength(lambda: 12, "epochs", saved={"schedule": inner, "scales": [1.0], "groups": []})
    assert fitted(WARMED, run).keywords["schedule"].keywords == {"T_max": 11}
    assert fitted(partial(WARMED, warmup=3), run).keywords["schedule"].keywords == {"T_max": 9}  # the other's
    run = RunLength(lambda: 13, "epochs", saved=run.saved)
    with pytest.raises(
        MisconfigurationException, match="has T_max=11, but the run has 12 epochs after the warm"
    ):
        fitted(WARMED, run)


def test_a_dry_run_takes_any_checkpoint(tmp_path: Path) -> None:
    path = checkpoint(tmp_path, lr_scheduler=CosineAnnealingLR)
    fit(small_model(lr_scheduler=CosineAnnealingLR), ckpt_path=path, fast_dev_run=True)


def test_a_configuration_without_lengths_can_be_built_without_a_run() -> None:
    inner = {"class_path": "CosineAnnealingLR", "init_args": {"T_max": None}}
    spec = {"class_path": "Warmup", "init_args": {"schedule": inner, "warmup": 2}}
    assert with_lengths(spec, 18)["init_args"]["schedule"]["init_args"] == {"T_max": 16}
    assert inner["init_args"] == {"T_max": None}
    for other in (None, "StepLR", {"class_path": "StepLR"}):
        assert with_lengths(other, 18) == other
