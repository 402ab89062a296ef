"""A cache of decoded data on disk, memory-mapped, so that the data are decoded only once.

Decompressing, checking and measuring Fashion-MNIST takes 0.5 s; opening it from the cache takes a tenth of
that, nearly all for its checksums. Processes on one machine share the mapped pages. The folder can be deleted
at any time.

What is decoded for hours is written piece by piece (`cached_pixels`), and needs no more memory than a piece.
"""

import hashlib
import json
import os
import pickle
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from numpy.typing import NDArray
from torch import Tensor

from lightning_optreg.data._pixel_file import check_pixels, open_pixels, write_pixels
from lightning_optreg.data._placement import amount
from lightning_optreg.data._stream import PixelStream, image_set
from lightning_optreg.data.sources import ImageSet
from lightning_optreg.files import is_writable, remove_leftovers, replacing
from lightning_optreg.trust import why_unreadable
from lightning_optreg.trust.torch_files import DamagedFileError, check_whole, reading

__all__ = ["cached", "cached_pixels", "default_cache_dir", "fingerprint"]

_FORMAT = 1  # increase it when the stored data change


def default_cache_dir() -> Path:
    """Return `$XDG_CACHE_HOME/lightning_optreg`, by default `~/.cache/lightning_optreg`."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "lightning_optreg"


def fingerprint(files: Sequence[Path]) -> str:
    """Return a sum of path, size and modification time of all files, which changes when a file does."""
    found = hashlib.sha256()  # and not their list, which takes half a gigabyte for a million files
    for file in files:
        stat = file.stat()
        found.update(os.fsencode(os.path.abspath(file)) + f"\0{stat.st_size} {stat.st_mtime_ns}\0".encode())
    return found.hexdigest()


def cached(
    folder: Path, name: str, key: Mapping[str, Any], make: Callable[[], dict[str, Tensor]]
) -> dict[str, Tensor]:
    """Return the tensors for `key` from the cache, or make and store them.

    Any number of processes may do this at once: a file appears whole or not at all. If the folder is not
    writable, a warning says so and the tensors are returned all the same.

    Args:
        folder: The cache's folder, created if missing.
        name: First part of the file's name, for people.
        key: Everything that the tensors depend on, as JSON values.
        make: Makes the tensors.

    Returns:
        The tensors, mapped from the file if possible. Writing to them does not change the file.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     first = cached(Path(folder), "zeros", {"n": 2}, lambda: {"x": torch.zeros(2)})
        ...     again = cached(Path(folder), "zeros", {"n": 2}, lambda: {"x": torch.ones(2)})
        >>> again["x"]
        tensor([0., 0.])
    """
    path = folder / f"{name}-{_digest(key)}.pt"
    if path.exists():
        try:
            return _load(path)
        except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, DamagedFileError) as error:
            _warn_of_file(path, error)
    tensors = make()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _save(tensors, path)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
        rank_zero_warn(
            f"Cannot write to the cache {folder} ({_first_line(error)}): data will be decoded at every start"
        )
        return tensors
    return _load(path)


def cached_pixels(
    folder: Path, name: str, key: Mapping[str, Any], stream: PixelStream, owner: str
) -> ImageSet | None:
    """Return images from the cache, or decode them into it.

    Before that one line says how much room they take. Any number of processes may do this at once, as with
    `cached`; what a killed one has written is never read, and is removed by the next one.

    Args:
        folder: The cache's folder, created if missing.
        name: First part of the file's name, for people.
        key: Everything that the images depend on, as JSON values.
        stream: The images.
        owner: Whose images they are, for messages.

    Returns:
        The images, mapped from the file. Writing to them does not change the file. None, after a warning, if
        the folder is not writable.

    Raises:
        MisconfigurationException: If the disk has not enough room.
        OSError: If it becomes full meanwhile.
    """
    path = folder / f"{name}-{_digest(key)}.pixels"
    if path.exists():
        try:
            check_pixels(path)
            return image_set(open_pixels(path))
        except (OSError, DamagedFileError) as error:
            _warn_of_file(path, error)
    images = f"{len(stream.labels):,} images"
    needed = f"{amount(stream.nbytes)}{' or more' if stream.packed else ''}"
    if not is_writable(folder):
        rank_zero_warn(
            f"{owner}: cannot write to the cache {folder}: {images} will be decoded into memory at every "
            f"start, {needed}"
        )
        return None
    folder.mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder)
    free = shutil.disk_usage(folder).free
    if stream.nbytes > free:
        raise MisconfigurationException(
            f"{owner}: {images} take {needed} in the cache {folder}, where {amount(free)} are free: make "
            "room, or give another cache_dir or a smaller image_size"
        )
    rank_zero_info(f"{owner}: decoding {images} into {folder}: {needed}, {amount(free)} are free there")
    sizes: list[Tensor] = []
    decoded = stream.pieces()  # its processes must not inherit the file: they would keep it locked

    def pieces() -> Iterator[NDArray[np.uint8]]:
        for found in decoded:
            sizes.append(torch.from_numpy(found.sizes))
            yield found.pixels

    with replacing(path, suffix="", durable=True) as temporary, temporary.open("wb") as file:
        write_pixels(file, pieces(), lambda: stream.rest(sizes))
    return image_set(open_pixels(path))


def _warn_of_file(path: Path, error: Exception) -> None:
    rank_zero_warn(f"The cached file {path} cannot be read and is made again ({why_unreadable(error)})")


def _digest(key: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps([_FORMAT, key], sort_keys=True).encode()).hexdigest()[:16]


def _load(path: Path) -> dict[str, Tensor]:
    check_whole(path)
    with reading(path):
        tensors = torch.load(path, mmap=True, weights_only=True)
    if not (isinstance(tensors, dict) and all(isinstance(tensor, Tensor) for tensor in tensors.values())):
        raise DamagedFileError(f"{path} holds other than tensors by their names")
    return tensors


def _save(tensors: dict[str, Tensor], path: Path) -> None:
    with replacing(path, suffix="", durable=True) as temporary, temporary.open("wb") as file:
        torch.save(tensors, file)


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
