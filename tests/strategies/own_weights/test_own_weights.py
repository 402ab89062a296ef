"""What strategies share whose workers have weights of their own: what is seen, sent, saved and refused."""

import copy
import math
import os
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import (
    EMAWeightAveraging,
    LearningRateFinder,
    ModelCheckpoint,
    ModelPruning,
    OnExceptionCheckpoint,
    StochasticWeightAveraging,
)
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor, nn
from torch.optim import LBFGS, SGD, Adam

from lightning_optreg.callbacks import ExactResume
from tests.processes import ddp, needs_gloo
from tests.resume_tools import assert_identical
from tests.small_runs import quiet_trainer
from tests.strategies.own_weights._marching import (
    Net,
    Numbers,
    Validated,
    elastic,
    fit,
    in_forks,
    local,
    own_of,
)

pytestmark = needs_gloo

MOMENTUM = partial(SGD, lr=0.05, momentum=0.9)
BYTES = 3 * 8  # of a Net's weights in float64


def differ(tensor: Tensor) -> bool:
    """Whether a tensor differs between the two processes."""
    both = [torch.empty_like(tensor) for _ in range(2)]
    dist.all_gather(both, tensor.detach().contiguous())
    return not torch.equal(*both)


def weights_of(module: LightningModule) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


class Sees(Callback):
    """What a user's callback sees: common weights in a validation and at the end, own ones in training."""

    def __init__(self) -> None:
        self.own: list[dict[str, Tensor]] = []
        self.common: list[dict[str, Tensor]] = []
        self.differ: list[bool] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        self.own.append(weights_of(pl_module))
        self.differ.append(differ(next(pl_module.parameters())))

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        if self.own:  # a validation in between has left no trace
            assert_identical(weights_of(pl_module), self.own[-1])

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.common.append(weights_of(pl_module))
        assert not any(differ(value.float()) for value in pl_module.state_dict().values())

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert_identical(weights_of(pl_module), self.common[-1])

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.on_validation_start(trainer, pl_module)


def what_is_seen(rank: int, folder: Path) -> None:
    for strategy in (elastic(period=2), local(period=3), local(period=3, outer_optimizer=MOMENTUM)):
        sees = Sees()
        net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
        module = Validated(MOMENTUM, net, torch.float32)
        trainer = fit(module, strategy, rank, sees, validate=True, val_check_interval=2, max_epochs=2)
        assert sees.differ.count(True) >= 4
        assert len(sees.common) == 6  # the sanity check, four validations, the end
        assert_identical(sees.common[-1], weights_of(module))
        # the mean of what each trains with; each has seen 8 batches
        mean = sees.own[-1]["net.1.running_mean"].double()
        dist.all_reduce(mean)
        assert torch.equal(module.state_dict()["net.1.running_mean"], (mean / 2).float())
        assert module.state_dict()["net.1.num_batches_tracked"] == 8
        kept = own_of(trainer, folder, rank)
        if rank == 0:
            assert torch.equal(kept[0]["net.0.weight"], sees.own[-1]["net.0.weight"])
            assert not torch.equal(kept[1]["net.0.weight"], sees.own[-1]["net.0.weight"])


def what_is_sent(rank: int, folder: Path) -> None:
    """An all-reduce of the trained weights every tau optimizer steps."""
    for strategy, exchanges in ((elastic(period=3), 3), (local(period=3), 2)):  # at t = 0, 3, 6; after 3, 6
        fit(Net(MOMENTUM), strategy, rank, batches=8)
        assert strategy.bytes == exchanges * BYTES
    strategy = local(period=3)
    fit(Net(MOMENTUM), strategy, rank, batches=8, accumulate_grad_batches=2, gradient_clip_val=0.1)
    assert strategy.bytes == BYTES  # 4 steps
    module = Net(partial(LBFGS, lr=0.5, max_iter=3))
    strategy = local(period=3)
    fit(module, strategy, rank, batches=8)
    assert strategy.bytes == 2 * BYTES
    loss = partial(Net.training_step, batch=Numbers(rank).batches[0], batch_idx=0)
    assert float(loss(module)) < 1e-3 * float(loss(Net(LBFGS)))


class TwoOptimizers(LightningModule):
    """Manual optimization: the second optimizer makes a step after every second batch."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        torch.manual_seed(5)
        self.first, self.second = nn.Linear(3, 1).double(), nn.Linear(3, 2).double()

    def training_step(self, batch: Tensor, batch_idx: int) -> None:
        first, second = self.optimizers()  # type: ignore[attr-defined]
        for optimizer, layer, every in ((first, self.first, 1), (second, self.second, 2)):
            if batch_idx % every == 0:
                optimizer.zero_grad()
                self.manual_backward((layer(batch).sum(-1) - batch.sum(-1)).square().mean())
                optimizer.step()

    def configure_optimizers(self) -> Any:
        return [SGD(self.first.parameters(), lr=0.1), Adam(self.second.parameters(), lr=0.1)]


def steps_of_each_optimizer(rank: int, folder: Path) -> None:
    strategy = local(period=2)
    module = TwoOptimizers()
    fit(module, strategy, rank, batches=6)  # 6 and 3 steps
    assert strategy.bytes == 3 * 4 * 8 + 1 * 8 * 8


class Unfreezes(Callback):
    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        pl_module.net[0].requires_grad_(batch_idx >= 3)


def unfrozen_layers(rank: int, folder: Path) -> None:
    for strategy in (elastic(period=2), local(period=2), local(period=2, outer_optimizer=MOMENTUM)):
        module = Net(MOMENTUM, nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1)))
        before = weights_of(module)
        trainer = fit(module, strategy, rank, Unfreezes(), batches=8)
        own = own_of(trainer, folder, rank)
        if rank == 0:
            assert own[0].keys() == {f"net.{layer}.{name}" for layer in (0, 1) for name in ("weight", "bias")}
            assert not torch.equal(own[0]["net.0.weight"], before["net.0.weight"])
        assert not torch.equal(module.state_dict()["net.0.weight"], before["net.0.weight"])
        assert not any(differ(value) for value in module.state_dict().values())
        frozen, late = (4 * 8, 12 * 8 + 4 * 8)
        exchanges = [0, 2, 4, 6] if strategy.log_name == "elastic_averaging" else [1, 3, 5, 7]
        assert strategy.bytes == sum(frozen if step < 3 else late for step in exchanges)


class Overflows(Net):
    """Losses of which that of process 1 is infinite at a step, so that its scaler skips it."""

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        return loss * math.inf if batch_idx == 1 and self.global_rank == 1 else loss


def a_scaler_that_skips(rank: int, folder: Path) -> None:
    for make in (partial(elastic, period=2), partial(local, period=2)):
        strategy, module = make(), Overflows(MOMENTUM, dtype=torch.float32)
        precision = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=64.0))
        trainer = fit(module, strategy, rank, batches=4, plugins=[precision])
        assert strategy.bytes == 2 * 12
        assert precision.scaler is not None
        assert precision.scaler.get_scale() == (64.0 if rank == 0 else 32.0)
        trainer.save_checkpoint(folder / "scaled.ckpt")
        assert all(value.isfinite().all() for value in module.state_dict().values())
        # each goes on with its own scale
        precision = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=64.0))
        again = Net(MOMENTUM, dtype=torch.float32)
        fit(again, make(), rank, plugins=[precision], max_epochs=2, ckpt_path=folder / "scaled.ckpt")
        assert precision.scaler is not None
        assert precision.scaler.get_scale() == (64.0 if rank == 0 else 32.0)
    module = Net(MOMENTUM, dtype=torch.float32)
    fit(module, elastic(period=2), rank, precision="bf16-mixed")
    assert not any(differ(value) for value in module.state_dict().values())


def checkpoints_of_others(rank: int, folder: Path) -> None:
    """An ordinary checkpoint is continued, and one of these strategies is an ordinary one."""
    path = folder / "other.ckpt"
    fit(Net(MOMENTUM), ddp(), rank).save_checkpoint(path)
    for strategy in (elastic(), local(), local(outer_optimizer=MOMENTUM)):
        trainer = fit(Net(MOMENTUM), strategy, rank, max_epochs=2, ckpt_path=path)
        assert trainer.global_step == 8
        here = folder / f"{id(strategy)}.ckpt" if rank == 0 else folder / "unused.ckpt"
        here = trainer.strategy.broadcast(here)
        trainer.save_checkpoint(here)
        common = weights_of(trainer.lightning_module)
        assert_identical(weights_of(Net.load_from_checkpoint(here, optimizer=MOMENTUM)), common)
        module = Validated(MOMENTUM)
        tester = quiet_trainer(strategy=type(strategy)(), devices=2)
        tester.validate(module, Numbers(rank), ckpt_path=here, verbose=False)
        assert_identical(weights_of(module), common)
        module = Net(MOMENTUM)
        fit(module, ddp(), rank, max_epochs=3, ckpt_path=here)
        assert not any(differ(value) for value in module.state_dict().values())


def an_exception(rank: int, folder: Path) -> None:
    class Ends(Callback):
        def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
            self.own = weights_of(pl_module)
            if batch_idx == 3:
                raise RuntimeError("the end")

    for strategy in (elastic(period=2), local(period=2, outer_optimizer=MOMENTUM), local(period=2)):
        module, ends = Net(MOMENTUM), Ends()
        with pytest.raises(RuntimeError, match="the end"):
            fit(module, strategy, rank, ends)
        # the centre is left; the mean would have to be asked for
        alike = not differ(module.net.weight.detach().clone())
        assert alike is strategy.is_local
        if not alike:
            assert_identical(weights_of(module), ends.own)


class Taught(Net):
    """With a mean teacher, which a hook moves, and a frozen layer, which nothing moves."""

    def __init__(self) -> None:
        super().__init__(MOMENTUM)
        self.teacher = copy.deepcopy(self.net).requires_grad_(False)
        self.frozen = nn.Linear(3, 1).double().requires_grad_(False)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return super().training_step(batch, batch_idx) + (self.net(batch) - self.teacher(batch)).abs().mean()

    def on_train_batch_end(self, *args: Any) -> None:
        self.teacher.weight.data.lerp_(self.net.weight.data, 0.3)


def a_teacher_that_no_optimizer_trains(rank: int, folder: Path) -> None:
    """It is each worker's own; a resumed run has it back, bit for bit, and equal weights cost nothing."""
    for make in (partial(elastic, period=2), partial(local, period=3)):
        straight = Taught()
        fit(straight, make(), rank, max_epochs=3)
        assert differ(straight.teacher.weight)
        path = folder / f"{make().log_name}.ckpt"
        fit(Taught(), make(), rank).save_checkpoint(path)
        if rank == 0:
            saved = torch.load(path, weights_only=True)
            assert list(saved["workers"]["different"]) == ["teacher.weight"]
            first, _ = saved["workers"]["different"]["teacher.weight"]
            assert torch.equal(saved["state_dict"]["teacher.weight"], first)
        resumed = Taught()
        fit(resumed, make(), rank, max_epochs=3, ckpt_path=path)
        assert_identical(weights_of(resumed), weights_of(straight))


class FailsInOne(Callback):
    """Fails in one process only, within a step, while the other goes on."""

    def __init__(self, rank: int) -> None:
        self.rank = rank

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.global_rank == self.rank and trainer.global_step == 7:
            raise RuntimeError("of one only")


def fails_in_one(rank: int, folder: Path, make: Callable[[], Any], failing: int) -> None:
    exact = [ExactResume()] if failing else []
    save = ModelCheckpoint(
        *(folder, "{step}"),
        save_last=True,
        save_on_exception=True,
        every_n_train_steps=3,
        enable_version_counter=False,
    )
    callbacks = [
        save,
        OnExceptionCheckpoint(folder),
        FailsInOne(failing),
        *exact,
    ]
    path = folder / "last.ckpt"
    said = f"no checkpoint is saved after the exception, .* continue from {path}"
    begun = time.monotonic()
    with (
        pytest.warns(UserWarning, match=said) if rank == 0 else nullcontext(),
        pytest.raises(RuntimeError) as caught,
    ):
        fit(Net(MOMENTUM), make(), rank, *callbacks, batches=100, enable_checkpointing=True)
    # the one that fails last has lost its connection
    assert ("of one only" in str(caught.value)) == (rank == failing), caught.value
    assert time.monotonic() - begun < 10.0
    assert save.save_on_exception  # as before
    if rank == 0:
        assert torch.load(path, weights_only=True)["global_step"] == 6
        assert not (folder / "on_exception.ckpt").exists()
        assert len(list(folder.glob("*.ckpt"))) == 2
    (folder / f"ended{rank}").touch()
    if rank == failing:
        os._exit(0)  # the other, which waits for it, is to hear of its end


@pytest.mark.parametrize(
    ("make", "failing"),
    [
        (partial(elastic, period=1), 0),
        (local, 1),
        pytest.param(partial(local, outer_optimizer=MOMENTUM), 0, marks=pytest.mark.slow),
    ],
)
def test_an_exception_in_one_process_ends_all_and_saves_nothing(
    make: Callable[[], Any], failing: int, tmp_path: Path
) -> None:
    in_forks(2, fails_in_one, tmp_path, make, failing)
    assert all((tmp_path / f"ended{rank}").exists() for rank in range(2))


def a_search_for_the_rate(rank: int, folder: Path) -> None:
    """LearningRateFinder goes back to the start, of each worker's weights too."""

    class Search(LearningRateFinder):
        def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            before = weights_of(pl_module)
            super().on_fit_start(trainer, pl_module)
            assert_identical(weights_of(pl_module), before)

    class Rated(Net):
        def __init__(self) -> None:
            super().__init__(SGD)
            self.lr = 0.1

        def configure_optimizers(self) -> Any:
            return SGD(self.parameters(), lr=self.lr)

    for strategy in (elastic(period=2), local(period=2)):
        module = Rated()
        fit(module, strategy, rank, Search(num_training_steps=5, update_attr=False), default_root_dir=folder)
        assert strategy.bytes == 2 * BYTES


def refusals(rank: int, folder: Path) -> None:
    for callback in (
        StochasticWeightAveraging(0.1),
        EMAWeightAveraging(),
        ModelPruning("l1_unstructured", amount=0.5, parameters_to_prune=None),
    ):
        with pytest.raises(
            MisconfigurationException, match=f"weights of their own, but {type(callback).__name__}"
        ):
            fit(Net(MOMENTUM), elastic(), rank, callback)
    with pytest.raises(MisconfigurationException, match="lazy layers"):
        fit(Lazy(), local(), rank)
    stray = nn.Parameter(torch.zeros(1))
    with pytest.raises(MisconfigurationException, match=r"1 parameter\(s\) that are not the module's"):
        fit(Net(lambda parameters: SGD([*parameters, stray], lr=0.1)), local(), rank)


class Lazy(Net):
    def __init__(self) -> None:
        super().__init__(MOMENTUM)
        self.more = nn.LazyLinear(2)


SCENES = {
    scene.__name__: scene
    for scene in (
        what_is_seen,
        what_is_sent,
        steps_of_each_optimizer,
        unfrozen_layers,
        a_scaler_that_skips,
        checkpoints_of_others,
        an_exception,
        a_teacher_that_no_optimizer_trains,
        a_search_for_the_rate,
        refusals,
    )
}


RARER = ("a_scaler_that_skips", "a_teacher_that_no_optimizer_trains", "unfrozen_layers")


@pytest.mark.parametrize(
    "scene", [pytest.param(scene, marks=[pytest.mark.slow] * (scene in RARER)) for scene in SCENES]
)
def test_two_processes(scene: str, tmp_path: Path) -> None:
    in_forks(2, SCENES[scene], tmp_path)


class Diary(Callback):
    """The weights of process 0 before each batch, by step, and all warnings."""

    def __init__(self) -> None:
        self.weights: dict[int, Tensor] = {}

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.weights[trainer.global_step] = pl_module.net.weight.detach().clone()


def two_processes(rank: int, folder: Path) -> None:
    trainer = fit(Net(MOMENTUM), elastic(period=2), rank, ExactResume(), batches=5)
    own_of(trainer, folder, rank)


def goes_on_alone(rank: int, folder: Path) -> None:
    centre = torch.load(folder / "own.ckpt", weights_only=True)["state_dict"]["net.weight"]
    for strategy, count, name in (
        (elastic(), 1, "ElasticAveraging"),
        (local(), 1, "LocalSGD"),
    ):
        diary = Diary()
        with pytest.warns(
            UserWarning,
            match=rf"{name}: the checkpoint has the weights of 2 worker\(s\) of ElasticAveraging, this run "
            rf"has {count} of {name}; all start from the common weights",
        ):
            fit(
                *(Net(MOMENTUM), strategy, rank, diary),
                devices=1,
                max_epochs=2,
                ckpt_path=folder / "own.ckpt",
            )
        assert torch.equal(diary.weights[5], centre)


def test_another_number_of_processes_starts_from_the_centre_with_a_warning(tmp_path: Path) -> None:
    in_forks(2, two_processes, tmp_path)
    in_forks(1, goes_on_alone, tmp_path)
