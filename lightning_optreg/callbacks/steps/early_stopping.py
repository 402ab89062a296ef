"""Early stopping by patience or by Prechelt's criteria, with the best weights put back at the end."""

import math
from typing import Any, Literal

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch import callbacks as lightning_callbacks
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason
from torch import Tensor
from typing_extensions import override

from lightning_optreg.callbacks._kept_weights import ValidatedWeights, put_weights
from lightning_optreg.callbacks._monitored import Monitored, logged_value
from lightning_optreg.callbacks._of_a_kind import OfAKind
from lightning_optreg.callbacks.steps.prechelt import Criterion, Prechelt
from lightning_optreg.trainer.last_in_line import AfterOthers, put_last, take_out
from lightning_optreg.trainer.queries import callbacks_of, is_dry_run
from lightning_optreg.trainer.refusals import refuse_barebones, refuse_sharding

__all__ = ["EarlyStopping"]

_NEVER = 2**31


def _copy_on_the_cpu(weight: Tensor) -> Tensor:
    return weight.cpu().clone()


class EarlyStopping(OfAKind, lightning_callbacks.EarlyStopping):
    """Stop when the validation no longer gets better, by one of four criteria, and keep the best weights.

    Lightning's `EarlyStopping` with four additions; without them it does what Lightning's does.

    - `restore_best`: when the fit ends, be it by an exception or Ctrl+C, the module gets the weights and
      buffers of its best validation back, which is the one with the lowest (highest) value, whatever
      `min_delta` says. A later `trainer.test()` sees them; checkpoints keep the weights of their own time,
      with the best ones in this callback's state.
    - `criterion`: "patience", or one of Prechelt's, t counting validations and strips being k of them.
      "GL": GL(t) = 100 (E_va(t) / E_opt(t) - 1) > alpha, E_opt(t) being the lowest error so far. "PQ": at
      the end of a strip GL(t) / P_k(t) > alpha, P_k(t) = 1000 (sum E_tr / (k min E_tr) - 1) over the strip,
      so as long as training makes progress the error may rise. "UP": at the end of s strips in succession the
      error is above that of the one before.
    - `smoothing`: what is judged is the moving average m_t / (1 - s^t), m_t = s m_{t-1} + (1 - s) E_va(t).
    - All processes judge the first one's value, so they stop together although the metric may not have been
      reduced over them.

    All of it is in the callback's state: a resumed run stops when the uninterrupted one would have stopped.
    A new fit begins anew, also with the same object. A run that ends before its first validation (by
    `max_steps`, say) is not asked for the value. Logs `optreg/early_stopping/best`, and `wait`, `GL`, `PQ` or
    `rises`, whichever decides.

    In a YAML of a LightningCLI of your own, the full path `lightning_optreg.callbacks.EarlyStopping` tells it
    from Lightning's; this package's command line takes the short name for this one.

    Args:
        monitor: Name of a logged value.
        min_delta: What counts as an improvement is more than this; below 0, what is worse by less than it
            counts too.
        patience: Checks without improvement before the end, at least 0, which does what 1 does; for the
            criterion of that name.
        verbose: Whether improvements and the end are reported.
        mode: Whether the value should fall ("min") or rise ("max"). GL and PQ need "min".
        strict: Whether a missing value is an error, from the first validation on.
        check_finite: Whether a value that is not finite ends the run.
        stopping_threshold: A value this good ends the run. None: none does.
        divergence_threshold: A value this bad ends the run. None: none does.
        check_on_train_epoch_end: Whether to check at the end of training epochs rather than of validations.
            None: if there is one validation an epoch.
        log_rank_zero_only: Whether only the first process reports.
        restore_best: Whether the best weights are put back. Default: False.
        criterion: What ends the run. Default: patience.
        alpha: Threshold of GL (Prechelt: 1 to 5) or PQ (0.5 to 3), above 0. Default: 2.
        strip: k, validations in a strip, at least 1; Prechelt takes 5. Default: 5.
        successive: s of UP, at least 1 (Prechelt: 2 to 8). Default: 3.
        train_monitor: Name of the training error that PQ looks at.
        smoothing: s of the moving average, in [0, 1). With 0 there is none. Default: 0.

    Raises:
        ValueError: If a value is out of its range, or criteria and other arguments do not fit each other.
        MisconfigurationException: Before the first step, if best weights cannot be kept: under strategies
            that shard them, or beside callbacks that validate averaged weights; at a check, if PQ's training
            error is missing, or an error is not above 0.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> stop = EarlyStopping("val/loss", criterion="GL", alpha=5.0, restore_best=True)
        >>> trainer = Trainer(callbacks=[stop], accelerator="cpu", logger=False)
    """

    def __init__(
        self,
        monitor: str = "val/loss",
        min_delta: float = 0.0,
        patience: float = 3,
        verbose: bool = False,
        mode: Literal["min", "max"] = "min",
        strict: bool = True,
        check_finite: bool = True,
        stopping_threshold: float | None = None,
        divergence_threshold: float | None = None,
        check_on_train_epoch_end: bool | None = None,
        log_rank_zero_only: bool = False,
        restore_best: bool = False,
        criterion: Criterion = "patience",
        alpha: float = 2.0,
        strip: int = 5,
        successive: int = 3,
        train_monitor: str | None = None,
        smoothing: float = 0.0,
    ) -> None:
        # The best value, whatever `min_delta` says; Lightning's `best_score` is the last improvement by it.
        self._monitored = Monitored("EarlyStopping", mode)
        if not math.isfinite(min_delta):
            raise ValueError(f"EarlyStopping: min_delta must be finite, got {min_delta}")
        if not (isinstance(patience, (int, float)) and patience >= 0):
            raise ValueError(f"EarlyStopping: patience must be a number >= 0, got {patience}")
        for name, count in (("strip", strip), ("successive", successive)):
            if not (isinstance(count, int) and count >= 1):
                raise ValueError(f"EarlyStopping: {name} must be a whole number >= 1, got {count}")
        if criterion not in ("patience", "GL", "PQ", "UP"):
            raise ValueError(f"EarlyStopping: criterion must be patience, GL, PQ or UP, got {criterion!r}")
        if criterion in ("GL", "PQ") and mode != "min":
            raise ValueError(
                f"EarlyStopping: mode must be min with {criterion}, which is of errors, got {mode!r}"
            )
        if criterion == "PQ" and train_monitor is None:
            raise ValueError(
                "EarlyStopping: train_monitor must be the name of a training error with PQ, got None"
            )
        if not 0.0 < alpha < math.inf:
            raise ValueError(f"EarlyStopping: alpha must be > 0, got {alpha}")
        if not 0.0 <= smoothing < 1.0:
            raise ValueError(f"EarlyStopping: smoothing must be in [0, 1), got {smoothing}")
        super().__init__(
            monitor,
            min_delta,
            math.ceil(patience) if criterion == "patience" and patience < _NEVER else _NEVER,
            verbose,
            mode,
            strict,
            check_finite,
            stopping_threshold,
            divergence_threshold,
            check_on_train_epoch_end,
            log_rank_zero_only,
        )
        self.restore_best, self.criterion, self.alpha = restore_best, criterion, alpha
        self.strip, self.successive = strip, successive
        self.train_monitor, self.smoothing = train_monitor, smoothing
        self._prechelt = Prechelt(criterion, alpha, strip, successive, mode)
        self._validated = ValidatedWeights(_copy_on_the_cpu)
        self._after_exception = AfterOthers("on_exception", self._restore)
        self._begin()

    def _begin(self) -> None:
        self._checks, self._average = 0, 0.0
        self._prechelt.forget()
        self._monitored.forget()
        self._weights: dict[str, Tensor] = {}
        self._restored = self._has_validated = False

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Forget an earlier fit; a checkpoint's state comes after this."""
        super().setup(trainer, pl_module, stage)
        take_out(trainer, self._after_exception)
        if stage == "fit":
            if self.restore_best:
                put_last(trainer, self._after_exception)
            self.wait_count = self.stopped_epoch = 0
            self.best_score = torch.tensor(math.inf if self.mode == "min" else -math.inf)
            self.stopping_reason, self.stopping_reason_message = EarlyStoppingReason.NOT_STOPPED, None
            self._begin()

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse to keep weights that could not be put back, or are not those that are validated."""
        self._restored = False
        if self.strict:
            refuse_barebones(trainer, "EarlyStopping", self.monitor)
        if not self.restore_best:
            return
        refuse_sharding(trainer, "EarlyStopping", "which cannot be put back; set restore_best to false")
        averaging = (lightning_callbacks.WeightAveraging, lightning_callbacks.StochasticWeightAveraging)
        callbacks = callbacks_of(trainer)
        if sum(isinstance(each, EarlyStopping) and each.restore_best for each in callbacks) > 1:
            raise MisconfigurationException(
                "EarlyStopping: two of them would put their best weights back; set restore_best to true in "
                "one only"
            )
        for callback in callbacks:
            if isinstance(callback, averaging):
                raise MisconfigurationException(
                    f"EarlyStopping: beside {type(callback).__name__}, which ends with averaged weights, set "
                    "restore_best to false"
                )

    @override
    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Let go of what was validated: the weights go on from here."""
        self._validated.forget()

    @override
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the weights that are validated, if something may change them before they are judged."""
        if self.restore_best and not self._should_skip_check(trainer):
            self._validated.begin(trainer, pl_module)

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check, if it is time."""
        self._has_validated = self._has_validated or not self._should_skip_check(trainer)
        super().on_validation_end(trainer, pl_module)

    @override
    def _run_early_stopping_check(self, trainer: Trainer) -> None:
        # Private, as are the three methods of Lightning's that it calls: between the monitored value and the
        # decision Lightning 2.6 has no public hook.
        logs = trainer.callback_metrics
        may_come = trainer.enable_validation and not self._has_validated
        if self.monitor not in logs and may_come:
            return
        if is_dry_run(trainer) or not self._validate_condition_metric(logs):
            return
        current = logs[self.monitor].squeeze()
        # One value for all processes: each would otherwise count its own improvements and keep its own best.
        value = self._smoothed(float(trainer.strategy.broadcast(float(current))))
        # Averages are compared as they are: rounded to the metric's type, some would not differ any more.
        current = (
            torch.as_tensor(value, dtype=current.dtype, device=current.device)
            if self.smoothing == 0.0
            else torch.tensor(value, dtype=torch.float64)
        )
        stop, reason = self._evaluate_stopping_criteria(current)
        if math.isfinite(value) and self._monitored.improves(value):
            if self.stopping_reason == EarlyStoppingReason.STOPPING_THRESHOLD:
                self.best_score = current  # Lightning leaves it as it was
            if self.restore_best:
                self._weights = self._validated.take(trainer.lightning_module)
        lowest = self._monitored.best
        if math.isfinite(value) and lowest is not None:
            train_error = self._train_error(trainer, lowest)
            if self._prechelt.is_over(self._checks, value, lowest, train_error):
                stop, reason = True, f"{self.criterion} says so: {self._prechelt.quantities}"
                self.stopping_reason = EarlyStoppingReason.PATIENCE_EXHAUSTED
        stop = trainer.strategy.reduce_boolean_decision(stop, all=False)
        trainer.should_stop = trainer.should_stop or stop
        if stop:
            self.stopped_epoch = trainer.current_epoch
            self.stopping_reason_message = reason
        if reason and self.verbose:
            self._log_info(trainer, reason, self.log_rank_zero_only)

    def _smoothed(self, value: float) -> float:
        if not math.isfinite(value):
            return value
        self._checks += 1
        if self.smoothing == 0.0:
            return value
        self._average = self.smoothing * self._average + (1.0 - self.smoothing) * value
        return self._average / (1.0 - self.smoothing**self._checks)

    def _train_error(self, trainer: Trainer, lowest: float) -> float:
        """PQ's training error; GL and PQ divide by errors, which must be above 0."""
        if self.train_monitor is None or self.criterion != "PQ":
            train_error = math.nan
        else:
            train_error = logged_value(trainer, self.train_monitor, "EarlyStopping", "train_monitor")
        if self.criterion in ("GL", "PQ") and (not lowest > 0.0 or train_error <= 0.0):
            raise MisconfigurationException(
                f"EarlyStopping: {self.criterion} needs errors above 0, got {self.monitor}={lowest}"
                f"{f' and {self.train_monitor}={train_error}' if self.criterion == 'PQ' else ''}"
            )
        return train_error

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check, if it is time, and log what decides."""
        super().on_train_epoch_end(trainer, pl_module)
        patience = {"wait": float(self.wait_count)} if self.criterion == "patience" else {}
        best = {} if self._monitored.best is None else {"best": self._monitored.best}
        for name, value in {**best, **patience, **self._prechelt.quantities}.items():
            if math.isfinite(value):
                pl_module.log(
                    f"{self._log_path('early_stopping')}/{name}", value, sync_dist=True, batch_size=1
                )

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the best weights back."""
        self._restore(trainer, pl_module)

    @override
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Do so too if the run had ended before it was resumed, so that training did not begin."""
        self._restore(trainer, pl_module)

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave the trainer's callbacks as they were."""
        take_out(trainer, self._after_exception)
        self._validated.forget()

    def _restore(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.restore_best and self._weights and not self._restored:
            put_weights(pl_module, self._weights)
            self._restored = True

    @override
    def state_dict(self) -> dict[str, Any]:
        """Return what decisions depend on, and the best weights."""
        return {
            **super().state_dict(),
            "checks": self._checks,
            "average": self._average,
            **self._prechelt.state_dict(),
            "best": self._monitored.best,
            "weights": dict(self._weights),
        }

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up such a state, or one of Lightning's `EarlyStopping`."""
        patience = self.patience
        super().load_state_dict(state_dict)
        self.patience = patience  # as it is configured now
        before = float(self.best_score)  # all that Lightning and earlier versions of this package kept
        self._monitored.best = state_dict.get("best", before if math.isfinite(before) else None)
        if "checks" not in state_dict:
            return
        self._checks, self._average = state_dict["checks"], state_dict["average"]
        self._prechelt.load_state_dict(state_dict)
        self._weights = dict(state_dict["weights"])
