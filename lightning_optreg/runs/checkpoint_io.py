"""Checkpoint files that are whole whenever they are there, and that tell damage when they are read.

Lightning's own `TorchCheckpointIO` writes to the folder for temporary files and moves the file: where that
folder lies on another file system, a kill in the move leaves an empty file in place of the last checkpoint.
"""

import errno
import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import torch
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem
from lightning.pytorch.plugins.io import TorchCheckpointIO
from typing_extensions import Self, override

from lightning_optreg.files import replacing
from lightning_optreg.runs.kept import advised
from lightning_optreg.trust.torch_files import check_whole, reading

__all__ = ["AtomicCheckpointIO"]


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes and reads checkpoint files so that no kill, full disk or damaged byte costs a run.

    A checkpoint is written beside its place, brought to the disk (file and folder) and renamed. Whenever the
    process is killed, the checkpoint before is there, or the new one, whole. What a killed process has left
    half-written is removed by the next save in the folder; the file of a process that still writes, here or
    on another machine, is not. A file that can't be written is named in the error, and the one before stays.

    `load_checkpoint` first compares the checksums of the file, those that `torch.save` writes into it and
    `torch.load` doesn't look at. A damaged file is refused in a sentence that names it and the newest whole
    checkpoint beside it. A file without checksums (torch's format before 1.6) is loaded with a warning.

    With Lightning's `AsyncCheckpointIO` around it, files that a `ModelCheckpoint` has done with stay until
    the one that supersedes them is written; without this there would be moments with none.

    URLs (`s3://`, `memory://`) are Lightning's to write and to read. FSDP with sharded state, DeepSpeed and
    the like save folders by themselves and don't use a `CheckpointIO`.

    Raises:
        OSError: When saving, if the file can't be written.
        ValueError: When loading, if the file is damaged or no checkpoint.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(plugins=[AtomicCheckpointIO()], accelerator="cpu", logger=False)
    """

    def __init__(self) -> None:
        super().__init__()
        self._writer: int | None = None  # thread that saved last
        self._superseded: set[Path] = set()
        self._guard = threading.Lock()

    def __reduce__(self) -> tuple[type[Self], tuple[()]]:
        return type(self), ()  # what it notes of a process's files and threads is no other's

    @override
    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write a checkpoint, whole or not at all.

        Args:
            checkpoint: What Lightning has collected.
            path: The file, or a URL.
            storage_options: Must be None, as with Lightning's own.

        Raises:
            OSError: If it can't be written; a file that was there before is as it was.
        """
        local = _local(path)
        if local is None or storage_options is not None:  # which Lightning refuses
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        try:
            with (
                replacing(local, suffix="", durable=True) as temporary,
                temporary.open("wb") as file,
            ):
                _write(checkpoint, file)
        except OSError as error:
            code = error.errno or errno.EIO
            raise OSError(code, f"{os.strerror(code)}; this checkpoint is not saved", str(local)) from error
        with self._guard:
            self._writer = threading.get_ident()
            # One that is not there yet waits in the same queue as this one did.
            done = {old for old in self._superseded if old != local and old.exists()}
            self._superseded -= done
        for old in done:
            super().remove_checkpoint(old)

    @override
    def load_checkpoint(
        self,
        path: str | Path,
        map_location: Any = lambda storage, loc: storage,
        weights_only: bool | None = None,
    ) -> dict[str, Any]:
        """Read a checkpoint that is whole.

        Args:
            path: The file, or a URL.
            map_location: See `torch.load`.
            weights_only: See `torch.load`.

        Raises:
            FileNotFoundError: If there is none.
            ValueError: If it is damaged or no checkpoint.
        """
        local = _local(path)
        if local is None or not local.exists():  # which Lightning refuses
            return super().load_checkpoint(path, map_location, weights_only)
        with advised(local):
            check_whole(local)
            with reading(local):
                return super().load_checkpoint(local, map_location, weights_only)

    @override
    def remove_checkpoint(self, path: str | Path) -> None:
        """Remove a checkpoint; if another thread writes them, not before there is a newer one."""
        local = _local(path)
        with self._guard:
            if local is not None and self._must_stay(local):
                self._superseded.add(local)
                return
        super().remove_checkpoint(path)

    def _must_stay(self, path: Path) -> bool:
        if path.name.startswith("."):  # one that Lightning itself uses for a moment, as its tuner does
            return False
        return self._writer != threading.get_ident() and not _has_newer(path)

    @override
    def teardown(self) -> None:
        """Remove what still waits for it."""
        for path in self._superseded:
            super().remove_checkpoint(path)
        self._superseded = set()


def _local(path: str | Path) -> Path | None:
    """The path of a local file, also of a file:// URL; None elsewhere."""
    system, stripped = url_to_fs(str(path))
    return Path(stripped) if isinstance(system, LocalFileSystem) else None


def _has_newer(path: Path) -> bool:
    """Whether the file is there, and in its folder one that was written later."""
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
        torch.save(checkpoint, writer)  # type: ignore[arg-type]  # it asks for write and flush only
    except RuntimeError:
        if writer.error is not None:  # which torch covers with an error of its own
            raise writer.error from None
        raise
    finally:
        torch.serialization.set_crc32_options(with_checksums)


class _Writer:
    """A file that remembers what the operating system refused."""

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
