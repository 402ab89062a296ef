"""ResetOptimizer: weights and place are kept, the optimizer is new."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.demos.boring_classes import BoringModel
from torch.optim import SGD, Adam, Optimizer
from torch.optim.lr_scheduler import (
    ChainedScheduler,
    ConstantLR,
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    CyclicLR,
    ExponentialLR,
    LambdaLR,
    LinearLR,
    MultiStepLR,
    OneCycleLR,
    PolynomialLR,
    ReduceLROnPlateau,
    SequentialLR,
    StepLR,
)

from lightning_optreg.callbacks import ResetOptimizer
from lightning_optreg.schedulers import WarmupMultiStepLR
from tests.small_runs import quiet_trainer

BATCHES = 4

SCHEDULES: dict[str, Callable[[Optimizer], Any]] = {
    "step": lambda o: StepLR(o, 2, gamma=0.5),
    "multistep": lambda o: MultiStepLR(o, [1, 3, 5], gamma=0.3),
    "exponential": lambda o: ExponentialLR(o, 0.9),
    "cosine": lambda o: CosineAnnealingLR(o, 40),
    "warm restarts": lambda o: CosineAnnealingWarmRestarts(o, 2, T_mult=2),
    "one cycle": lambda o: OneCycleLR(o, 0.3, total_steps=40),
    "cyclic": lambda o: CyclicLR(o, 0.01, 0.2, step_size_up=3, mode="triangular2"),
    "linear": lambda o: LinearLR(o, total_iters=10),
    "polynomial": lambda o: PolynomialLR(o, total_iters=30, power=2.0),
    "lambda": lambda o: LambdaLR(o, lambda t: 1.0 / (1.0 + t)),
    "warm-up": lambda o: WarmupMultiStepLR(o, [2, 5]),
    "sequence": lambda o: SequentialLR(
        o, [LinearLR(o, total_iters=2), CosineAnnealingLR(o, 20)], milestones=[2]
    ),
    "chain": lambda o: ChainedScheduler([ConstantLR(o, 0.5, total_iters=2), ExponentialLR(o, 0.9)]),
}


class Module(BoringModel):
    """One layer, any optimizer, any schedule."""

    def __init__(
        self,
        optimizer: Callable[[Any], Optimizer],
        schedule: Callable[[Optimizer], Any] | None = None,
        interval: str = "epoch",
        frequency: int = 1,
    ) -> None:
        super().__init__()
        self.optimizer, self.schedule = optimizer, schedule
        self.interval, self.frequency = interval, frequency

    def configure_optimizers(self) -> Any:
        optimizer = self.optimizer(self.parameters())
        if self.schedule is None:
            return optimizer
        config = {"interval": self.interval, "frequency": self.frequency, "monitor": "x"}
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": self.schedule(optimizer), **config}}

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("x", torch.tensor(1.0))


def sgd(lr: float) -> Callable[[Any], Optimizer]:
    return lambda parameters: SGD(parameters, lr=lr, momentum=0.9)


def adam(lr: float) -> Callable[[Any], Optimizer]:
    return lambda parameters: Adam(parameters, lr=lr)


def fit(
    module: LightningModule,
    folder: Path,
    *callbacks: ResetOptimizer,
    ckpt_path: Path | None = None,
    **options: Any,
) -> Trainer:
    torch.manual_seed(0)
    trainer = quiet_trainer(
        default_root_dir=folder,
        callbacks=list(callbacks),
        limit_train_batches=BATCHES,
        limit_val_batches=1,
        **options,
    )
    trainer.fit(module, ckpt_path=ckpt_path, weights_only=True)
    return trainer


def checkpoint(module: LightningModule, folder: Path, **options: Any) -> Path:
    path = folder / "begun.ckpt"
    fit(module, folder, **options).save_checkpoint(path)
    return path


def rates(trainer: Trainer) -> list[float]:
    return [group["lr"] for group in trainer.optimizers[0].param_groups]


def test_weights_and_place_are_kept_and_the_optimizer_is_new(tmp_path: Path) -> None:
    begun = checkpoint(Module(sgd(0.1)), tmp_path, max_epochs=2)
    module = Module(adam(0.02))
    trainer = fit(module, tmp_path, ResetOptimizer(), ckpt_path=begun, max_epochs=2)  # both are done already
    saved = torch.load(begun, weights_only=True)
    assert (trainer.global_step, trainer.current_epoch) == (2 * BATCHES, 2)
    for name, weight in saved["state_dict"].items():
        assert torch.equal(module.state_dict()[name], weight)
    (optimizer,) = trainer.optimizers
    assert isinstance(optimizer, Adam)
    assert not optimizer.state
    assert rates(trainer) == [0.02]


def test_the_first_step_is_that_of_a_new_optimizer(tmp_path: Path) -> None:
    class Recorder(Module):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.before = [parameter.detach().clone() for parameter in self.parameters()]
            return super().training_step(batch, batch_idx)

        def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
            self.gradients = [parameter.grad.clone() for parameter in self.parameters()]

    begun = checkpoint(Module(sgd(0.1)), tmp_path, max_epochs=1)
    module = Recorder(sgd(0.05))
    fit(module, tmp_path, ResetOptimizer(), ckpt_path=begun, max_steps=BATCHES + 1)
    steps = zip(module.before, module.gradients, module.parameters(), strict=True)
    for before, gradient, after in steps:  # the old momentum would add to it
        assert torch.allclose(after, before - 0.05 * gradient)


@pytest.mark.filterwarnings("ignore:A `OneCycleLR` scheduler is using")
@pytest.mark.parametrize("interval", ["epoch", "step"])
@pytest.mark.parametrize(
    "name",
    [
        # of those that count, that have an end, and that are made of others
        pytest.param(name, marks=[] if name in ("multistep", "one cycle", "sequence") else pytest.mark.slow)
        for name in SCHEDULES
    ],
)
def test_a_schedule_is_at_the_place_where_it_would_be(name: str, interval: str, tmp_path: Path) -> None:
    def new(lr: float) -> Module:
        return Module(sgd(lr), SCHEDULES[name], interval)

    begun = checkpoint(new(0.1), tmp_path, max_epochs=3)
    continued = fit(new(0.04), tmp_path, ResetOptimizer(), ckpt_path=begun, max_epochs=3)
    straight = fit(new(0.04), tmp_path, max_epochs=3)
    assert rates(continued) == pytest.approx(rates(straight))
    continued = fit(new(0.04), tmp_path, ResetOptimizer(), ckpt_path=begun, max_epochs=5)
    straight = fit(new(0.04), tmp_path, max_epochs=5)
    assert rates(continued) == pytest.approx(rates(straight))


@pytest.mark.parametrize(("interval", "frequency"), [("epoch", 1), ("epoch", 2), ("step", 1), ("step", 2)])
def test_a_schedule_that_is_added_begins_where_the_run_is(
    interval: str, frequency: int, tmp_path: Path
) -> None:
    def new() -> Module:
        return Module(sgd(0.04), SCHEDULES["exponential"], interval, frequency)

    begun = checkpoint(Module(sgd(0.1)), tmp_path, max_epochs=4)
    continued = fit(new(), tmp_path, ResetOptimizer(), ckpt_path=begun, max_epochs=4)
    assert rates(continued) == pytest.approx(rates(fit(new(), tmp_path, max_epochs=4)))


def test_a_schedule_can_be_left_out(tmp_path: Path) -> None:
    begun = checkpoint(Module(sgd(0.1), SCHEDULES["step"]), tmp_path, max_epochs=3)
    trainer = fit(Module(sgd(0.04)), tmp_path, ResetOptimizer(), ckpt_path=begun, max_epochs=4)
    assert rates(trainer) == [0.04]


def test_another_schedule_takes_the_place_over(tmp_path: Path) -> None:
    begun = checkpoint(Module(sgd(0.1), SCHEDULES["step"]), tmp_path, max_epochs=3)
    trainer = fit(
        Module(adam(0.04), SCHEDULES["exponential"]),
        tmp_path,
        ResetOptimizer(),
        ckpt_path=begun,
        max_epochs=3,
    )
    assert rates(trainer) == pytest.approx([0.04 * 0.9**3])


def test_a_plateau_keeps_its_rate_and_its_count(tmp_path: Path) -> None:
    def new(optimizer: Callable[[Any], Optimizer]) -> Module:
        return Module(optimizer, lambda o: ReduceLROnPlateau(o, factor=0.1, patience=1))  # x stays 1

    begun = checkpoint(new(sgd(0.1)), tmp_path, max_epochs=4)
    saved = torch.load(begun, weights_only=True)["lr_schedulers"][0]
    trainer = fit(new(adam(0.5)), tmp_path, ResetOptimizer(), ckpt_path=begun, max_epochs=4)
    (config,) = trainer.lr_scheduler_configs
    assert rates(trainer) == pytest.approx([0.01]) == saved["_last_lr"]
    assert config.scheduler.num_bad_epochs == saved["num_bad_epochs"] == 1
    assert config.scheduler.best == 1.0


def test_groups_keep_their_own_rates(tmp_path: Path) -> None:
    class Groups(Module):
        def configure_optimizers(self) -> Any:
            weight, bias = self.layer.weight, self.layer.bias
            groups = [{"params": [weight], "lr": 0.4, "weight_decay": 0.1}, {"params": [bias]}]
            optimizer = SGD(groups, lr=0.08)
            return [optimizer], [ExponentialLR(optimizer, 0.5)]

    begun = checkpoint(Module(sgd(0.1), SCHEDULES["step"]), tmp_path, max_epochs=2)
    trainer = fit(Groups(sgd(0.1)), tmp_path, ResetOptimizer(), ckpt_path=begun, max_epochs=2)
    assert rates(trainer) == pytest.approx([0.1, 0.02])
    assert [group["weight_decay"] for group in trainer.optimizers[0].param_groups] == [0.1, 0.0]


def test_what_it_wrote_can_be_continued_as_usual(tmp_path: Path) -> None:
    begun = checkpoint(Module(sgd(0.1), SCHEDULES["step"]), tmp_path, max_epochs=2)
    reset = fit(
        Module(adam(0.04), SCHEDULES["step"]), tmp_path, ResetOptimizer(), ckpt_path=begun, max_epochs=3
    )
    reset.save_checkpoint(tmp_path / "reset.ckpt")
    module = Module(adam(0.04), SCHEDULES["step"])
    trainer = fit(module, tmp_path, ckpt_path=tmp_path / "reset.ckpt", max_epochs=3)
    assert rates(trainer) == rates(reset)
    assert trainer.optimizers[0].state[module.layer.weight]["step"] == BATCHES


def test_several_optimizers(tmp_path: Path) -> None:
    class Two(BoringModel):
        def __init__(self, lr: float) -> None:
            super().__init__()
            self.automatic_optimization = False
            self.lr = lr

        def training_step(self, batch: Any, batch_idx: int) -> None:
            self.manual_backward(self.loss(self.layer(batch)))
            for optimizer in self.optimizers():
                optimizer.step()
                optimizer.zero_grad()

        def configure_optimizers(self) -> Any:
            return [SGD([self.layer.weight], lr=self.lr, momentum=0.9), Adam([self.layer.bias], lr=self.lr)]

    begun = checkpoint(Two(0.1), tmp_path, max_epochs=1)
    trainer = fit(Two(0.03), tmp_path, ResetOptimizer(), ckpt_path=begun, max_epochs=1)
    assert [optimizer.param_groups[0]["lr"] for optimizer in trainer.optimizers] == [0.03, 0.03]
    assert not any(optimizer.state for optimizer in trainer.optimizers)


def test_a_new_run_is_not_changed(tmp_path: Path) -> None:
    with_it, without = Module(sgd(0.1), SCHEDULES["step"]), Module(sgd(0.1), SCHEDULES["step"])
    without.load_state_dict(with_it.state_dict())
    fit(with_it, tmp_path, ResetOptimizer(), max_epochs=2)
    fit(without, tmp_path, max_epochs=2)
    for a, b in zip(with_it.parameters(), without.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_checkpoint_that_was_tested_is_forgotten(tmp_path: Path) -> None:
    begun = checkpoint(Module(sgd(0.1), SCHEDULES["step"]), tmp_path, max_epochs=3)
    module = Module(sgd(0.04), SCHEDULES["step"])
    trainer = quiet_trainer(
        default_root_dir=tmp_path,
        callbacks=[ResetOptimizer()],
        limit_train_batches=BATCHES,
        limit_test_batches=1,
        limit_val_batches=1,
        max_epochs=1,
    )
    trainer.test(module, ckpt_path=begun, weights_only=True, verbose=False)
    trainer.fit(module)
    assert rates(trainer) == [0.04]


def test_a_plateau_cannot_take_over_another_schedule(tmp_path: Path) -> None:
    begun = checkpoint(Module(sgd(0.1), SCHEDULES["step"]), tmp_path, max_epochs=1)
    module = Module(sgd(0.1), lambda o: ReduceLROnPlateau(o))
    with pytest.raises(MisconfigurationException, match="the checkpoint has another schedule"):
        fit(module, tmp_path, ResetOptimizer(), ckpt_path=begun, max_epochs=2)


def test_two_schedules_cannot_take_over_one(tmp_path: Path) -> None:
    class Twice(Module):
        def configure_optimizers(self) -> Any:
            optimizer = self.optimizer(self.parameters())
            return [optimizer], [StepLR(optimizer, 1), StepLR(optimizer, 2)]

    begun = checkpoint(Module(sgd(0.1), SCHEDULES["step"]), tmp_path, max_epochs=1)
    with pytest.raises(MisconfigurationException, match=r"configure 1 schedule\(s\) .*, or none, got 2"):
        fit(Twice(sgd(0.1)), tmp_path, ResetOptimizer(), ckpt_path=begun, max_epochs=2)
