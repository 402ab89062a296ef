"""Replace an optimizer during a fit.

Lightning asks a module for its optimizers once, and restores a checkpoint's states into those that exist
then. So a new optimizer must take its predecessor's place in the trainer, the strategy and the precision
plugin; the schedule must continue; and a resumed run must replace the optimizer again in `on_fit_start`,
after the module's optimizers are created and before the states are restored.
"""

import warnings
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from typing_extensions import override

from lightning_optreg.optimizers.rates import set_rate
from lightning_optreg.schedulers.factor_schedule import rates

__all__ = ["CarriedOnSchedule", "replace_optimizer"]


def replace_optimizer(trainer: Trainer, old: Optimizer, new: Optimizer, *, restoring: bool = False) -> None:
    """Replace an optimizer by another one, and let the schedules of the old one drive the new one.

    The new optimizer's groups start with their present rates; from then on each changes by the same factors
    as the old rates. Call it between batches, or in `on_fit_start`.

    Args:
        trainer: The trainer, during a fit.
        old: One of `trainer.optimizers`. Its state is dropped; only its groups are kept, in the schedules.
        new: The new optimizer, with the same parameters in the same groups.
        restoring: Whether the states of the new optimizer and of the schedules are loaded after this.

    Raises:
        MisconfigurationException: If a schedule is at a learning rate of 0.
    """
    scales = [1.0 for _ in new.param_groups]
    schedules = [config for config in trainer.lr_scheduler_configs if config.scheduler.optimizer is old]
    if schedules and not restoring:
        before = [float(group["lr"]) for group in old.param_groups]
        if not min(before) > 0.0:
            raise MisconfigurationException(
                "a schedule can't continue from a learning rate of 0; switch earlier or later"
            )
        scales = [float(group["lr"]) / rate for group, rate in zip(new.param_groups, before, strict=True)]
    for config in schedules:
        config.scheduler = CarriedOnSchedule(config.scheduler, new, scales)
    old.state.clear()
    strategy = trainer.strategy
    strategy.optimizers = [new if optimizer is old else optimizer for optimizer in strategy.optimizers]
    strategy.setup_precision_plugin()


class CarriedOnSchedule(LRScheduler):
    """The schedule of a replaced optimizer, which continues with its successor.

    It still runs on the old optimizer's groups, so that any schedule works as before, and sets the rates of
    the new groups: eta_new(t) = eta_old(t) * scale. If something else sets a rate, the scale is adjusted.
    Other values that a schedule changes, such as momentum, only change in the old groups.

    Args:
        schedule: Any schedule, including a plateau's.
        optimizer: The new optimizer.
        scales: For each group, the ratio of its rate to the old one.
    """

    def __init__(self, schedule: Any, optimizer: Optimizer, scales: list[float]) -> None:
        # LRScheduler's own __init__ would start a schedule. The base is for Lightning's type checks.
        self.schedule, self.optimizer, self.scales = schedule, optimizer, scales

    def __getattr__(self, name: str) -> Any:
        """Return other attributes, such as `last_epoch`, from the schedule itself."""
        if name == "schedule":  # missing while it is copied
            raise AttributeError(name)
        return getattr(self.schedule, name)

    @override
    def step(self, *args: Any, **kwargs: Any) -> None:
        """Advance the schedule; the arguments are those of its own `step`."""
        with warnings.catch_warnings():
            # torch misses the steps of the old optimizer between those of its schedule
            warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")
            self._follow()
            self.schedule.step(*args, **kwargs)
        self._pass_on()

    def _follow(self) -> None:
        """Add new groups to the schedule, and continue from rates that something else has set."""
        old = self.schedule.optimizer
        for group in self.optimizer.param_groups[len(old.param_groups) :]:
            old.add_param_group({"params": list(group["params"]), "lr": group["lr"]})
            self.scales.append(1.0)
        for index, (new, counted) in enumerate(
            zip(self.optimizer.param_groups, old.param_groups, strict=True)
        ):
            rate, scheduled = float(new["lr"]), float(counted["lr"])
            if rate != scheduled * self.scales[index] and scheduled > 0.0:
                self.scales[index] = rate / scheduled

    def _pass_on(self) -> None:
        groups = zip(self.optimizer.param_groups, self.schedule.optimizer.param_groups, strict=True)
        for (new, old), scale in zip(groups, self.scales, strict=True):
            set_rate(new, float(old["lr"]) * scale)

    @override
    def get_last_lr(self) -> list[Any]:
        """Return the present rate of each group of the new optimizer."""
        return rates(self.optimizer)

    @override
    def state_dict(self) -> dict[str, Any]:
        """Return the state of the schedule, the scales, and the old groups, in which schedules count."""
        self._follow()  # a resumed run has already added groups when it loads this
        return {
            "schedule": self.schedule.state_dict(),
            "scales": list(self.scales),
            "groups": [_settings(group) for group in self.schedule.optimizer.param_groups],
        }

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state."""
        self._follow()
        self.schedule.load_state_dict(state_dict["schedule"])
        self.scales = list(state_dict["scales"])
        for group, saved in zip(self.schedule.optimizer.param_groups, state_dict["groups"], strict=True):
            for name in _settings(group).keys() - saved.keys():
                del group[name]
            group.update(saved)
        self._pass_on()


def _settings(group: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in group.items() if name not in ("params", "param_names")}
