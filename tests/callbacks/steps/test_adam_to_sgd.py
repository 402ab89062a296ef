"""AdamToSGD switches at the right moment, to the right rate, and a resumed run never notices."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.plugins import MixedPrecision
from torch.optim import SGD, Adam, AdamW, Optimizer, lr_scheduler

from lightning_optreg.callbacks import AdamToSGD, ExactResume, ResetOptimizer
from lightning_optreg.loggers import RunCSVLogger
from lightning_optreg.optimizers import SWATS
from tests.contracts.runs import checkpoint_every_step
from tests.processes import needs_gloo
from tests.resume_tools import Regression, StatefulLoader, assert_identical, final_state, spoil_random_state
from tests.small_runs import Diary, quiet_trainer


class Plain(LightningModule):
    """Regression without noise in float64, with the optimizer and schedule that it is given."""

    def __init__(self, optimizer: Any, scheduler: Any = None, **config: Any) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.weight = torch.nn.Parameter(torch.randn(5, 3, generator=generator, dtype=torch.float64))
        self.last = torch.nn.Parameter(torch.randn(3, 1, generator=generator, dtype=torch.float64))
        self.optimizer, self.scheduler, self.config = optimizer, scheduler, config
        self.rates: list[float] = []
        self.kinds: list[str] = []

    def loss(self, batch: Any) -> torch.Tensor:
        x, y = (part.double() for part in batch)
        return (torch.tanh(x @ self.weight) @ self.last - y).square().mean()

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        optimizer = self.trainer.optimizers[0]
        self.rates.append(float(optimizer.param_groups[0]["lr"]))
        self.kinds.append(type(optimizer).__name__)
        loss = self.loss(batch)
        self.log("train_loss", loss, on_epoch=True, on_step=False)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.loss(batch))

    def configure_optimizers(self) -> Any:
        optimizer = self.optimizer(self.parameters())
        if self.scheduler is None:
            return optimizer
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": self.scheduler(optimizer), **self.config},
        }


def fit(
    module: LightningModule, callbacks: list[Callback], ckpt_path: Path | None = None, **options: Any
) -> Trainer:
    trainer = quiet_trainer(callbacks=callbacks, **{"max_epochs": 2, **options})
    trainer.fit(module, StatefulLoader(), StatefulLoader(2), ckpt_path=ckpt_path)
    return trainer


def test_from_the_start_it_is_sgd() -> None:
    switched, plain = Regression(adam=True), Regression()
    plain.load_state_dict(switched.state_dict())
    seed_everything(1, verbose=False)
    fit(switched, [AdamToSGD(at_step=0, lr=0.05, weight_decay=0.0)])
    seed_everything(1, verbose=False)
    fit(plain, [])
    assert_identical(dict(plain.state_dict()), dict(switched.state_dict()))


@pytest.mark.parametrize("weight_decay", [None, 0.01])
def test_equals_adam_and_then_sgd_by_hand(weight_decay: float | None) -> None:
    module = Plain(lambda p: Adam(p, lr=0.02, weight_decay=0.1))
    by_hand = copy.deepcopy(module)
    when = AdamToSGD(at_step=4, lr=0.01, momentum=0.8, nesterov=True, weight_decay=weight_decay)
    fit(module, [when])
    assert module.kinds == ["Adam"] * 4 + ["SGD"] * 8
    loader, step = StatefulLoader(), 0
    optimizer: Optimizer = Adam(by_hand.parameters(), lr=0.02, weight_decay=0.1)
    for epoch in range(2):
        loader.set_epoch(epoch)
        for batch in loader:
            if step == 4:
                decay = 0.1 if weight_decay is None else weight_decay
                optimizer = SGD(by_hand.parameters(), 0.01, 0.8, nesterov=True, weight_decay=decay)
            optimizer.zero_grad()
            by_hand.loss(batch).backward()
            optimizer.step()
            step += 1
    assert_identical(dict(by_hand.state_dict()), dict(module.state_dict()))


def test_at_epoch_and_after_a_plateau() -> None:
    module = Plain(lambda p: Adam(p, lr=0.02))
    fit(module, [AdamToSGD(at_epoch=1, lr=0.01)])
    assert module.kinds == ["Adam"] * 6 + ["SGD"] * 6
    # Adam at rate 0 improves nothing: the first validation counts, two more without improvement follow.
    module = Plain(lambda p: Adam(p, lr=0.0))
    fit(module, [AdamToSGD(monitor="val_loss", patience=2, min_delta=1e-9, lr=0.01)], max_epochs=4)
    assert module.kinds == ["Adam"] * 18 + ["SGD"] * 6
    module = Plain(lambda p: Adam(p, lr=0.0))
    fit(
        module, [AdamToSGD(monitor="val_loss", mode="max", patience=1, min_delta=1e-9, lr=0.01)], max_epochs=3
    )
    assert module.kinds == ["Adam"] * 12 + ["SGD"] * 6


@pytest.mark.parametrize(
    ("when", "says"),
    [
        ({"at_epoch": 2}, "2 epochs end before at_epoch 2"),
        ({"at_step": 12}, "12 steps end before at_step 12"),
    ],
)
def test_a_switch_that_the_run_does_not_get_to(when: dict[str, int], says: str) -> None:
    module = Plain(lambda p: Adam(p, lr=0.02))
    with pytest.warns(UserWarning, match=f"^AdamToSGD: the run's {says}$"):
        fit(module, [AdamToSGD(**when)])
    assert module.kinds == ["Adam"] * 12


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_by_criterion_it_is_swats(weight_decay: float) -> None:
    options: dict[str, Any] = {"lr": 0.02, "betas": (0.8, 0.9), "eps": 1e-9, "weight_decay": weight_decay}
    callback = AdamToSGD(momentum=0.8, tolerance=3e-3)
    first = Plain(lambda p: Adam(p, **options))
    second = Plain(lambda p: SWATS(p, switch_eps=3e-3, **options))
    fit(first, [callback], max_epochs=4)
    trainer = fit(second, [], max_epochs=4)
    swats = trainer.optimizers[0]
    assert isinstance(swats, SWATS)
    assert callback.switched
    assert swats.phase == "sgd"
    assert 2 < first.kinds.count("Adam") < 22
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        # Their Adams round differently: eps is added to another denominator.
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8)


def test_decoupled_decay_is_no_part_of_adams_step() -> None:
    rates = []
    for optimizer in (AdamW, Adam):
        module = Plain(lambda p, make=optimizer: make(p, lr=1e-6, weight_decay=0.1 * (make is AdamW)))
        callback = AdamToSGD(tolerance=1e-12)
        fit(module, [callback])
        rates.append(callback._estimate.rate(beta2=0.999))
    assert rates[0] == pytest.approx(rates[1], rel=1e-4)


def schedules() -> dict[str, tuple[Any, dict[str, Any]]]:
    return {
        "cosine": (lambda o: lr_scheduler.CosineAnnealingLR(o, 9, eta_min=1e-3), {"interval": "step"}),
        "exponential": (lambda o: lr_scheduler.ExponentialLR(o, 0.5), {"interval": "epoch"}),
        "one_cycle": (lambda o: lr_scheduler.OneCycleLR(o, 0.02, total_steps=13), {"interval": "step"}),
        "warm_restarts": (lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 4), {"interval": "step"}),
        "sequential": (
            lambda o: lr_scheduler.SequentialLR(
                o, [lr_scheduler.ConstantLR(o, 0.5, 2), lr_scheduler.StepLR(o, 3, 0.5)], [5]
            ),
            {"interval": "step"},
        ),
        "plateau": (
            lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=0, threshold=10.0),
            {"interval": "epoch", "monitor": "val_loss"},
        ),
    }


@pytest.mark.parametrize("name", schedules())
def test_schedules_go_on(name: str) -> None:
    scheduler, config = schedules()[name]
    options: dict[str, Any] = {"max_epochs": 3, "limit_train_batches": 4}
    adam = Plain(lambda p: Adam(p, lr=0.02), scheduler, **config)
    fit(adam, [], **options)
    switched = Plain(lambda p: Adam(p, lr=0.02), scheduler, **config)
    fit(switched, [AdamToSGD(at_step=3, lr=0.3)], **options)
    scale = 0.3 / adam.rates[3]
    assert switched.rates == pytest.approx([*adam.rates[:3], *(scale * rate for rate in adam.rates[3:])])
    assert len(set(switched.rates)) > 2


def test_a_schedule_at_rate_zero_is_refused() -> None:
    module = Plain(
        lambda p: Adam(p, lr=0.02), lambda o: lr_scheduler.LambdaLR(o, lambda t: t / 9), interval="step"
    )
    with pytest.raises(MisconfigurationException, match=r"^AdamToSGD: a schedule can't continue"):
        fit(module, [AdamToSGD(at_step=0, lr=0.1)])


TRIGGERS: dict[str, dict[str, Any]] = {
    "step": {"at_step": 4},
    "epoch": {"at_epoch": 1, "lr": 0.02},
    "plateau": {"monitor": "val_loss", "patience": 1, "min_delta": 100.0, "lr": 0.02},
    "swats": {"tolerance": 0.05},
}


@pytest.mark.parametrize(
    ("trigger", "schedule"),
    [
        pytest.param(
            trigger,
            schedule,
            marks=[] if schedule == "cosine_step" and trigger in ("step", "swats") else pytest.mark.slow,
        )
        for trigger in TRIGGERS
        for schedule in ("none", "cosine_epoch", "plateau_epoch", "cosine_step")
    ],
)
def test_resumes_before_at_and_after_the_switch(trigger: str, schedule: str, tmp_path: Path) -> None:
    def run(ckpt_path: Path | None = None, saver: Callback | None = None) -> tuple[Any, Diary, AdamToSGD]:
        callback, diary = AdamToSGD(**TRIGGERS[trigger]), Diary()
        module = Regression(schedule, adam=True)
        callbacks = [ExactResume(), callback, *([] if saver is None else [saver])]
        saving = saver is not None
        trainer = fit(module, callbacks, ckpt_path, max_epochs=3, logger=diary, enable_checkpointing=saving)
        return final_state(trainer, module), diary, callback

    seed_everything(1, verbose=False)
    straight, diary, callback = run(saver=checkpoint_every_step(tmp_path))
    assert callback.switched
    switch = min(step for step, name in diary.values if name == "optreg/adam_to_sgd/lr")
    for step in {1, switch - 1, switch, switch + 1, 6, 12, 14} - {0, -1}:
        spoil_random_state()
        resumed, later, _ = run(tmp_path / f"step={step}.ckpt")
        assert_identical(straight, resumed)
        assert later.values.items() <= diary.values.items()


OPTIONS: dict[str, Any] = {
    "accumulate": lambda: {"accumulate_grad_batches": 2},
    "clipping": lambda: {"gradient_clip_val": 0.1},
    "bf16": lambda: {"precision": "bf16-mixed"},
    "scaler": lambda: {"plugins": MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))},
}


@pytest.mark.filterwarnings(
    "ignore:Detected call of `lr_scheduler.step"
)  # the scaler's first steps are skipped
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in ("accumulate", "scaler") else pytest.mark.slow)
        for name in OPTIONS
    ],
)
def test_resumes_with(name: str, tmp_path: Path) -> None:
    def run(ckpt_path: Path | None = None, saver: Callback | None = None) -> Any:
        callback = AdamToSGD(at_step=3)
        callbacks = [ExactResume(), callback, *([] if saver is None else [saver])]
        module = Regression("cosine_step", adam=True)
        trainer = fit(module, callbacks, ckpt_path, enable_checkpointing=saver is not None, **OPTIONS[name]())
        assert callback.switched
        assert isinstance(trainer.optimizers[0], SGD)
        return final_state(trainer, module)

    seed_everything(1, verbose=False)
    straight = run(saver=checkpoint_every_step(tmp_path))
    for step in (2, 3, 5):
        spoil_random_state()
        assert_identical(straight, run(tmp_path / f"step={step}.ckpt"))


@pytest.mark.filterwarnings("ignore:ExactResume. the checkpoint was saved without ExactResume")
def test_resumed_run_can_reset_the_optimizer(tmp_path: Path) -> None:
    module = Regression("cosine_step", adam=True)
    fit(module, [AdamToSGD(at_step=3), checkpoint_every_step(tmp_path)], enable_checkpointing=True)
    module = Regression("cosine_step", adam=True)
    callbacks = [ExactResume(), AdamToSGD(at_step=3), ResetOptimizer()]
    trainer = fit(module, callbacks, tmp_path / "step=5.ckpt")
    assert isinstance(trainer.optimizers[0], SGD)


def test_fits_twice() -> None:
    callback = AdamToSGD(at_step=2, lr=0.01)
    for _ in range(2):
        module = Plain(lambda p: Adam(p, lr=0.02))
        fit(module, [callback])
        assert module.kinds == ["Adam"] * 2 + ["SGD"] * 10


@pytest.mark.filterwarnings("ignore:You are using `LearningRateMonitor` callback with models that")
@pytest.mark.parametrize("schedule", ["none", "cosine_step"])
def test_learning_rate_monitor(schedule: str) -> None:
    diary = Diary()
    callbacks = [LearningRateMonitor("step"), AdamToSGD(at_step=3, lr=0.1)]
    fit(Regression(schedule, adam=True), callbacks, logger=diary)
    rates = {step: value for (step, name), value in diary.values.items() if name.startswith("lr-")}
    assert rates[2] < 0.02
    assert rates[4] > 0.09


class ManualAdams(BoringModel):
    """Manual optimization with SGD for one layer and Adam for the other."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.other = torch.nn.Linear(2, 2)
        self.kinds: list[list[str]] = []

    def training_step(self, batch: Any, batch_idx: int) -> None:
        self.kinds.append([type(optimizer.optimizer).__name__ for optimizer in self.optimizers()])
        for optimizer in self.optimizers():
            optimizer.zero_grad()
            self.manual_backward(self.other(self.layer(batch)).square().mean())
            optimizer.step()

    def configure_optimizers(self) -> Any:
        return [SGD(self.layer.parameters(), lr=0.01), Adam(self.other.parameters(), lr=0.01)]


def test_manual_optimization_with_several_optimizers() -> None:
    module = ManualAdams()
    # global_step counts the steps of all optimizers
    trainer = quiet_trainer(
        callbacks=[AdamToSGD(at_step=4, optimizer_index=1)],
        max_epochs=1,
        limit_train_batches=4,
        limit_val_batches=0,
    )
    trainer.fit(module)
    assert module.kinds == [["SGD", "Adam"]] * 2 + [["SGD", "SGD"]] * 2
    with pytest.raises(
        MisconfigurationException, match="optimizer_index must be < 2, the number of optimizers, got 2"
    ):
        fit(ManualAdams(), [AdamToSGD(optimizer_index=2)])


def test_unknown_monitor() -> None:
    module = Plain(lambda p: Adam(p, lr=0.02))
    with pytest.raises(MisconfigurationException, match="monitor 'val_los' is not among the logged values"):
        fit(module, [AdamToSGD(monitor="val_los")])


class RanksAgree(Callback):
    """Compare switches and weights of two processes at the end."""

    def __init__(self, switch: AdamToSGD, folder: Path) -> None:
        self.switch, self.folder = switch, folder

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert self.switch.switched
        optimizer = trainer.optimizers[0]
        assert isinstance(optimizer, SGD)
        weights = torch.cat([p.detach().flatten() for p in pl_module.parameters()])
        mine = torch.cat((weights, torch.tensor([optimizer.param_groups[0]["lr"]])))
        everyone = [torch.empty_like(mine) for _ in range(trainer.world_size)]
        torch.distributed.all_gather(everyone, mine)
        assert all(torch.equal(other, mine) for other in everyone)
        (self.folder / f"rank{trainer.global_rank}").touch()


@pytest.mark.filterwarnings("ignore:It is recommended to use .*sync_dist=True")
@needs_gloo
@pytest.mark.parametrize("trigger", [pytest.param("plateau", marks=pytest.mark.slow), "swats"])
def test_two_processes_decide_together(trigger: str, tmp_path: Path) -> None:
    """The ranks see other batches and log other values: `val_loss` is not reduced here."""
    callback = AdamToSGD(**TRIGGERS[trigger])
    module = Regression("cosine_epoch", adam=True)
    fit(module, [callback, RanksAgree(callback, tmp_path)], strategy="ddp_fork", devices=2, max_epochs=3)
    assert {path.name for path in tmp_path.glob("rank*")} == {"rank0", "rank1"}


def test_an_error_ends_the_measuring() -> None:
    class Fails(Callback):
        def on_train_batch_end(self, *args: Any) -> None:
            raise RuntimeError("enough")

    module = Plain(None)
    adam = Adam(module.parameters(), lr=1e-3)
    module.configure_optimizers = lambda: adam  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="enough"):
        fit(module, [AdamToSGD(), Fails()])
    assert not adam._optimizer_step_post_hooks


@pytest.mark.parametrize("log_every_n_steps", [1, 4])
def test_a_resumed_epoch_keeps_the_rate_at_the_switch_in_its_table(
    log_every_n_steps: int, tmp_path: Path
) -> None:
    """It is logged once, at step 8 of an epoch that a checkpoint after step 9 divides."""

    class Kill(Callback):
        def on_train_batch_start(self, trainer: Trainer, *args: Any) -> None:
            if trainer.global_step == 10:
                raise InterruptedError

    def fit(folder: Path, *callbacks: Callback, ckpt_path: Path | None = None) -> list[str]:
        trainer = quiet_trainer(
            enable_checkpointing=True,
            logger=RunCSVLogger(folder),
            callbacks=[ExactResume(), AdamToSGD(at_step=8), *callbacks],
            log_every_n_steps=log_every_n_steps,
            max_epochs=3,
        )
        seed_everything(1, verbose=False)
        loaders = StatefulLoader(), StatefulLoader(2)
        trainer.fit(Plain(lambda parameters: Adam(parameters, 0.01)), *loaders, ckpt_path=ckpt_path)
        return Path(folder, "metrics.csv").read_text().splitlines()

    def checkpoint(folder: Path) -> ModelCheckpoint:
        return ModelCheckpoint(folder, "{step}", every_n_train_steps=3, save_top_k=-1)

    table = fit(tmp_path / "straight", checkpoint(tmp_path / "unused"))
    column = table[0].split(",").index("optreg/adam_to_sgd/lr")
    assert sum(bool(row.split(",")[column]) for row in table[1:]) > 0
    with pytest.raises(InterruptedError):
        fit(tmp_path / "killed", checkpoint(tmp_path / "all"), Kill())
    again = fit(tmp_path / "killed", checkpoint(tmp_path / "all"), ckpt_path=tmp_path / "all" / "step=9.ckpt")
    assert again == table
