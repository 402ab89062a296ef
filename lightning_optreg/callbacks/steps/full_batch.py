"""Batch gradient descent in chunks: one step per epoch, on the gradient of the whole training set.

The loss of all N images is the mean of the losses of K chunks, weighted by their images, and so is its
gradient: g = sum over k of n_k / N * g_k. Only one chunk is in memory at a time. Every evaluation gives the
whole loss and gradient, so optimizers that call their closure several times in a step, such as L-BFGS, see
the same function each time.
"""

from collections.abc import Callable, Iterator, Sized
from itertools import islice
from typing import Any, NoReturn

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import LearningRateFinder
from lightning.pytorch.utilities.data import extract_batch_size
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from torch import Tensor
from typing_extensions import override

from lightning_optreg.callbacks._let_go import LetsGo
from lightning_optreg.callbacks.batches.changed_batch import ChangedBatch
from lightning_optreg.callbacks.records.throughput import Throughput
from lightning_optreg.callbacks.steps._running_gradient import RunningMean, with_gradients
from lightning_optreg.callbacks.steps.noise_free import NoiseFree
from lightning_optreg.optimizers import Newton
from lightning_optreg.trainer.moved_batch import move_batch
from lightning_optreg.trainer.noise_left import active_batch_norms, compares_losses, warn_of_noise
from lightning_optreg.trainer.queries import callbacks_of, has_gradient_scaler
from lightning_optreg.trainer.refusals import (
    refuse_asynchronous,
    refuse_manual_optimization,
    refuse_own_weights,
    refuse_split_network,
    refuse_steps_elsewhere,
)
from lightning_optreg.trainer.roles import BreaksPrivacy

__all__ = ["FullBatch"]


class FullBatch(NoiseFree, LetsGo, BreaksPrivacy):
    """One step per epoch, on loss and gradient of the whole training set, without noise.

    The loader's batches are the chunks, which must fit in memory; the last may be smaller, and they are
    weighted by their images. Everything uses Lightning's automatic optimization: the optimizer's closure
    evaluates the whole set each time it is called, so torch's LBFGS, `BFGS` and `Newton` work unchanged, and
    any other optimizer does batch gradient descent. Hooks, clipping, schedules, checkpoints and resuming work
    as usual, with the whole set as one "batch": the progress bar shows one per epoch, and `max_steps` counts
    epochs. `limit_train_batches` limits the chunks.

    The module's `training_step` is called for each chunk. Its values are logged only in the first evaluation
    of a step, at the starting point of the step. It also logs `optreg/full_batch/loss`, at the same point,
    and `optreg/full_batch/evaluations`, the number of evaluations in the step. Other side effects of the
    step, such as on running averages of batch normalisation or your own metrics, happen in every evaluation;
    batch normalisation uses each chunk's statistics.

    Chunks for which the module returns no loss (None) are left out, as in Lightning.

    With several processes each evaluates its share; loss and gradient are averaged over all, so all make the
    same decisions. `Newton` needs a single process.

    Args:
        noise_free: Turn off shuffling, augmentation and noise layers, list them, and refuse callbacks that
            add noise, as `NoiseFree` does. If False, each evaluation has different noise, which misleads
            optimizers that compare losses; a warning says so. A `DataLoader` of yours that shuffles is no
            noise, as every evaluation sees all images, unless `limit_train_batches` or `drop_last` leaves
            some out, or batch normalisation looks at single chunks.

    Raises:
        TypeError: If noise_free is not a bool.
        MisconfigurationException: Before the first step, with manual optimization, `accumulate_grad_batches`,
            `LearningRateFinder`, a gradient scaler (16-mixed), several training loaders, a `training_step`
            that takes `dataloader_iter`, a val_check_interval above 1 within an epoch, or a strategy whose
            workers have weights of their own or do not wait for each other, or whose servers make the steps;
            if the optimizer compares losses, with reduced precision (differences of losses are lost in
            rounding) or `gradient_clip_val` (clipped gradients are not those of the loss); with LBFGS and
            parameters in channels-last layout; and with `Newton` and several processes. In a step, if
            `training_step` returns no loss.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[FullBatch()], accelerator="cpu", logger=False)
    """

    only_one = "as it makes the only step of an epoch"
    breaks_privacy = "sums gradients over all batches of an epoch"
    whole_set = True

    def __init__(self, noise_free: bool = True) -> None:
        if not isinstance(noise_free, bool):
            raise TypeError(f"FullBatch: noise_free must be true or false, got {noise_free!r}")
        super().__init__(noise_free, noise_free, noise_free)
        self.noise_free = noise_free
        self._limit: int | float | None = None
        self._evaluations = 0
        self._images = 0
        self._loss: Tensor | None = None
        self._step: Callable[..., Any] | None = None

    # ---- before the first step -----------------------------------------------------------------------------

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse unsupported settings, and make epochs of one batch."""
        super().setup(trainer, pl_module, stage)
        if stage != "fit":
            return
        refuse_manual_optimization(
            pl_module, "FullBatch", "since it makes the closure that the optimizer gets"
        )
        refuse_split_network(trainer, "FullBatch", "so no process can compute the gradient of the whole set")
        refuse_own_weights(
            trainer, "FullBatch", "so the whole set has no one loss and gradient; use ddp, or one process"
        )
        refuse_steps_elsewhere(
            trainer,
            "FullBatch",
            "each with one worker's share of the images, and not with all; use ddp, or one process",
        )
        refuse_asynchronous(
            trainer, "FullBatch", "so their gradients are not summed to that of the whole set; use ddp"
        )
        interval = trainer.val_check_interval
        if isinstance(interval, int) and interval > 1 and trainer.check_val_every_n_epoch is not None:
            _refuse(
                f"an epoch has one step, so val_check_interval must be 1.0, got {interval}; or set "
                "check_val_every_n_epoch=None to count steps over all epochs"
            )
        callbacks = callbacks_of(trainer)
        if any(isinstance(each, LearningRateFinder) for each in callbacks):
            _refuse("an epoch has one batch, but LearningRateFinder tries one rate per batch: remove it")
        if trainer.accumulate_grad_batches != 1:
            _refuse("it accumulates over the whole set itself: set accumulate_grad_batches to 1")
        if has_gradient_scaler(trainer):
            _refuse("it does not work with a gradient scaler: use precision 32-true or bf16-mixed")
        if is_param_in_hook_signature(pl_module.training_step, "dataloader_iter", explicit=True):
            _refuse("training_step must take a batch, not dataloader_iter")
        limit: int | float = trainer.limit_train_batches
        if limit != 0 and self._limit is None:
            self._limit = limit
            trainer.limit_train_batches = 1

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse settings that don't work with the optimizer."""
        names = [type(optimizer).__name__ for optimizer in trainer.optimizers if compares_losses(optimizer)]
        precision = str(trainer.precision_plugin.precision)
        if names and precision not in ("32-true", "64-true"):
            _refuse(f"{names[0]} compares losses, for which precision {precision} is too low: use 32-true")
        if names and trainer.gradient_clip_val:
            _refuse(f"{names[0]} needs the unclipped gradient of the loss: remove gradient_clip_val")
        contiguous = all(parameter.is_contiguous() for parameter in pl_module.parameters())
        if "LBFGS" in names and not contiguous:
            _refuse("torch's LBFGS needs contiguous parameters: set channels_last to false")
        if "Newton" in names and trainer.world_size > 1:
            _refuse(f"Newton works on one process, not on {trainer.world_size}: use LBFGS or BFGS")

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Replace the module's training step."""
        if isinstance(trainer.train_dataloader, (dict, list, tuple)):
            _refuse("there must be one training loader, got several")
        super().on_train_start(trainer, pl_module)
        self._step = pl_module.training_step

        def training_step(batch: Any, batch_idx: int) -> Tensor | None:
            return self._evaluate(trainer, pl_module)

        # On the instance, until the end of the fit; `self._step` is the class's own step.
        pl_module.training_step = training_step  # type: ignore[method-assign]
        for optimizer in trainer.optimizers:
            if isinstance(optimizer, Newton):
                optimizer.objective = lambda: self._parts(trainer, pl_module)

    @override
    def _warn(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Warn of noise that is left; the order of the chunks is none, if their sum is that of all images."""
        loader: Any = trainer.train_dataloader
        some = getattr(loader, "drop_last", False) or (self._limit is not None and self._limit < 1.0)
        if isinstance(self._limit, int):
            some = not isinstance(loader, Sized) or self._limit < len(loader)
        warn_of_noise(
            trainer,
            pl_module,
            advice="FullBatch cannot turn this off: change the loader (shuffle=False) or the layers."
            if self.noise_free
            else "Set noise_free to true in FullBatch to turn it off.",
            order_counts=some or bool(active_batch_norms(pl_module)),
        )

    # ---- an evaluation -------------------------------------------------------------------------------------

    @override
    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Begin a step, with the epoch's only batch."""
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        self._evaluations, self._loss = 0, None

    def _evaluate(self, trainer: Trainer, module: LightningModule) -> Tensor | None:
        """Return the loss of the whole set, over all processes; its `backward` gives the gradient.

        None, for which Lightning skips the step, if the module returns no loss for any chunk.
        """
        parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
        mean = RunningMean(len(parameters))
        for loss, images in self._losses(trainer, module, quiet=self._evaluations > 0):
            with torch.autocast(module.device.type, enabled=False):
                gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
            mean.add(loss.detach(), list(gradients), images)
        if mean.loss is None and (trainer.world_size > 1 or any(map(compares_losses, trainer.optimizers))):
            _refuse("training_step must return a loss, got None for each batch")
        if mean.loss is None:
            return None
        reached = [(p, g) for p, g in zip(parameters, mean.gradients, strict=True) if g is not None]
        value, self._images = mean.loss, mean.images
        if trainer.world_size > 1:
            count = torch.tensor(mean.images, device=value.device)
            total = int(trainer.strategy.reduce(count, reduce_op="sum"))
            share = mean.images * trainer.world_size / total  # 1 if all have the same number
            for _, gradient in reached:
                gradient.mul_(share)  # DDP takes the mean over the processes
            value = trainer.strategy.reduce(value * share, reduce_op="mean")
        self._evaluations += 1
        if self._evaluations == 1:
            self._loss = value
        return with_gradients(value, [p for p, _ in reached], [g for _, g in reached])

    def _losses(
        self, trainer: Trainer, module: LightningModule, *, quiet: bool
    ) -> Iterator[tuple[Tensor, int]]:
        """Yield each chunk's loss, with its number of images."""
        step = self._step
        assert step is not None  # set in on_train_start
        with_index = is_param_in_hook_signature(step, "batch_idx", min_args=2)
        if quiet:
            module.log = module.log_dict = _nothing  # type: ignore[method-assign]
        try:
            for index, batch in enumerate(self._chunks(trainer, module)):
                output = step(batch, index) if with_index else step(batch)
                loss: Any = output.get("loss") if isinstance(output, dict) else output
                if loss is None:  # the module skips the batch
                    continue
                if not isinstance(loss, Tensor):
                    _refuse(f"training_step must return a loss, got {type(loss).__name__}")
                yield loss, extract_batch_size(batch)
        finally:
            if quiet:
                del module.log, module.log_dict

    def _chunks(self, trainer: Trainer, module: LightningModule) -> Iterator[Any]:
        loader: Any = trainer.train_dataloader
        stop: int | None = None
        if isinstance(self._limit, int):
            stop = self._limit
        elif self._limit is not None and self._limit < 1.0:
            stop = int(len(loader) * self._limit)
        callbacks = callbacks_of(trainer)
        changes = [callback for callback in callbacks if isinstance(callback, ChangedBatch)]
        for index, batch in enumerate(islice(iter(loader), stop)):
            moved = move_batch(trainer, module, batch)
            for callback in changes:
                callback.change_batch(trainer, moved, index)
            yield moved

    def _parts(self, trainer: Trainer, module: LightningModule) -> Iterator[Tensor]:
        """Yield the chunks' contributions to the loss, with their graphs, for second derivatives."""
        for loss, images in self._losses(trainer, module, quiet=True):
            yield loss * (images / self._images)
        self._evaluations += 1

    # ---- after it ------------------------------------------------------------------------------------------

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log the step."""
        if self._loss is not None:
            values = {"loss": self._loss, "evaluations": torch.tensor(float(self._evaluations))}
            named = {f"optreg/full_batch/{name}": value for name, value in values.items()}
            pl_module.log_dict(named, batch_size=1)
            passes = self._evaluations * self._images - extract_batch_size(batch)
            for callback in callbacks_of(trainer):
                if isinstance(callback, Throughput):  # it only counts the one batch that it sees
                    callback.images += passes * trainer.world_size

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore the module's training step."""
        super().on_train_end(trainer, pl_module)
        if self._step is not None:
            del pl_module.training_step
            self._step = None
        for optimizer in trainer.optimizers:
            if isinstance(optimizer, Newton):
                optimizer.objective = None

    @override
    def let_go(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore the trainer's limit."""
        if self._limit is not None:
            trainer.limit_train_batches = self._limit
            self._limit = None


def _refuse(reason: str) -> NoReturn:
    raise MisconfigurationException(f"FullBatch: {reason}")


def _nothing(*args: Any, **kwargs: Any) -> None:
    """Replace `log` when a point is evaluated again."""
