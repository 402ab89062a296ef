"""Larger batches instead of lower learning rates.

Smith, Kindermans, Ying and Le 2017, "Don't decay the learning rate, increase the batch size"
(arXiv:1711.00489): the noise of SGD has the scale g = s (N / B - 1), about s N / B, and s N / (B (1 - m))
with momentum m. It falls alike whether the rate s is divided or the batch B multiplied; steps become fewer.
"""

import math
from bisect import bisect_right
from collections.abc import Sequence

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from typing_extensions import override

from lightning_optreg.callbacks._let_go import LetsGo
from lightning_optreg.callbacks._of_a_kind import OfAKind
from lightning_optreg.optimizers.rates import set_rate
from lightning_optreg.trainer.queries import callbacks_of
from lightning_optreg.trainer.refusals import refuse_manual_optimization
from lightning_optreg.trainer.roles import ChangesAccumulation

__all__ = ["BatchSizeGrowth", "noise_scale"]


def noise_scale(lr: float, batch_size: int, images: int, momentum: float = 0.0) -> float:
    """Give the scale of SGD's noise: g = s / (1 - m) (N / B - 1).

    Args:
        lr: Learning rate s.
        batch_size: Images in a step, B.
        images: Training images, N.
        momentum: m, in [0, 1).

    Example:
        >>> noise_scale(0.1, 100, 50_000), noise_scale(0.5, 500, 50_000)
        (49.900000000000006, 49.5)
    """
    return lr / (1.0 - momentum) * (images / batch_size - 1.0)


class BatchSizeGrowth(OfAKind, LetsGo, ChangesAccumulation):
    """Multiply the batch at milestones, where a schedule would divide the learning rate.

    From each milestone on a step takes `factor` times as many batches of the loader: they are accumulated, so
    it works with any module and loader, memory does not grow, and batch normalisation keeps the statistics of
    the loader's batches, which are the paper's "ghost" batches. Where the growth would exceed `max_growth`,
    the learning rate is divided by the factor instead. Epochs stay as they are and have fewer steps; a
    schedule that counts steps should count epochs. Logs `optreg/batch_size_growth/growth`.

    It is a function of the epoch, so a resumed run equals one that never stopped. As ever with accumulation
    in Lightning, what is left at an epoch's end makes a step of less than the full batch, at less than full
    weight.

    Args:
        milestones: Epochs, counted from 0, from which the batch is larger; increasing, at least 1.
        factor: By how much each time, at least 2. Default: 5.
        max_growth: Largest multiple of the first batch, at least 1. g holds for batches B far smaller
            than the N images. None: no limit.

    Raises:
        ValueError: If a value is out of its range.
        MisconfigurationException: Before the first step, with manual optimization; or if the limit would
            lower the rate of a module that has a schedule, which would undo it.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> growth = BatchSizeGrowth([60, 120, 160], factor=5, max_growth=25)
        >>> [growth.growth(epoch) for epoch in (0, 60, 120, 160)]
        [1, 5, 25, 25]
        >>> trainer = Trainer(callbacks=[growth], accelerator="cpu", logger=False)
    """

    only_one = "since each sets by how much to accumulate"

    def __init__(
        self, milestones: Sequence[int] = (), factor: int = 5, max_growth: int | None = None
    ) -> None:
        milestones = list(milestones)
        if not all(isinstance(m, int) and m >= 1 for m in milestones) or milestones != sorted(
            set(milestones)
        ):
            raise ValueError(f"BatchSizeGrowth: milestones must be increasing epochs >= 1, got {milestones}")
        if not (isinstance(factor, int) and factor >= 2):
            raise ValueError(f"BatchSizeGrowth: factor must be a whole number >= 2, got {factor}")
        if max_growth is not None and not (isinstance(max_growth, int) and max_growth >= 1):
            raise ValueError(f"BatchSizeGrowth: max_growth must be a whole number >= 1, got {max_growth}")
        self.milestones, self.factor, self.max_growth = milestones, factor, max_growth
        self._first: int | None = None

    def growth(self, epoch: int) -> int:
        """Give the multiple of the first batch in an epoch."""
        times = bisect_right(self.milestones, epoch)
        if self.max_growth is not None:
            times = min(times, int(math.log(self.max_growth, self.factor) + 1e-9))
        return int(self.factor**times)

    @override
    def accumulation(self, trainer: Trainer, epoch: int) -> int:
        """Give the batches of the loader that a step takes in an epoch, before and in training."""
        first = trainer.accumulate_grad_batches if self._first is None else self._first
        return first * self.growth(epoch)

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse what cannot work."""
        refuse_manual_optimization(
            pl_module, "BatchSizeGrowth", "since a module with manual optimization makes its own steps"
        )
        callbacks = callbacks_of(trainer)
        if any(isinstance(callback, GradientAccumulationScheduler) for callback in callbacks):
            raise MisconfigurationException(
                "BatchSizeGrowth: GradientAccumulationScheduler sets by how much to accumulate, too; leave "
                "one of them out"
            )
        lowers = bool(self.milestones) and self.growth(self.milestones[-1]) < self.factor ** len(
            self.milestones
        )
        if lowers and trainer.lr_scheduler_configs:
            raise MisconfigurationException(
                "BatchSizeGrowth: max_growth would have it divide the learning rate, which the module's "
                "schedule undoes; leave one of them out"
            )

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Accumulate as the epoch asks for; one that goes on after a resume has no other hook."""
        if self._first is None:
            self._first = trainer.accumulate_grad_batches
            epochs = trainer.max_epochs
            late = [str(milestone) for milestone in self.milestones if 0 < (epochs or 0) <= milestone]
            if late:
                rank_zero_warn(
                    f"BatchSizeGrowth: the run's {epochs} epochs end before milestones {', '.join(late)}"
                )
        trainer.accumulate_grad_batches = self.accumulation(trainer, trainer.current_epoch)

    @override
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take larger batches from a milestone on, or a lower rate."""
        epoch = trainer.current_epoch
        if self._first is not None:
            trainer.accumulate_grad_batches = self.accumulation(trainer, epoch)
        if epoch not in self.milestones:
            return
        if self.growth(epoch) == self.growth(epoch - 1):
            for optimizer in trainer.optimizers:
                for group in optimizer.param_groups:
                    set_rate(group, group["lr"] / self.factor)
            rank_zero_info(f"BatchSizeGrowth: learning rate divided by {self.factor} in epoch {epoch}")
        else:
            rank_zero_info(f"BatchSizeGrowth: {self.growth(epoch)} times the first batch in epoch {epoch}")

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the growth."""
        growth = float(self.growth(trainer.current_epoch))
        pl_module.log("optreg/batch_size_growth/growth", growth, sync_dist=True, batch_size=1)

    @override
    def let_go(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the trainer as it was."""
        if self._first is not None:
            trainer.accumulate_grad_batches = self._first
            self._first = None
