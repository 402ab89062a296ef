"""Checkpoint files that are never half-written, and whose damage is noticed when they are read.

Lightning's own `TorchCheckpointIO` writes to the folder for temporary files and moves the file. If that
folder is on another file system, a kill during the move leaves an empty file in place of the last checkpoint.
"""

import errno
import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from typing_extensions import Self, override

from lightning_optreg.files import replacing
from lightning_optreg.places import Place, UrlPath, local_copy, place_of
from lightning_optreg.runs.kept import advised
from lightning_optreg.trust.torch_files import check_whole, reading

__all__ = ["AtomicCheckpointIO"]


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes and reads checkpoint files so that no kill, full disk or damaged byte costs a run.

    A checkpoint is written to a temporary file in the same folder, flushed to disk (file and folder) and
    renamed. Whenever the process is killed, either the previous checkpoint or the new one is there, whole.
    Half-written files of killed processes are removed by the next save in the folder; files that another
    process is still writing, here or on another machine, are not. If a file can't be written, the error names
    it and the previous checkpoint stays.

    `load_checkpoint` first verifies the checksums that `torch.save` writes into the file and `torch.load`
    ignores. The error for a damaged file names it and the newest intact checkpoint of the run. A file without
    checksums (torch's format before 1.6) is loaded with a warning.

    Wrapped in Lightning's `AsyncCheckpointIO`, files that a `ModelCheckpoint` removes stay until the one that
    replaces them is written; otherwise there would be moments without any checkpoint.

    By URL (`s3://`) a checkpoint is written to the folder for temporary files and then put to its place,
    which an object store does whole or not at all; to be read, it is fetched, and verified likewise. FSDP
    with sharded state, DeepSpeed and similar strategies save folders themselves and don't use a
    `CheckpointIO`.

    Raises:
        OSError: When saving, if the file can't be written.
        ValueError: When loading, if the file is damaged or not a checkpoint.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(plugins=[AtomicCheckpointIO()], accelerator="cpu", logger=False)
    """

    def __init__(self) -> None:
        super().__init__()
        self._writer: int | None = None  # the thread that saved last
        self._superseded: set[Place] = set()
        self._guard = threading.Lock()

    def __reduce__(self) -> tuple[type[Self], tuple[()]]:
        return type(self), ()  # notes of one process's files and threads mean nothing to another

    @override
    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write a checkpoint completely, or not at all.

        Args:
            checkpoint: The dictionary that Lightning has collected.
            path: The file, or a URL.
            storage_options: Must be None, as with Lightning's own.

        Raises:
            OSError: If it can't be written; an existing file stays unchanged.
        """
        place = place_of(path)
        if storage_options is not None:  # which Lightning refuses
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        try:
            with (
                replacing(place, suffix="", durable=True) as temporary,
                temporary.open("wb") as file,
            ):
                _write(checkpoint, file)
        except OSError as error:
            code = error.errno or errno.EIO
            why = error.strerror if isinstance(place, UrlPath) and error.strerror else os.strerror(code)
            raise OSError(code, f"{why}; this checkpoint is not saved", str(place)) from error
        with self._guard:
            self._writer = threading.get_ident()
            # One that does not exist yet is still in the queue of the writing thread.
            done = {old for old in self._superseded if old != place and old.exists()}
            self._superseded -= done
        for old in done:
            _remove(old)

    @override
    def load_checkpoint(
        self,
        path: str | Path,
        map_location: Any = lambda storage, loc: storage,
        weights_only: bool | None = None,
    ) -> dict[str, Any]:
        """Read a checkpoint after verifying its checksums.

        Args:
            path: The file, or a URL.
            map_location: See `torch.load`.
            weights_only: See `torch.load`.

        Raises:
            FileNotFoundError: If the file does not exist.
            ValueError: If it is damaged or not a checkpoint.
        """
        place = place_of(path)
        if not place.exists():  # which Lightning refuses
            return super().load_checkpoint(path, map_location, weights_only)
        with advised(place):
            check_whole(place)
            with reading(place):
                return super().load_checkpoint(local_copy(place), map_location, weights_only)

    @override
    def remove_checkpoint(self, path: str | Path) -> None:
        """Remove a checkpoint; if another thread writes checkpoints, only once there is a newer one."""
        place = place_of(path)
        with self._guard:
            if self._must_stay(place):
                self._superseded.add(place)
                return
        _remove(place)

    def _must_stay(self, path: Place) -> bool:
        if path.name.startswith("."):  # a temporary one of Lightning's own, such as its tuner's
            return False
        return self._writer != threading.get_ident() and not _has_newer(path)

    @override
    def teardown(self) -> None:
        """Remove the checkpoints that are still waiting to be removed."""
        for path in self._superseded:
            _remove(path)
        self._superseded = set()


def _remove(path: Place) -> None:
    """Remove a checkpoint, which may be a folder."""
    if isinstance(path, UrlPath):
        path.remove_tree()
    else:
        TorchCheckpointIO().remove_checkpoint(path)


def _has_newer(path: Place) -> bool:
    """Return whether the file exists and its folder has one that was written later."""
    ages = {}
    for file in path.parent.glob("*.ckpt"):
        with suppress(FileNotFoundError):  # removed at this moment
            ages[file] = file.stat().st_mtime_ns
    return path in ages and any(age >= ages[path] for file, age in ages.items() if file != path)


def _write(checkpoint: dict[str, Any], file: BinaryIO) -> None:
    writer = _Writer(file)
    with_checksums = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(True)
    try:
        torch.save(checkpoint, writer)  # type: ignore[arg-type]  # it only needs write and flush
    except RuntimeError:
        if writer.error is not None:  # torch hides it behind an error of its own
            raise writer.error from None
        raise
    finally:
        torch.serialization.set_crc32_options(with_checksums)


class _Writer:
    """A file that remembers an error of the operating system."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self.file.flush()
