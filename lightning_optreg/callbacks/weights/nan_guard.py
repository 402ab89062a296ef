"""Check that losses and gradients are finite; otherwise end the run or skip the batch.

A loss that overflows gives NaN gradients and then NaN weights, and a run continues with them for hours,
overwriting its checkpoints. The step and the layer in which this began help to find the cause.
"""

from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.optim import Optimizer
from typing_extensions import override

from lightning_optreg.callbacks._let_go import LetsGo
from lightning_optreg.callbacks._of_a_kind import OfAKind
from lightning_optreg.callbacks.weights._non_finite import Recorder, all_finite, trace_backward, trace_forward
from lightning_optreg.places import place_of
from lightning_optreg.trainer.queries import has_gradient_scaler, is_logging_step
from lightning_optreg.trainer.refusals import refuse_sharding
from lightning_optreg.trainer.roles import BreaksPrivacy

__all__ = ["NaNGuard"]


class NaNGuard(OfAKind, LetsGo, BreaksPrivacy):
    """End the run, or skip the step, when a loss or a gradient is not finite.

    Losses and gradients are checked right before every optimizer step, before clipping, while the weights are
    still good. With `action="stop"` a FloatingPointError names the step, the layer in which it began and the
    newest checkpoint. The layer is found by running the inputs of the module's children again, with the same
    random numbers and hooks on every layer; computations of the `training_step` outside of modules can't be
    named. With accumulation only the last batch of a window can be examined.

    With `action="skip"` the optimizer changes nothing: its gradients become None, which the optimizers of
    torch and of this package ignore, including their states. Running statistics of batch normalisation are
    restored to those before the batch (with accumulation, before the window). The step counts for Lightning
    and for schedules; metrics that the module keeps include the bad batch. After `max_skips` consecutive
    skips the run ends as above.

    With a gradient scaler (16-mixed) only the loss is checked: gradients overflow there by design, and the
    scaler skips the step itself. With DDP the processes decide together, by reducing one number per step. It
    works with any optimizer, including manual optimization and several optimizers. Logs
    `optreg/nan_guard/skipped`, the number of skipped steps.

    Args:
        action: Whether to `stop` the run or `skip` the step. Default: stop.
        max_skips: Number of consecutive skips after which the run ends anyway, at least 1. Default: 10.

    Raises:
        ValueError: If a value is out of its range.
        MisconfigurationException: Before the first step, if the strategy shards parameters.
        FloatingPointError: In training, if a loss or a gradient is not finite; see above.

    Warns:
        RuntimeWarning: For each skipped step.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[NaNGuard(action="skip")], accelerator="cpu", logger=False)
    """

    only_one = "as it decides what happens to a batch"
    breaks_privacy = "acts on losses without noise, and an empty batch has none that is finite"

    def __init__(self, action: Literal["stop", "skip"] = "stop", max_skips: int = 10) -> None:
        if action not in ("stop", "skip"):
            raise ValueError(f"NaNGuard: action must be stop or skip, got {action!r}")
        if not (isinstance(max_skips, int) and max_skips >= 1):
            raise ValueError(f"NaNGuard: max_skips must be a whole number >= 1, got {max_skips}")
        self.action, self.max_skips = action, max_skips
        self.skipped = 0
        """Number of skipped steps."""
        self._in_succession = 0
        self._recorder: Recorder | None = None
        self._losses: list[
            tuple[int, Tensor]
        ] = []  # of the window: the batch, and whether its loss is finite
        self._statistics: list[tuple[Tensor, Tensor]] = []  # buffers and their earlier values
        self._batch_idx = 0

    @override
    def begin_fit(self) -> None:
        """Forget an earlier fit."""
        self.skipped = self._in_succession = 0

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse strategies with which a process can't run a layer on its own."""
        refuse_sharding(trainer, "NaNGuard", "so no process can run a layer again")

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start recording the inputs of the module's children, and find the running statistics."""
        self._recorder = Recorder(pl_module)
        self._losses = []
        self._find_statistics(pl_module)

    def _find_statistics(self, pl_module: LightningModule) -> None:
        self._statistics = []
        if self.action == "skip":
            norms = [m for m in pl_module.modules() if isinstance(getattr(m, "running_mean", None), Tensor)]
            buffers = [buffer for norm in norms for buffer in norm.buffers(recurse=False)]
            self._statistics = [(buffer, buffer.clone()) for buffer in buffers]

    @override
    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Note the statistics and the random states."""
        self._batch_idx = batch_idx
        if batch_idx == 0:  # layers may have changed since the last epoch
            self._find_statistics(pl_module)
        if self._recorder is not None:
            self._recorder.begin(pl_module.device)
        if self._statistics and not self._losses:
            now, kept = zip(*self._statistics, strict=True)
            torch._foreach_copy_(kept, now)

    @override
    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Check a loss, without waiting for the device."""
        self._losses.append((self._batch_idx, loss.detach().isfinite().all()))

    @override
    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        """Check the losses and gradients of the step."""
        losses, self._losses = self._losses, []
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        good = torch.ones((), dtype=torch.bool, device=pl_module.device)
        for _, finite in losses:
            good = good & finite.to(good.device)
        if parameters and not has_gradient_scaler(trainer):
            good = good & all_finite(p.grad for p in parameters if p.grad is not None).to(good.device)
        bad = not bool(good)
        if trainer.world_size > 1:
            bad = trainer.strategy.reduce_boolean_decision(bad, all=False)
        if not bad:
            self._in_succession = 0
            if self._recorder is not None:
                self._recorder.forget()
            return
        self._in_succession += 1
        message = self._message(trainer, pl_module, losses)
        if self.action == "stop" or self._in_succession > self.max_skips:
            if self.action == "skip":
                message = f"{message} (after {self.max_skips} consecutive skips)"
            raise FloatingPointError(f"NaNGuard: {message}; {_newest_checkpoint(trainer)}")
        self.skipped += 1
        rank_zero_warn(f"NaNGuard: {message}; skipped, {self.skipped} so far", category=RuntimeWarning)
        for parameter in parameters:
            parameter.grad = None
        if self._statistics:
            now, kept = zip(*self._statistics, strict=True)
            torch._foreach_copy_(now, kept)

    def _message(self, trainer: Trainer, pl_module: LightningModule, losses: list[tuple[int, Tensor]]) -> str:
        step = f"step {trainer.global_step + 1} (epoch {trainer.current_epoch}, batch {self._batch_idx})"
        culprits = [batch_idx for batch_idx, finite in losses if not finite]
        what = "the loss is not finite" if culprits else "a gradient is not finite"
        if not culprits and all(self._gradients_are_finite(o) for o in trainer.optimizers):
            return f"{step}: another process's loss is not finite; see its message"
        if culprits and culprits[0] != self._batch_idx:
            return f"{step}: {what} in batch {culprits[0]} of the accumulation window"
        recorder = self._recorder
        if recorder is None or not recorder.calls:
            return f"{step}: {what}; its origin is unknown, as no child of the module was called"
        if trainer.world_size > 1 and any(isinstance(m, nn.SyncBatchNorm) for m in pl_module.modules()):
            return (
                f"{step}: {what}; its origin is unknown, as SyncBatchNorm can't be run again by one process"
            )
        with trainer.precision_plugin.train_step_context():
            place = trace_forward(recorder, pl_module.device)
            if place is None and not culprits:
                place = trace_backward(recorder, pl_module.device)
        if place is None:
            place = "what the module computes outside of its layers"
        return f"{step}: {what}; it began in {place}"

    @staticmethod
    def _gradients_are_finite(optimizer: Any) -> bool:
        gradients = [p.grad for g in optimizer.param_groups for p in g["params"] if p.grad is not None]
        return not gradients or bool(all_finite(gradients))

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log the number of skipped steps every `log_every_n_steps` steps."""
        if self.action == "skip" and is_logging_step(trainer):
            pl_module.log("optreg/nan_guard/skipped", float(self.skipped), batch_size=1)

    @override
    def let_go(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the hooks away."""
        if self._recorder is not None:
            self._recorder.close()
            self._recorder = None
        self._losses, self._statistics = [], []

    @override
    def state_dict(self) -> dict[str, Any]:
        """Return the counts."""
        return {"skipped": self.skipped, "in_succession": self._in_succession}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the counts."""
        self.skipped, self._in_succession = state_dict["skipped"], state_dict["in_succession"]


def _newest_checkpoint(trainer: Trainer) -> str:
    """Return the newest file of a ModelCheckpoint, in words; all were written before this step."""
    paths = set()
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, ModelCheckpoint):
            paths |= {callback.last_model_path, callback.best_model_path, *callback.best_k_models}
    there = [place for path in paths if path and (place := place_of(path)).exists()]
    if not there:
        return "no checkpoint has been written yet"
    return f"the last good checkpoint is {max(there, key=lambda path: path.stat().st_mtime)}"
