"""End runs early that do worse than others of their study did."""

from typing import Any, Protocol

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from typing_extensions import override

from lightning_optreg._nearest import nearest
from lightning_optreg.callbacks.resume.signals.launched import is_launched
from lightning_optreg.trainer.queries import validates_in_fit

__all__ = ["TrialPruning"]


class Reported(Protocol):
    """What is used of an Optuna trial."""

    def report(self, value: float, step: int) -> None:
        """Note a value."""

    def should_prune(self) -> bool:
        """Return whether the run should end."""


class TrialPruning(Callback):
    """Tell an Optuna trial how its run does, and end the run if the study's pruner says so.

    After each validation the metric is reported to the trial, with the number of validations so far as step:
    1, 2, .... If the trial should be pruned, `trainer.should_stop` is set in all processes at once, so that
    the run ends as by early stopping: with its hooks and checkpoints. `check_pruned` then raises
    `optuna.TrialPruned`.

    Several processes (`ddp`, by torchrun or Lightning's own launcher): give the trial to rank 0 and None to
    the others, or a `TorchDistributedTrial` to all; the answer of rank 0 counts for all, so none waits for
    another. Strategies that start their processes by fork or spawn (`ddp_spawn`) are refused, as the objects
    that they copy can't answer here.

    A resumed run tells a new trial what the old one had been told.

    Args:
        trial: An `optuna.Trial`; None in processes other than rank 0.
        monitor: Name of the logged metric, such as `val/accuracy`.

    Raises:
        MisconfigurationException: If rank 0 has no trial, or the validation has not logged the metric.

    Source: Golovin et al. 2017, "Google Vizier", for the median rule; Li et al. 2018, "Hyperband"
    (arXiv:1603.06560). Optuna's own `PyTorchLightningPruningCallback` reports the epoch instead, and works
    with several processes only for some storages.

    Example:
        >>> import optuna
        >>> from lightning.pytorch import Trainer
        >>> def objective(trial: optuna.Trial) -> float:
        ...     pruning = TrialPruning(trial, "val/accuracy")
        ...     trainer = Trainer(max_epochs=10, callbacks=[pruning])
        ...     trainer.fit(module(trial.suggest_float("lr", 1e-3, 1.0, log=True)))
        ...     pruning.check_pruned()
        ...     return trainer.callback_metrics["val/accuracy"].item()
    """

    def __init__(self, trial: Reported | None, monitor: str) -> None:
        self.trial, self.monitor = trial, monitor
        self.values: list[float] = []
        """The metric after each validation."""
        self.pruned = False
        """Whether the run was ended by the pruner."""
        self._told = 0

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        if is_launched(trainer):
            raise MisconfigurationException(
                f"TrialPruning: {type(trainer.strategy).__name__} starts its processes by fork or spawn, "
                "which can't share a trial; use strategy='ddp' or torchrun"
            )
        if trainer.global_rank == 0 and self.trial is None:
            raise MisconfigurationException("TrialPruning: rank 0 must have the trial, got None")
        self._told = 0
        self.pruned = False
        if trainer.ckpt_path is None:
            self.values = []

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not validates_in_fit(trainer):
            return
        metrics = trainer.callback_metrics
        if self.monitor not in metrics:
            known = nearest(self.monitor, list(metrics))
            raise MisconfigurationException(
                f"TrialPruning: the validation has logged no {self.monitor!r}{known}"
            )
        self.values.append(float(metrics[self.monitor]))
        self.pruned = self._ask(trainer)
        if self.pruned:
            trainer.should_stop = True

    def _ask(self, trainer: Trainer) -> bool:
        prune = False
        if self.trial is not None:
            for step in range(self._told, len(self.values)):
                self.trial.report(self.values[step], step + 1)
            self._told = len(self.values)
            prune = self.trial.should_prune()
        return bool(trainer.strategy.broadcast(prune, 0))

    def check_pruned(self) -> None:
        """Raise `optuna.TrialPruned` if the run was ended by the pruner; call it after the fit."""
        if self.pruned:
            from optuna import TrialPruned

            raise TrialPruned(f"{self.monitor} was {self.values[-1]:g} after validation {len(self.values)}")

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"values": list(self.values)}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.values = list(state_dict["values"])
