"""Image files, decoded in order by several processes, with a few jobs in memory at a time.

Processes rather than threads: 16 cores turn 4,800 photographs a second from JPEG into 64 x 64 pixels in
processes and 2,000 in threads, which wait for Python's lock. Up to 4 cores both are as fast.
"""

import gc
import multiprocessing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from lightning_optreg.data._image_files import read_image
from lightning_optreg.randomness.processes import count_cores

__all__ = ["Decoded", "decode"]

_JOB_BYTES, _JOB_IMAGES = 2 << 20, 128  # of a job, the most
_WORTH_A_PROCESS = 500  # images: they take longer than starting a process does


class Decoded(NamedTuple):
    """The next few images."""

    pixels: NDArray[np.uint8]
    """(P,), the pixels (C, h, w) of one image after the other."""
    sizes: NDArray[np.int64]
    """(n, 2), heights and widths."""


def decode(
    paths: Sequence[Path],
    size: tuple[int, int],
    channels: Literal[1, 3],
    resize: Literal["crop", "stretch", "short_side"],
    workers: int | None = None,
) -> Iterator[Decoded]:
    """Decode image files, as soon as this is called.

    Args:
        paths: The files.
        size: See `read_image`, and so for the next two.
        channels: See there.
        resize: See there.
        workers: Processes that decode, at least 0; 0: this one does. None: see `default_workers`.

    Returns:
        All images in the order of the files, some at a time: the same for any number of workers. It raises
        ValueError if a file can't be read; of several the first in order is named.
    """
    jobs = _Jobs(paths, size, channels, resize)
    loader: DataLoader[Decoded | ValueError] = DataLoader(
        jobs,
        batch_size=None,
        num_workers=default_workers(len(paths)) if workers is None else workers,
        collate_fn=_unchanged,
        worker_init_fn=_keep_shared,
        generator=torch.Generator(),  # otherwise it draws from the global one
    )
    return _checked(iter(loader))


def _checked(found: Iterator[Decoded | ValueError]) -> Iterator[Decoded]:
    wrong: ValueError | None = None
    for item in found:
        if isinstance(item, ValueError):
            wrong = item
            break
        yield item
    del found  # its processes end now, and not when the last traceback is forgotten
    if wrong is not None:
        raise wrong


def default_workers(images: int) -> int:
    """Return how many processes decode: one for each core, unless there are too few images for that.

    Example:
        >>> default_workers(100)
        0
    """
    if multiprocessing.current_process().daemon:  # it can't start any
        return 0
    workers = min(count_cores(), images // _WORTH_A_PROCESS)
    return workers if workers > 1 else 0


class _Jobs(Dataset[Decoded | ValueError]):
    """Item k is the k-th few images."""

    def __init__(
        self,
        paths: Sequence[Path],
        size: tuple[int, int],
        channels: Literal[1, 3],
        resize: Literal["crop", "stretch", "short_side"],
    ) -> None:
        self.paths, self.size, self.channels, self.resize = paths, size, channels, resize
        self.images = max(1, min(_JOB_IMAGES, _JOB_BYTES // (channels * size[0] * size[1])))

    def __len__(self) -> int:
        return -(-len(self.paths) // self.images)

    def __getitem__(self, job: int) -> Decoded | ValueError:
        paths = self.paths[job * self.images : (job + 1) * self.images]
        try:
            images = [read_image(path, self.size, self.channels, self.resize).numpy() for path in paths]
        except ValueError as error:  # raised here, it would travel with its traceback in its message
            return error
        return Decoded(
            np.concatenate([image.ravel() for image in images]),
            np.array([image.shape[1:] for image in images], dtype=np.int64),
        )


def _unchanged(item: Any) -> Any:
    return item


def _keep_shared(worker: int) -> None:
    """Leave what is here to no garbage collection, which would copy the list of a million files."""
    gc.freeze()
