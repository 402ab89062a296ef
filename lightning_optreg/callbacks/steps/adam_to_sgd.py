"""Train first with Adam and then with SGD, for any optimizer like Adam in the module.

Adam is faster at first, SGD with momentum often reaches a better test error (Wilson et al. 2017,
arXiv:1705.08292). Keskar and Socher 2017 (arXiv:1712.07628) switch from one to the other and estimate SGD's
learning rate from Adam's steps.
"""

import math
from typing import Any, Literal

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from typing_extensions import override

from lightning_optreg._checks import check_numbers, check_range
from lightning_optreg.callbacks._let_go import LetsGo
from lightning_optreg.callbacks._monitored import Monitored, logged_value
from lightning_optreg.callbacks._of_a_kind import OfAKind
from lightning_optreg.optimizers.rate_estimate import RateEstimate, StepMeter
from lightning_optreg.trainer.optimizer_switch import replace_optimizer
from lightning_optreg.trainer.queries import is_logging_step, validates_in_fit
from lightning_optreg.trainer.refusals import (
    refuse_asynchronous,
    refuse_barebones,
    refuse_sharding,
    refuse_steps_elsewhere,
)
from lightning_optreg.trainer.run_length import run_length

__all__ = ["AdamToSGD"]


class AdamToSGD(OfAKind, LetsGo):
    """Replace an optimizer like Adam by SGD with momentum during the run.

    It switches before the first batch of an epoch (`at_epoch`), after a number of optimizer steps
    (`at_step`), after `patience` validations without improvement of a monitored value (`monitor`), or, if
    none of these is given, by the criterion of SWATS: when gamma_k = p.p / -(p.g), the rate at which an SGD
    step along the gradient g would have Adam's step p as its projection, is within `tolerance` of its own
    average Lambda_k (see `lightning_optreg.optimizers.RateEstimate`).

    SGD starts without momentum at `lr`, or, if not given, at (1 - momentum) Lambda_k as in the second phase
    of SWATS; the switch then waits for a positive estimate. This is the rate of the group with the largest
    rate; the others keep their ratios to it. Groups keep their weight decay, which SGD couples: lambda *
    theta is added to the gradient. Schedules continue and scale the new rate as they would have scaled the
    old one. Adam's state is freed.

    It works with gradient accumulation, clipping, AMP and DDP (the ranks decide together), with manual
    optimization, and when resuming from a checkpoint before or after the switch. The estimate costs a copy of
    the parameters and three passes over them in each step until the switch; with `lr` and a time given
    nothing is estimated. Logs `optreg/adam_to_sgd/rate_estimate` while it estimates, and
    `optreg/adam_to_sgd/lr` at the switch. (Requested in pytorch-lightning issues 4044 and 6829.)

    Args:
        at_epoch: First epoch with SGD, counted from 0; at least 0.
        at_step: Number of optimizer steps before the switch, at least 0; those of all optimizers count, as
            in `trainer.global_step`.
        monitor: Name of a logged value, checked after each validation.
        mode: Whether the monitored value should fall ("min") or rise ("max").
        patience: Validations without improvement before the switch, at least 1. Default: 3.
        min_delta: Smallest change that counts as an improvement, at least 0.
        lr: SGD's learning rate at the switch, above 0, for the group with the largest rate. None: estimated.
        momentum: Momentum of SGD, in [0, 1). Default: 0.9, as beta1 in SWATS.
        nesterov: Use Nesterov's form of momentum.
        weight_decay: Weight decay of SGD, at least 0. None: that of each group.
        tolerance: Largest distance of gamma_k from its average at the switch, above 0. gamma_k fluctuates, so
            they meet by chance, and sooner with a larger tolerance. Default: 1e-5; the paper's 1e-9 is below
            float32's resolution.
        optimizer_index: Index of the optimizer to replace, at least 0.

    Raises:
        ValueError: If a value is out of its range, or more than one of at_epoch, at_step and monitor is
            given.
        MisconfigurationException: Before the first step, if there is no such optimizer, its groups have no
            `betas` as Adam's have, another `AdamToSGD` would replace it, the strategy shards parameters or
            makes steps on servers, its workers do not wait for each other and neither at_epoch nor at_step
            is given or, with monitor, the trainer is barebones; after a validation, if the
            monitored value is not logged; at the switch, if a schedule is at a rate of 0.

    Warns:
        UserWarning: If the run ends before the switch.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[AdamToSGD(at_epoch=10, lr=0.05)], accelerator="cpu", logger=False)
    """

    must_differ = ("optimizer_index", "replace optimizer")

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
                "AdamToSGD: at_epoch must be None with at_step or monitor, as only one may be given, got "
                f"at_epoch={at_epoch}, at_step={at_step} and monitor={monitor}"
            )
        for name, count, least in (
            ("at_epoch", at_epoch, 0),
            ("at_step", at_step, 0),
            ("patience", patience, 1),
            ("optimizer_index", optimizer_index, 0),
        ):
            if count is not None and not (isinstance(count, int) and count >= least):
                raise ValueError(f"AdamToSGD: {name} must be a whole number >= {least}, got {count}")
        given = {"lr": lr, "weight_decay": weight_decay}
        check_numbers("AdamToSGD", **{name: value for name, value in given.items() if value is not None})
        if lr is not None and not 0.0 < lr < math.inf:
            raise ValueError(f"AdamToSGD: lr must be > 0, got {lr}")
        check_range("AdamToSGD", "[0, 1)", momentum=momentum)
        if nesterov and momentum == 0.0:
            raise ValueError("AdamToSGD: momentum must be > 0 with nesterov, got 0")
        if weight_decay is not None and not 0.0 <= weight_decay < math.inf:
            raise ValueError(f"AdamToSGD: weight_decay must be >= 0, got {weight_decay}")
        check_numbers("AdamToSGD", tolerance=tolerance)
        if not 0.0 < tolerance < math.inf:
            raise ValueError(f"AdamToSGD: tolerance must be > 0, got {tolerance}")
        self.at_epoch, self.at_step, self.monitor = at_epoch, at_step, monitor
        self.mode, self.patience, self.min_delta = mode, patience, min_delta
        self.lr, self.momentum, self.nesterov, self.weight_decay = lr, momentum, nesterov, weight_decay
        self.tolerance, self.optimizer_index = tolerance, optimizer_index
        self._monitored = Monitored("AdamToSGD", mode, min_delta)
        self._meter: StepMeter | None = None
        self.begin_fit()

    @override
    def begin_fit(self) -> None:
        """Forget an earlier fit."""
        self.switched = False
        """Whether it has switched to SGD."""
        self._due = False
        self._monitored.forget()
        self._estimate = RateEstimate()

    @property
    def estimates(self) -> bool:
        """Whether Adam's steps are measured, for the rate or for the criterion."""
        return self.lr is None or (self.at_epoch is None and self.at_step is None and self.monitor is None)

    @property
    def _has_settled(self) -> bool:
        by_criterion = self.at_epoch is None and self.at_step is None and self.monitor is None
        return by_criterion and self._meter is not None and self._meter.settled

    # ---- a fit begins and ends ---------------------------------------------------------------------------

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check the optimizer; when resuming after the switch, put SGD in place for its state."""
        if self.monitor is not None:
            refuse_barebones(trainer, "AdamToSGD", self.monitor)
        refuse_sharding(trainer, "AdamToSGD", "which cannot be switched")
        refuse_steps_elsewhere(
            trainer, "AdamToSGD", "so it can't be replaced here; use SWATS, an optimizer that switches itself"
        )
        if self.at_epoch is None and self.at_step is None:
            refuse_asynchronous(
                trainer, "AdamToSGD", "so each would switch at a time of its own; set at_step or at_epoch"
            )
        if self.optimizer_index >= len(trainer.optimizers):
            raise MisconfigurationException(
                f"AdamToSGD: optimizer_index must be < {len(trainer.optimizers)}, the number of optimizers, "
                f"got {self.optimizer_index}"
            )
        optimizer = trainer.optimizers[self.optimizer_index]
        if not optimizer.param_groups:  # Lightning's placeholder for a module without an optimizer
            raise MisconfigurationException("AdamToSGD: the module must have an optimizer, got none")
        # A resumed run's groups may be SGD's already, if a callback that had added some has restored them.
        if "betas" not in optimizer.defaults and not all(
            "betas" in group for group in optimizer.param_groups
        ):
            raise MisconfigurationException(
                f"AdamToSGD: the optimizer must be like Adam (its groups have betas), got "
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
        """Warn if the run ends before the switch."""
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
        """Log the estimate every `log_every_n_steps` steps."""
        if self._meter is not None and is_logging_step(trainer):
            pl_module.log(f"{self._log_path('adam_to_sgd')}/rate_estimate", self._meter.rate, batch_size=1)

    # ---- when ----------------------------------------------------------------------------------------------

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at the monitored value; the first process's counts."""
        if self.monitor is None or self.switched or not validates_in_fit(trainer):
            return
        self._monitored.mode, self._monitored.min_delta = self.mode, self.min_delta
        self._monitored.improves(logged_value(trainer, self.monitor, "AdamToSGD"))
        self._due = self._monitored.bad_checks >= self.patience

    @override
    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Switch if it is time: the training loop gets its optimizer after this hook."""
        if self.switched:
            return
        if self.at_epoch is not None:
            due = trainer.current_epoch >= self.at_epoch
        elif self.at_step is not None:
            due = trainer.global_step >= self.at_step
        elif self.monitor is not None:
            due = self._due
        else:
            # The first process's: others may have measured steps of weights of their own.
            settled = trainer.is_global_zero and (self._due or self._has_settled)
            due = trainer.strategy.reduce_boolean_decision(settled, all=False)
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
            f"AdamToSGD: SGD with learning rate {rate:.4g} and momentum {self.momentum} continues from "
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
        """Return whether it has switched, and everything that the decision depends on."""
        return {
            "switched": self.switched,
            "due": self._due or self._has_settled,
            **self._monitored.state_dict(),
            "average": self._estimate.average,
            "steps": self._estimate.steps,
        }

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state."""
        self.switched, self._due = state_dict["switched"], state_dict["due"]
        self._monitored.load_state_dict(state_dict)
        self._estimate = RateEstimate(state_dict["average"], state_dict["steps"])
