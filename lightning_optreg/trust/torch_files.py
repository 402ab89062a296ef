"""Files of `torch.save`'s, compared with their checksums before anything is loaded.

`torch.save` writes a zip archive with a CRC-32 of every record; `torch.load` doesn't compare them, and hands
out damaged tensors without a word. Other people's files have them too. The format before torch 1.6, and files
written with `torch.serialization.set_crc32_options(False)`, have none: of those it is said that nobody can
tell.
"""

import io
import pickle
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

import torch
from lightning.pytorch.utilities import rank_zero_warn

from lightning_optreg.places import Place, local_copy
from lightning_optreg.trust.unreadable import why_unreadable

__all__ = [
    "BROKEN_PICKLE",
    "DamagedFileError",
    "check_whole",
    "damage",
    "damage_of",
    "digest",
    "is_archive",
    "load_whole",
    "read_plain",
    "reading",
]

_CHUNK = 1 << 20
_FOLDER = 0x10  # attribute of the records in an archive

# What zipfile raises over damaged bytes, by the fields that it trips over.
_BROKEN_ARCHIVE = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    ValueError,  # UnicodeDecodeError is one
    LookupError,
    RuntimeError,
    OverflowError,
    OSError,  # Invalid argument: a place before the file's begin
)
BROKEN_PICKLE = (
    *_BROKEN_ARCHIVE,
    pickle.UnpicklingError,
    TypeError,
    AttributeError,
    AssertionError,
    ImportError,
    MemoryError,
    RecursionError,
)
"""What `torch.load` raises over bytes that are not, or no longer, a pickle."""


class DamagedFileError(ValueError):
    """A file isn't what was written to it, or never was a file of torch's; the message names it."""


def damage(path: Place) -> str | None:
    """Say what is wrong with a file; None if it is whole, or has nothing to tell that by.

    Args:
        path: A file that exists.

    Returns:
        The end of a sentence that begins with the file's name.

    Raises:
        OSError: If the file can't be read.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> path = Path(tempfile.mkdtemp(), "a.ckpt")
        >>> torch.save({"w": torch.ones(3)}, path)
        >>> damage(path)
        >>> _ = path.write_bytes(path.read_bytes()[:200])
        >>> damage(path)
        'is damaged (cut short: the directory at the end of the archive is missing)'
    """
    if path.is_dir():
        return "is a folder"
    with local_copy(path).open("rb") as file:
        return damage_of(file)


def damage_of(file: IO[bytes]) -> str | None:
    """Say what `damage` says, of an open file, which is read from where it stands and left elsewhere."""
    head = file.read(4)
    if not head:
        return "is damaged (empty)"
    if not is_archive(file):
        if head == b"PK\x03\x04":
            return "is damaged (cut short: the directory at the end of the archive is missing)"
        if head[:1] != b"\x80":
            return "is not a checkpoint: it is neither torch's archive nor a pickle"
        return None
    try:
        return _damage_of_archive(file)
    except _BROKEN_ARCHIVE as error:
        return f"is damaged ({_first_line(error)})"


def _damage_of_archive(file: IO[bytes]) -> str | None:
    with zipfile.ZipFile(file) as archive:
        records = archive.infolist()
        if not any(record.filename.endswith("/data.pkl") for record in records):
            return "is not a checkpoint: it is an archive, but not torch's"
        if sum(record.compress_size for record in records) > file.seek(0, io.SEEK_END):
            return "is damaged (its records overlap)"
        for record in records:
            if record.compress_type != zipfile.ZIP_STORED:  # a few bytes could become any number
                return f"is damaged ({record.filename} is compressed, which torch's files are not)"
        if _has_no_checksums(records):
            return None
        for record in records:
            if record.file_size != record.compress_size:
                return f"is damaged ({record.filename} has two sizes)"
            if record.external_attr & _FOLDER:  # torch would read nothing, and leave the tensor as memory was
                return f"is damaged ({record.filename} is a folder)"
            with archive.open(record) as content:
                while content.read(_CHUNK):  # compares the sum at the record's end
                    pass
    return None


def _has_no_checksums(records: list[zipfile.ZipInfo]) -> bool:
    return all(record.CRC == 0 for record in records)


def is_archive(file: Place | IO[bytes]) -> bool:
    """Whether a file ends as zip archives do, damaged or not."""
    try:
        return zipfile.is_zipfile(local_copy(file) if isinstance(file, Place) else file)
    except zipfile.BadZipFile:  # it found an end that makes no sense
        return True


def check_whole(path: Place) -> None:
    """Refuse a file that is damaged, and warn of one that holds nothing to tell it by.

    Args:
        path: A file that exists.

    Raises:
        DamagedFileError: If it is damaged: which file, and how.
    """
    wrong = damage(path)
    if wrong is not None:
        raise DamagedFileError(f"{path} {wrong}")
    if is_archive(path):
        with zipfile.ZipFile(local_copy(path)) as archive:
            if not _has_no_checksums(archive.infolist()):
                return
    rank_zero_warn(f"{path} has no checksums: damage would not be noticed")


@contextmanager
def reading(path: Place, *, is_whole: bool = True) -> Iterator[None]:
    """Turn what `torch.load` raises over a file that is not what torch writes into a sentence.

    What it raises over a whole archive for what it doesn't load, or has no room for, stays.

    Args:
        path: The file.
        is_whole: Whether all of the file is read. Otherwise nothing stays.

    Raises:
        DamagedFileError: Which file, and how.
    """
    try:
        yield
    except BROKEN_PICKLE as error:
        if is_whole and is_archive(path) and _is_of_content(error):
            raise
        # Without its cause, whose text may give torch's advice to read what could run code.
        raise DamagedFileError(f"{path} is damaged or not a checkpoint ({why_unreadable(error)})") from None


def _is_of_content(error: Exception) -> bool:
    """Whether the file is as it was written, but holds what torch does not load, or too much."""
    if isinstance(error, (pickle.UnpicklingError, ImportError, MemoryError, OSError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, AttributeError) and "Can't get attribute" in str(error)  # pickle's, of a class


def load_whole(path: Place, map_location: Any = "cpu") -> Any:
    """Load plain types from a file that is whole.

    Args:
        path: A file that exists.
        map_location: See `torch.load`.

    Raises:
        DamagedFileError: If it is damaged, or no file of torch's.
        pickle.UnpicklingError: If it holds other than plain types.
    """
    check_whole(path)
    with reading(path):
        return torch.load(local_copy(path), map_location=map_location, weights_only=True)


def digest(path: Place) -> str:
    """Return what tells one whole file from another: of an archive its directory of checksums.

    Raises:
        DamagedFileError: If there is no such directory.
    """
    if not is_archive(path):
        return f"{path.stat().st_size} bytes"
    try:
        with zipfile.ZipFile(local_copy(path)) as archive:
            records = [f"{record.filename} {record.file_size} {record.CRC}" for record in archive.infolist()]
    except _BROKEN_ARCHIVE as error:
        raise DamagedFileError(f"{path} is damaged ({_first_line(error)})") from error
    return f"{zlib.crc32(' '.join(records).encode()):08x}"


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def read_plain(path: Place, *, what: str, map_location: Any = "cpu") -> Any:
    """Read a file of tensors and plain values.

    Args:
        path: The file.
        what: Begins the message, such as "SnapshotEnsemble".
        map_location: See `torch.load`.

    Raises:
        ValueError: If it is damaged or holds anything else.
    """
    try:
        return load_whole(path, map_location)
    except DamagedFileError as error:
        raise ValueError(f"{what}: {error}") from error
    except pickle.UnpicklingError as error:
        # Without its cause, whose text gives torch's advice.
        raise ValueError(f"{what}: {path} cannot be read: {why_unreadable(error)}") from None
