"""Train with Adam first and with SGD afterwards, whatever the module's optimizer of Adam's type is.

Adam gets ahead early, SGD with momentum often ends at the better test error (Wilson et al. 2017,
arXiv:1705.08292); Keskar and Socher 2017 (arXiv:1712.07628) switch from one to the other and estimate SGD's
learning rate from Adam's steps.
"""

import math
from typing import Any, Literal

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from typing_extensions import override

from lightning_optreg.callbacks._let_go import LetsGo
from lightning_optreg.callbacks._monitored import Monitored, logged_value
from lightning_optreg.callbacks._of_a_kind import OfAKind
from lightning_optreg.optimizers.rate_estimate import RateEstimate, StepMeter
from lightning_optreg.trainer.optimizer_switch import replace_optimizer
from lightning_optreg.trainer.queries import callbacks_of, is_logging_step, validates_in_fit
from lightning_optreg.trainer.refusals import refuse_barebones, refuse_sharding
from lightning_optreg.trainer.run_length import run_length

__all__ = ["AdamToSGD"]


class AdamToSGD(OfAKind, LetsGo):
    """Replace an optimizer of Adam's type by SGD with momentum in mid-run.

    When: before the first batch of an epoch (`at_epoch`), before the batch that follows a number of optimizer
    steps (`at_step`), after a monitored value has not improved for `patience` validations (`monitor`), or, if
    none of these is given, by the criterion of SWATS: when gamma_k = p.p / -(p.g), the rate at which an SGD
    step along the gradient g would have Adam's step p as its projection, is within `tolerance` of its own
    average Lambda_k (see `lightning_optreg.optimizers.RateEstimate`).

    SGD begins without momentum at `lr`, or at (1 - momentum) Lambda_k if none is given, which is SWATS's
    second phase; the switch then waits for a positive estimate. The group with the largest rate gets it, and
    the others keep their ratios to that. Groups keep their weight decay, which SGD couples: lambda * theta is
    added to the gradient. Schedules go on and scale the
    new rate as they would have scaled the old one. Adam's state is freed.

    It is right under gradient accumulation, clipping, AMP and DDP (the ranks decide together), with manual
    optimization, and on resuming from a checkpoint of before or after the switch. Estimating costs a copy
    of the parameters and three passes over them in each step until the switch; with `lr` and a time given
    nothing is estimated. Logs `optreg/adam_to_sgd/rate_estimate` while it estimates and
    `optreg/adam_to_sgd/lr` at the switch. (Asked for in pytorch-lightning issues 4044 and 6829.)

    Args:
        at_epoch: Epoch, counted from 0, whose first batch SGD trains on; at least 0.
        at_step: Number of optimizer steps before the switch, at least 0; those of all optimizers count, as
            in `trainer.global_step`.
        monitor: Name of a logged value, looked at after each validation.
        mode: Whether the monitored value should fall ("min") or rise ("max").
        patience: Validations without improvement after which to switch, at least 1.
        min_delta: What counts as an improvement is more than this, at least 0.
        lr: SGD's learning rate at the switch, above 0, that of the group with the largest. None: estimated.
        momentum: Of SGD, in [0, 1). Default: 0.9, which is SWATS's beta1.
        nesterov: Use Nesterov's form of momentum.
        weight_decay: Of SGD, at least 0. None: that of each group.
        tolerance: How near gamma_k has to come to its average, above 0. gamma_k scatters, so they meet by
            chance, and sooner with a wider tolerance. Default: 1e-5; the paper's 1e-9 is below float32's
            resolution.
        optimizer_index: Which of several optimizers is replaced, at least 0.

    Raises:
        TypeError: If a whole number is not one.
        ValueError: If a value is out of its range or more than one time is given.
        MisconfigurationException: Before the first step, if there is no optimizer, or it has no `betas`, as
            those of Adam's type have, or if the strategy shards parameters; at the switch, if a schedule is
            at a rate of 0.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[AdamToSGD(at_epoch=10, lr=0.05)], accelerator="cpu", logger=False)
    """

    def __init__(
        self,
        at_epoch: int | None = None,
        at_step: int | None = None,
        monitor: str | None = None,
        mode: Literal["min", "max"] = "min",
        patience: int = 3,
        min_delta: float = 0.0,
        lr: float | None = None,
        momentum: float = 0.9,
        nesterov: bool = False,
        weight_decay: float | None = None,
        tolerance: float = 1e-5,
        optimizer_index: int = 0,
    ) -> None:
        if sum(when is not None for when in (at_epoch, at_step, monitor)) > 1:
            raise ValueError(
                "AdamToSGD: at_epoch must be the only one given of at_epoch, at_step and monitor, "
                f"got {at_epoch}, {at_step} and {monitor}"
            )
        for name, count, least in (
            ("at_epoch", at_epoch, 0),
            ("at_step", at_step, 0),
            ("patience", patience, 1),
            ("optimizer_index", optimizer_index, 0),
        ):
            if count is not None and not (isinstance(count, int) and count >= least):
                raise ValueError(f"AdamToSGD: {name} must be a whole number >= {least}, got {count}")
        if lr is not None and not 0.0 < lr < math.inf:
            raise ValueError(f"AdamToSGD: lr must be > 0, got {lr}")
        if not 0.0 <= momentum < 1.0:
            raise ValueError(f"AdamToSGD: momentum must be in [0, 1), got {momentum}")
        if nesterov and momentum == 0.0:
            raise ValueError("AdamToSGD: momentum must be > 0 with nesterov, got 0")
        if weight_decay is not None and not 0.0 <= weight_decay < math.inf:
            raise ValueError(f"AdamToSGD: weight_decay must be >= 0, got {weight_decay}")
        if not 0.0 < tolerance < math.inf:
            raise ValueError(f"AdamToSGD: tolerance must be > 0, got {tolerance}")
        self.at_epoch, self.at_step, self.monitor = at_epoch, at_step, monitor
        self.mode, self.patience, self.min_delta = mode, patience, min_delta
        self.lr, self.momentum, self.nesterov, self.weight_decay = lr, momentum, nesterov, weight_decay
        self.tolerance, self.optimizer_index = tolerance, optimizer_index
        self._monitored = Monitored("AdamToSGD", mode, min_delta)
        self._meter: StepMeter | None = None
        self._begin()

    def _begin(self) -> None:
        self.switched = False
        """Whether SGD trains now."""
        self._due = False
        self._monitored.forget()
        self._estimate = RateEstimate()

    @property
    def estimates(self) -> bool:
        """Whether Adam's steps are measured: for the rate, or for the criterion."""
        return self.lr is None or (self.at_epoch is None and self.at_step is None and self.monitor is None)

    @property
    def _has_settled(self) -> bool:
        by_criterion = self.at_epoch is None and self.at_step is None and self.monitor is None
        return by_criterion and self._meter is not None and self._meter.settled

    # ---- a fit begins and ends ---------------------------------------------------------------------------

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Forget an earlier fit; a checkpoint's state comes after this."""
        super().setup(trainer, pl_module, stage)
        callbacks = callbacks_of(trainer)
        replaced = [callback.optimizer_index for callback in callbacks if isinstance(callback, AdamToSGD)]
        if replaced.count(self.optimizer_index) > 1:
            raise MisconfigurationException(
                f"AdamToSGD: two of them would replace optimizer {self.optimizer_index}; give each an "
                "optimizer_index of its own"
            )
        if stage == "fit":
            self._begin()

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check the optimizer; on a resume from after the switch, put SGD in place for its state."""
        if self.monitor is not None:
            refuse_barebones(trainer, "AdamToSGD", self.monitor)
        refuse_sharding(trainer, "AdamToSGD", "which cannot be switched")
        if self.optimizer_index >= len(trainer.optimizers):
            raise MisconfigurationException(
                f"AdamToSGD: optimizer_index is {self.optimizer_index}, and the module has "
                f"{len(trainer.optimizers)} optimizer(s)"
            )
        optimizer = trainer.optimizers[self.optimizer_index]
        if not optimizer.param_groups:  # what Lightning has for a module that configures none
            raise MisconfigurationException("AdamToSGD: the module has no optimizer, which it could replace")
        # A resumed run's groups may be SGD's already, where a callback has put them back that had added some.
        if "betas" not in optimizer.defaults and not all(
            "betas" in group for group in optimizer.param_groups
        ):
            raise MisconfigurationException(
                f"AdamToSGD: the optimizer must be of Adam's type (its groups have betas), got "
                f"{type(optimizer).__name__}"
            )
        if self.switched:
            self._replace(
                trainer, rate=1.0, restoring=True
            )  # its state, which Lightning loads next, has the rate
        elif self.estimates:
            self._meter = StepMeter(optimizer, self._estimate, self.tolerance)

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Warn if the run is too short to get to the switch."""
        own_steps = None if not pl_module.automatic_optimization else self.at_step
        for unit, time in (("epoch", self.at_epoch), ("step", own_steps)):
            if time is None or self.switched:
                continue
            length = run_length(trainer, unit, 1)
            if length.times <= time and not length.dry:
                rank_zero_warn(
                    f"AdamToSGD: the run's {length.times:.0f} {length.unit} end before at_{unit} {time}"
                )

    @override
    def let_go(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let go of the optimizer."""
        self._stop_measuring()

    def _stop_measuring(self) -> None:
        if self._meter is not None:
            self._meter.close()
            self._meter = None

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log the estimate as often as other values of a step."""
        if self._meter is not None and is_logging_step(trainer):
            pl_module.log(f"{self._log_path('adam_to_sgd')}/rate_estimate", self._meter.rate, batch_size=1)

    # ---- when ----------------------------------------------------------------------------------------------

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at the monitored value; the first process's counts."""
        if self.monitor is None or self.switched or not validates_in_fit(trainer):
            return
        self._monitored.improves(logged_value(trainer, self.monitor, "AdamToSGD"))
        self._due = self._monitored.bad_checks >= self.patience

    @override
    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Switch if it is time: the training loop looks for its optimizer after this hook."""
        if self.switched:
            return
        if self.at_epoch is not None:
            due = trainer.current_epoch >= self.at_epoch
        elif self.at_step is not None:
            due = trainer.global_step >= self.at_step
        elif self.monitor is not None:
            due = self._due
        else:
            due = trainer.strategy.reduce_boolean_decision(self._due or self._has_settled, all=False)
        if not due:
            return
        optimizer = trainer.optimizers[self.optimizer_index]
        rate = self.lr
        if rate is None:
            beta2 = optimizer.param_groups[0]["betas"][1]
            estimate = float(trainer.strategy.broadcast(self._estimate.rate(beta2=beta2)))
            if not estimate > 0.0:
                return
            rate = (1.0 - self.momentum) * estimate
        self._replace(trainer, rate)
        pl_module.log(f"{self._log_path('adam_to_sgd')}/lr", rate, batch_size=1)
        rank_zero_info(
            f"AdamToSGD: SGD with learning rate {rate:.4g} and momentum {self.momentum} goes on from "
            f"step {trainer.global_step}, epoch {trainer.current_epoch}"
        )

    def _replace(self, trainer: Trainer, rate: float, *, restoring: bool = False) -> None:
        self._stop_measuring()
        adam = trainer.optimizers[self.optimizer_index]
        rates = [float(group["lr"]) for group in adam.param_groups]
        largest = max(rates)
        groups = [
            {
                "params": group["params"],
                "lr": rate * (own / largest if largest > 0.0 else 1.0),
                "weight_decay": group.get("weight_decay", 0.0)
                if self.weight_decay is None
                else self.weight_decay,
                "maximize": group.get("maximize", False),
            }
            for group, own in zip(adam.param_groups, rates, strict=True)
        ]
        sgd = torch.optim.SGD(groups, lr=rate, momentum=self.momentum, nesterov=self.nesterov)
        try:
            replace_optimizer(trainer, adam, sgd, restoring=restoring)
        except MisconfigurationException as error:
            raise MisconfigurationException(f"AdamToSGD: {error}") from error
        self.switched, self._due = True, False

    # ---- checkpoints ---------------------------------------------------------------------------------------

    @override
    def state_dict(self) -> dict[str, Any]:
        """Return whether it has switched, and what the decision depends on."""
        return {
            "switched": self.switched,
            "due": self._due or self._has_settled,
            **self._monitored.state_dict(),
            "average": self._estimate.average,
            "steps": self._estimate.steps,
        }

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up such a state."""
        self.switched, self._due = state_dict["switched"], state_dict["due"]
        self._monitored.load_state_dict(state_dict)
        self._estimate = RateEstimate(state_dict["average"], state_dict["steps"])
