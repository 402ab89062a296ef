"""The position of a loader in an epoch, and whether another loader can continue from there.

The order of an epoch's images is a function of seed, epoch and number of images, and global batch k is its
k-th part. So a different number of processes can continue in the middle of an epoch if the global batch has
the same size. Which images an epoch leaves out depends on the number of processes, as all take equally many;
the epoch then ends with the images it was started with.
"""

import warnings
from typing import NoReturn, TypedDict

from lightning_optreg.data._order import deal

__all__ = ["LoaderState", "continued_epoch"]


class LoaderState(TypedDict):
    """The position of a loader; all but the first two entries determine the images and their order."""

    epoch: int
    batches: int
    """Batches handed out in this epoch."""
    epoch_batches: int
    """Batches in this epoch."""
    images: int
    """Images in this epoch, over all processes."""
    available: int
    """Images that an epoch is taken from, including those left out because they can't be shared evenly."""
    global_batch: int
    """Images in a full batch, over all processes."""
    seed: int


def continued_epoch(
    before: LoaderState, here: LoaderState, *, rank: int, world_size: int, even: bool
) -> list[tuple[int, int]]:
    """Return the batches of an epoch that a loader continues in the middle.

    Args:
        before: State of the loader that started the epoch.
        here: State of this loader, as it would start the epoch itself.
        rank: Rank of this process; only rank 0 warns.
        world_size: Number of processes.
        even: Whether all processes take equally many images.

    Returns:
        First position and end of each global batch, as from `deal`.

    Raises:
        ValueError: If they would differ from the batches that the epoch was started with.

    Warns:
        UserWarning: If images are left out of the last batch, because they can't be shared evenly.
    """
    epoch = before["epoch"]
    if before["global_batch"] != here["global_batch"]:
        _refuse(
            epoch,
            f"the checkpoint's run took {before['global_batch']} images per batch over all processes, this"
            f" one would take {here['global_batch']}: {_way_back(before, world_size)}",
        )
    if before["seed"] != here["seed"]:
        _refuse(
            epoch, f"its images are in the order of seed {before['seed']}, and the seed is now {here['seed']}"
        )
    if before["available"] != here["available"]:
        _refuse(
            epoch,
            f"the checkpoint's run had {before['available']} training images, this one has"
            f" {here['available']}",
        )
    bounds = deal(before["images"], here["global_batch"] // world_size, world_size, even=even)
    if not before["epoch_batches"] == here["epoch_batches"] == len(bounds):
        _refuse(
            epoch,
            f"it has {before['epoch_batches']} batches in the checkpoint's run and {here['epoch_batches']} in"
            " this one: use the drop_last and the number of processes of that run",
        )
    missing = before["images"] - bounds[-1][1]
    if missing and rank == 0:
        warnings.warn(
            f"BatchLoader: epoch {epoch} ends with {bounds[-1][1]} images instead of the"
            f" {before['images']} of the checkpoint's run: {world_size} processes take equally many.",
            stacklevel=2,
        )
    return bounds


def _way_back(before: LoaderState, world_size: int) -> str:
    size, rest = divmod(before["global_batch"], world_size)
    if rest:
        return f"use a number of processes that divides {before['global_batch']}"
    return f"set batch_size (data.batch_size) to {size} with {world_size} process{'es' * (world_size > 1)}"


def _refuse(epoch: int, reason: str) -> NoReturn:
    raise ValueError(
        f"BatchLoader: cannot continue in the middle of epoch {epoch}: {reason}, or continue from a"
        " checkpoint taken at an epoch's end"
    )
