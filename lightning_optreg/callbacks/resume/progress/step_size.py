"""How many images a step of the optimizer takes over all processes, before and after a resume."""

from dataclasses import asdict, dataclass
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_warn

from lightning_optreg.data.loader import BatchLoader

__all__ = ["StepSize", "warn_of_changes"]


@dataclass(frozen=True)
class StepSize:
    """Batches and images of a step.

    Attributes:
        batches: Batches of the loader that are accumulated for a step, as the trainer was configured:
            callbacks may change it from epoch to epoch.
        images: Images of a batch over all processes; None if the loader does not tell.
    """

    batches: int = 1
    images: int | None = None

    @classmethod
    def configured(cls, trainer: Trainer) -> "StepSize":
        """Ask the trainer, before callbacks change it; the loader is asked when it is there."""
        return cls(trainer.accumulate_grad_batches)

    def with_loader(self, trainer: Trainer) -> "StepSize":
        """Add what the training loader tells."""
        loader: Any = trainer.train_dataloader
        if isinstance(loader, BatchLoader):
            return StepSize(self.batches, loader.global_batch)
        batches_by = loader if getattr(loader, "batch_size", None) else getattr(loader, "batch_sampler", None)
        of_one = getattr(batches_by, "batch_size", None)
        return StepSize(self.batches, of_one * trainer.world_size if isinstance(of_one, int) else None)

    def plain(self) -> dict[str, int | None]:
        """Give it as a checkpoint may hold it."""
        return asdict(self)


def warn_of_changes(
    trainer: Trainer, processes: int, before: StepSize | None, now: StepSize, *, mid_epoch: bool
) -> None:
    """Say in one sentence what a resume changes that this package cannot make equal.

    Args:
        trainer: The trainer.
        processes: Number of processes of the saved run.
        before: What a step of the saved run took; None if that is not known.
        now: What a step of this one takes.
        mid_epoch: Whether it goes on in the middle of an epoch.
    """
    changes = []
    if processes != trainer.world_size:
        changes.append(
            f"the checkpoint comes from {processes} process(es) and this run has {trainer.world_size}, so"
            " layers that draw from the global generators, as dropout does, draw other numbers"
        )
    before = before or now
    changed = _changed_step(trainer.world_size, processes, before, now)
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
            f"a step takes {world_size} x {now.batches} batches (processes x accumulate_grad_batches) and"
            f" took {processes} x {before.batches}: for as many images, change the batch size accordingly"
        )
    had, has = before.batches * before.images, now.batches * now.images
    if had == has:
        return None
    way = "no batch size makes as many with this number of batches"
    if had % (now.batches * world_size) == 0:
        way = f"for as many, set the batch size of a process to {had // (now.batches * world_size)}"
    return f"a step takes {has} images over all processes and took {had}: {way}"
