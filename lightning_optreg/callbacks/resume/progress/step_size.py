"""The number of images in an optimizer step over all processes, before and after a resume."""

from dataclasses import asdict, dataclass
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_warn

from lightning_optreg.data.loader import BatchLoader
from lightning_optreg.trainer.queries import place_in_step

__all__ = ["StepSize", "warn_of_changes"]


@dataclass(frozen=True)
class StepSize:
    """Batches and images of a step.

    Attributes:
        batches: Batches of the loader that are accumulated for a step, as configured in the trainer;
            callbacks may change it from epoch to epoch.
        images: Images of a batch over all processes; None if the loader does not say.
    """

    batches: int = 1
    images: int | None = None

    @classmethod
    def configured(cls, trainer: Trainer) -> "StepSize":
        """Read the trainer's setting, before callbacks change it; the loader is added once it exists."""
        return cls(trainer.accumulate_grad_batches)

    def with_loader(self, trainer: Trainer) -> "StepSize":
        """Add the batch size of the training loader."""
        loader: Any = trainer.train_dataloader
        if isinstance(loader, BatchLoader):
            return StepSize(self.batches, loader.global_batch)
        batches_by = loader if getattr(loader, "batch_size", None) else getattr(loader, "batch_sampler", None)
        of_one = getattr(batches_by, "batch_size", None)
        return StepSize(self.batches, of_one * place_in_step(trainer)[1] if isinstance(of_one, int) else None)

    def plain(self) -> dict[str, int | None]:
        """Return it as plain types for a checkpoint."""
        return asdict(self)


def warn_of_changes(
    trainer: Trainer, processes: int, before: StepSize | None, now: StepSize, *, mid_epoch: bool
) -> None:
    """Warn in one sentence of changes by a resume that can't be avoided.

    Args:
        trainer: The trainer.
        processes: Number of processes of the saved run.
        before: Step size of the saved run; None if not known.
        now: Step size of this run.
        mid_epoch: Whether it continues in the middle of an epoch.
    """
    changes = []
    _, now_processes = place_in_step(trainer)
    if processes != now_processes:
        changes.append(
            f"the checkpoint comes from {processes} process(es), this run has {now_processes}, so layers"
            " that draw from the global generators, such as dropout, draw other numbers"
        )
    before = before or now
    changed = _changed_step(now_processes, processes, before, now)
    # In the middle of an epoch a loader of this package refuses other batches itself.
    refuses = mid_epoch and now.images != before.images and isinstance(trainer.train_dataloader, BatchLoader)
    if changed and not refuses:
        changes.append(changed)
    if changes:
        rank_zero_warn(f"ExactResume: {'; '.join(changes)}.")


def _changed_step(world_size: int, processes: int, before: StepSize, now: StepSize) -> str | None:
    if before.images is None or now.images is None:
        if (processes, before.batches) == (world_size, now.batches):
            return None  # nothing is known to have changed
        return (
            f"a step takes {world_size} x {now.batches} batches (processes x accumulate_grad_batches) instead"
            f" of {processes} x {before.batches}: for the same number of images, adapt the batch size"
        )
    had, has = before.batches * before.images, now.batches * now.images
    if had == has:
        return None
    way = "no batch size gives the same with this number of batches"
    if had % (now.batches * world_size) == 0:
        way = f"for the same, set the batch size of a process to {had // (now.batches * world_size)}"
    return f"a step takes {has} images over all processes instead of {had}: {way}"
