"""A cache of decoded data on disk, memory-mapped, so that the data are decoded only once.

Decompressing, checking and measuring Fashion-MNIST takes 0.5 s; opening it from the cache takes a tenth of
that, nearly all for its checksums. Processes on one machine share the mapped pages. The folder can be deleted
at any time.
"""

import hashlib
import json
import os
import pickle
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from lightning_optreg.files import replacing
from lightning_optreg.trust import why_unreadable
from lightning_optreg.trust.torch_files import DamagedFileError, check_whole

__all__ = ["cached", "default_cache_dir", "fingerprint"]

_FORMAT = 1  # increase it when the stored data change


def default_cache_dir() -> Path:
    """Return `$XDG_CACHE_HOME/lightning_optreg`, by default `~/.cache/lightning_optreg`."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "lightning_optreg"


def fingerprint(files: Sequence[Path]) -> list[list[Any]]:
    """Return path, size in bytes and modification time in ns of each file, which change when a file does."""
    return [[os.path.abspath(f), (stat := f.stat()).st_size, stat.st_mtime_ns] for f in files]


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
    digest = hashlib.sha256(json.dumps([_FORMAT, key], sort_keys=True).encode()).hexdigest()
    path = folder / f"{name}-{digest[:16]}.pt"
    if path.exists():
        try:
            return _load(path)
        except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, DamagedFileError) as error:
            rank_zero_warn(
                f"The cached file {path} cannot be read and is made again ({why_unreadable(error)})"
            )
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


def _load(path: Path) -> dict[str, Tensor]:
    check_whole(path)
    tensors: dict[str, Tensor] = torch.load(path, mmap=True, weights_only=True)
    return tensors


def _save(tensors: dict[str, Tensor], path: Path) -> None:
    with replacing(path, suffix="", durable=True) as temporary, temporary.open("wb") as file:
        torch.save(tensors, file)


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
