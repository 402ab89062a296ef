"""Early stopping by patience or by Prechelt's criteria, with the best weights restored at the end."""

import math
from typing import Any, Literal

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch import callbacks as lightning_callbacks
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason
from torch import Tensor
from typing_extensions import override

from lightning_optreg._checks import check_range
from lightning_optreg.callbacks._kept_weights import ValidatedWeights, put_weights
from lightning_optreg.callbacks._monitored import Monitored, logged_value
from lightning_optreg.callbacks._of_a_kind import OfAKind
from lightning_optreg.callbacks.steps.prechelt import Criterion, Prechelt
from lightning_optreg.trainer.order_of_callbacks import AfterOthers, put_last, take_out
from lightning_optreg.trainer.queries import callbacks_of, is_dry_run
from lightning_optreg.trainer.refusals import refuse_barebones, refuse_sharding

__all__ = ["EarlyStopping"]

_NEVER = 2**31


def _copy_on_the_cpu(weight: Tensor) -> Tensor:
    return weight.cpu().clone()


class EarlyStopping(OfAKind, lightning_callbacks.EarlyStopping):
    """Stop when the validation stops improving, by one of four criteria, and restore the best weights.

    Lightning's `EarlyStopping` with four additions; without them it behaves like Lightning's.

    - `restore_best`: when the fit ends, even by an exception or Ctrl+C, the weights and buffers of the best
      validation are restored: the one with the lowest (highest) value, regardless of `min_delta`. A later
      `trainer.test()` uses them; checkpoints keep their own weights, with the best ones in this callback's
      state.
    - `criterion`: "patience", or one of Prechelt's, where t counts validations and a strip has k of them.
      "GL": GL(t) = 100 (E_va(t) / E_opt(t) - 1) > alpha, with the lowest error so far E_opt(t). "PQ": at the
      end of a strip GL(t) / P_k(t) > alpha, with P_k(t) = 1000 (sum E_tr / (k min E_tr) - 1) over the strip,
      so the error may rise as long as training makes progress. "UP": at the end of s consecutive strips the
      error is above that of the strip before.
    - `smoothing`: the moving average m_t / (1 - s^t) is judged, with m_t = s m_{t-1} + (1 - s) E_va(t).
    - All processes judge the value of rank 0, so they stop together even if the metric is not reduced over
      them.

    All of this is part of the callback's state: a resumed run stops when an uninterrupted one would. A new
    fit starts afresh, even with the same object. A run that ends before its first validation (for example by
    `max_steps`) does not need the value. Logs `optreg/early_stopping/best`, and `wait`, `GL`, `PQ` or
    `rises`, depending on the criterion.

    In the YAML of your own LightningCLI, use the full path `lightning_optreg.callbacks.EarlyStopping` to
    distinguish it from Lightning's; in this package's command line the short name is this class.

    Args:
        monitor: Name of a logged value.
        min_delta: Smallest change that counts as an improvement; below 0, slightly worse values count too.
        patience: Checks without improvement before the run ends, at least 0 (the same as 1); for the
            criterion "patience". Default: 3.
        verbose: Whether to report improvements and the end.
        mode: Whether the value should fall ("min") or rise ("max"). GL and PQ need "min".
        strict: Whether a missing value is an error, from the first validation on.
        check_finite: Whether a value that is not finite ends the run.
        stopping_threshold: The run ends once the value is this good. None: no threshold.
        divergence_threshold: The run ends once the value is this bad. None: no threshold.
        check_on_train_epoch_end: Whether to check at the end of training epochs rather than of validations.
            None: if there is one validation per epoch.
        log_rank_zero_only: Whether only rank 0 reports.
        restore_best: Whether to restore the best weights. Default: False.
        criterion: The criterion that ends the run. Default: patience.
        alpha: Threshold of GL (Prechelt: 1 to 5) or PQ (0.5 to 3), above 0. Default: 2.
        strip: k, validations in a strip, at least 1. Default: 5, as in Prechelt.
        successive: s of UP, at least 1 (Prechelt: 2 to 8). Default: 3.
        train_monitor: Name of the training error, for PQ.
        smoothing: s of the moving average, in [0, 1). With 0 there is none. Default: 0.

    Raises:
        ValueError: If a value is out of its range, or arguments don't fit the criterion.
        MisconfigurationException: Before the first step, if the best weights can't be kept, because the
            strategy shards parameters, or another callback averages or restores weights, or if the trainer is
            barebones; at a check, if PQ's training error is not logged, or an error is not above 0.
        RuntimeError: At a check, if the monitored value is not logged and strict is True.

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
        # The best value, regardless of `min_delta`; Lightning's `best_score` is the last improvement by it.
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
                f"EarlyStopping: mode must be min with {criterion}, which needs errors, got {mode!r}"
            )
        if criterion == "PQ" and train_monitor is None:
            raise ValueError(
                "EarlyStopping: train_monitor must be the name of a training error with PQ, got None"
            )
        if not 0.0 < alpha < math.inf:
            raise ValueError(f"EarlyStopping: alpha must be > 0, got {alpha}")
        check_range("EarlyStopping", "[0, 1)", smoothing=smoothing)
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
        """Refuse to keep weights that can't be restored, or are not the validated ones."""
        self._restored = False
        if self.strict:
            refuse_barebones(trainer, "EarlyStopping", self.monitor)
        if not self.restore_best:
            return
        refuse_sharding(trainer, "EarlyStopping", "which cannot be restored; set restore_best=False")
        averaging = (lightning_callbacks.WeightAveraging, lightning_callbacks.StochasticWeightAveraging)
        callbacks = callbacks_of(trainer)
        if sum(isinstance(each, EarlyStopping) and each.restore_best for each in callbacks) > 1:
            raise MisconfigurationException(
                "EarlyStopping: two of them would restore their best weights; set restore_best=True in only "
                "one"
            )
        for callback in callbacks:
            if isinstance(callback, averaging):
                raise MisconfigurationException(
                    f"EarlyStopping: restore_best must be False with {type(callback).__name__}, which ends "
                    "with averaged weights"
                )

    @override
    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Drop the copy of the validated weights: training continues."""
        self._validated.forget()

    @override
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Copy the validated weights, if something may change them before the check."""
        if self.restore_best and not self._should_skip_check(trainer):
            self._validated.begin(trainer)

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
        # Averages are compared in double precision: rounded to the metric's dtype, some would be equal.
        current = (
            torch.as_tensor(value, dtype=current.dtype, device=current.device)
            if self.smoothing == 0.0
            else torch.tensor(value, dtype=torch.float64)
        )
        self._take_settings()
        stop, reason = self._evaluate_stopping_criteria(current)
        if math.isfinite(value) and self._monitored.improves(value):
            if self.stopping_reason == EarlyStoppingReason.STOPPING_THRESHOLD:
                self.best_score = current  # Lightning doesn't update it
            if self.restore_best:
                self._weights = self._validated.take(trainer)
        lowest = self._monitored.best
        if math.isfinite(value) and lowest is not None:
            train_error = self._train_error(trainer, lowest)
            if self._prechelt.is_over(self._checks, value, lowest, train_error):
                stop, reason = True, self._prechelt.reason
                self.stopping_reason = EarlyStoppingReason.PATIENCE_EXHAUSTED
        stop = trainer.strategy.reduce_boolean_decision(stop, all=False)
        trainer.should_stop = trainer.should_stop or stop
        if stop:
            self.stopped_epoch = trainer.current_epoch
            self.stopping_reason_message = reason
        if reason and self.verbose:
            self._log_info(trainer, reason, self.log_rank_zero_only)

    def _take_settings(self) -> None:
        """Pass on the settings as they are now; a user may have changed them since construction."""
        self._monitored.mode = self._prechelt.mode = "min" if self.mode == "min" else "max"
        self._prechelt.criterion, self._prechelt.alpha = self.criterion, self.alpha
        self._prechelt.strip, self._prechelt.successive = self.strip, self.successive

    def _smoothed(self, value: float) -> float:
        if not math.isfinite(value):
            return value
        self._checks += 1
        if self.smoothing == 0.0:
            return value
        self._average = self.smoothing * self._average + (1.0 - self.smoothing) * value
        return self._average / (1.0 - self.smoothing**self._checks)

    def _train_error(self, trainer: Trainer, lowest: float) -> float:
        """Return PQ's training error; GL and PQ divide by errors, which must be above 0."""
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
        """Check, if it is time, and log the quantities of the criterion."""
        super().on_train_epoch_end(trainer, pl_module)
        # a checkpoint may have the quantities of another criterion
        of_criterion = (
            {"wait": float(self.wait_count)} if self.criterion == "patience" else self._prechelt.quantities
        )
        best = {} if self._monitored.best is None else {"best": self._monitored.best}
        for name, value in {**best, **of_criterion}.items():
            if math.isfinite(value):
                pl_module.log(
                    f"{self._log_path('early_stopping')}/{name}", value, sync_dist=True, batch_size=1
                )

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore the best weights."""
        self._restore(trainer, pl_module)

    @override
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore them also if the run had ended before it was resumed, so that training did not start."""
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
        """Return everything that decisions depend on, and the best weights."""
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
        """Restore the state, or one of Lightning's `EarlyStopping`."""
        patience = self.patience
        super().load_state_dict(state_dict)
        self.patience = patience  # as it is configured now
        before = float(self.best_score)  # Lightning and earlier versions of this package kept only this
        self._monitored.best = state_dict.get("best", before if math.isfinite(before) else None)
        if "checks" not in state_dict:
            return
        self._checks, self._average = state_dict["checks"], state_dict["average"]
        self._prechelt.load_state_dict(state_dict)
        self._weights = dict(state_dict["weights"])
