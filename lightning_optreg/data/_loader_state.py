"""Where a loader stands in an epoch, and whether another loader can go on from there.

The order of an epoch's images is a function of seed, epoch and number of images, and global batch k is its
k-th part. So another number of processes can go on in the middle of an epoch if it takes as many images a
batch over all of them. What an epoch leaves out depends on the number of processes, though, which take
equally many images: the epoch is then ended with the images with which it was begun.
"""

import warnings
from typing import NoReturn, TypedDict

from lightning_optreg.data._order import deal

__all__ = ["LoaderState", "continued_epoch"]


class LoaderState(TypedDict):
    """Where a loader stands; all but the first two numbers say in which order of which images."""

    epoch: int
    batches: int
    """Batches handed out in this epoch."""
    epoch_batches: int
    """Batches in this epoch."""
    images: int
    """Images in this epoch, over all processes."""
    available: int
    """Images to take an epoch from, which leaves out what cannot be shared evenly."""
    global_batch: int
    """Images in a full batch, over all processes."""
    seed: int


def continued_epoch(
    before: LoaderState, here: LoaderState, *, rank: int, world_size: int, even: bool
) -> list[tuple[int, int]]:
    """Give the batches of an epoch that a loader goes on with in its middle.

    Args:
        before: State of the loader that began the epoch.
        here: State of this one, in an epoch that it would begin itself.
        rank: Rank of this process, of which the first one warns.
        world_size: Number of processes.
        even: Whether all processes take equally many images.

    Returns:
        As `deal` does.

    Raises:
        ValueError: If they would be others than those that the epoch was begun with.

    Warns:
        UserWarning: If images are left out of the last batch, because they cannot be shared evenly.
    """
    epoch = before["epoch"]
    if before["global_batch"] != here["global_batch"]:
        _refuse(
            epoch,
            f"the checkpoint's run took {before['global_batch']} images a batch over all processes and this"
            f" one would take {here['global_batch']}: {_way_back(before, world_size)}",
        )
    if before["seed"] != here["seed"]:
        _refuse(epoch, f"its images are in the order of seed {before['seed']} and now it is {here['seed']}")
    if before["available"] != here["available"]:
        _refuse(
            epoch,
            f"the checkpoint's run had {before['available']} training images and this one has"
            f" {here['available']}",
        )
    bounds = deal(before["images"], here["global_batch"] // world_size, world_size, even=even)
    if not before["epoch_batches"] == here["epoch_batches"] == len(bounds):
        _refuse(
            epoch,
            f"it has {before['epoch_batches']} batches in the checkpoint's run and {here['epoch_batches']} in"
            " this one, since what is left for the last one is dropped or cannot be shared evenly: take"
            " drop_last and the number of processes of that run",
        )
    missing = before["images"] - bounds[-1][1]
    if missing and rank == 0:
        warnings.warn(
            f"BatchLoader: epoch {epoch} ends with {bounds[-1][1]} images, and would have with"
            f" {before['images']} in the checkpoint's run: {world_size} processes take equally many.",
            stacklevel=2,
        )
    return bounds


def _way_back(before: LoaderState, world_size: int) -> str:
    size, rest = divmod(before["global_batch"], world_size)
    if rest:
        return f"take a number of processes that divides {before['global_batch']}"
    return f"set batch_size (data.batch_size) to {size} with {world_size} process{'es' * (world_size > 1)}"


def _refuse(epoch: int, reason: str) -> NoReturn:
    raise ValueError(
        f"BatchLoader: cannot continue in the middle of epoch {epoch}: {reason}, or continue from a"
        " checkpoint taken at an epoch's end"
    )
