"""Files that appear whole or not at all, locks that die with their process, names that stay in a folder."""

import errno
import os
import re
import sys
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lightning_optreg.places import Place, UrlPath

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

__all__ = [
    "check_inside",
    "check_name",
    "is_writable",
    "leaves_folder",
    "remove_leftovers",
    "replacing",
    "try_lock",
]

_TEMPORARY = re.compile(r"\..+-[0-9a-f]{32}\.tmp(\.[^.]+)?")


def leaves_folder(path: str | Path) -> bool:
    r"""Return whether a path, joined to a folder, may lead out of it: on any system.

    Example:
        >>> [leaves_folder(path) for path in ("a/b.png", "a/../../b", "..\\b", "/b", "C:b", "~/b")]
        [False, True, True, True, True, True]
    """
    text = str(path)
    parts = re.split(r"[/\\]", text)
    absolute = parts[0] == "" or parts[0].startswith("~") or re.match(r"[A-Za-z]:|[^/]*://", text) is not None
    return absolute or ".." in parts or "\0" in text


def check_inside(path: str | Path, what: str) -> str:
    """Refuse a path that would leave the folder that it is joined to.

    Args:
        path: The path, which may have folders.
        what: Begins the message: "Curves: filename".

    Returns:
        The path as text.

    Raises:
        ValueError: If it is absolute, or has `..`.

    Example:
        >>> check_inside("../a.png", "Curves: filename")
        Traceback (most recent call last):
        ValueError: Curves: filename must be inside its folder, without .. and not absolute, got '../a.png'
    """
    if leaves_folder(path):
        raise ValueError(f"{what} must be inside its folder, without .. and not absolute, got {str(path)!r}")
    return str(path)


def check_name(name: str, what: str) -> str:
    r"""Refuse a name that cannot be that of one folder.

    Args:
        name: The name.
        what: Begins the message: "name".

    Returns:
        The name.

    Raises:
        ValueError: If it is empty, `.` or `..`, or has a separator of folders or what cannot be printed.

    Example:
        >>> check_name("../optimizers", "name")
        Traceback (most recent call last):
        ValueError: name must be the name of one folder, without / and \, got '../optimizers'
    """
    one_folder = name.strip() not in ("", ".") and not leaves_folder(name)
    if not one_folder or re.search(r"[/\\]", name) or not name.isprintable():
        raise ValueError(f"{what} must be the name of one folder, without / and \\, got {name!r}")
    return name


@contextmanager
def replacing(path: Place, *, suffix: str | None = None, durable: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside `path` to write to; it replaces `path` if all went well.

    Nobody sees half a file, and an error leaves an older file as it was. The folder is made if missing.
    Temporary files that killed processes left in it are removed.

    A file by URL is written to the folder for temporary files, and put to its place when it is whole.

    Args:
        path: Where the file goes.
        suffix: Ending of the temporary name, for writers that go by it. None: that of `path`.
        durable: Whether the file is on the disk, and not only in the machine's memory, when the name changes
            to it: then it outlives a power failure too.

    Yields:
        The path to write to, an empty file.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with replacing(Path(folder) / "a.txt") as temporary:
        ...         _ = temporary.write_text("whole")
        ...     [(file.name, file.read_text()) for file in Path(folder).iterdir()]
        [('a.txt', 'whole')]
    """
    if isinstance(path, UrlPath):
        with tempfile.TemporaryDirectory(prefix="lightning_optreg-") as folder:
            file = Path(folder, f"{path.stem[:50]}{path.suffix if suffix is None else suffix}")
            file.touch()
            yield file
            path.upload(file)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path.parent)
    temporary, descriptor = _claim(path, path.suffix if suffix is None else suffix)
    try:
        yield temporary
        if durable:
            _sync(temporary, os.O_RDWR)
        os.replace(temporary, path)
        if durable and sys.platform != "win32":  # where a folder can't be opened
            _sync(path.parent, os.O_RDONLY)
    except OSError as error:
        if error.filename in (None, str(temporary)):  # whoever reads the message knows the file by its name
            error.filename = str(path)
        raise
    finally:
        if descriptor is not None:
            os.close(descriptor)
        temporary.unlink(missing_ok=True)


def is_writable(folder: Place) -> bool:
    """Return whether files can be written to a folder, or that it can be made, by writing one.

    What the permissions say is not enough: the disk may be full, mounted read-only, or another machine's.

    Example:
        >>> import tempfile
        >>> is_writable(Path(tempfile.gettempdir()) / "new"), is_writable(Path("/proc/version"))
        (True, False)
    """
    try:
        if isinstance(folder, UrlPath):
            probe = UrlPath(f"{folder}/.{uuid.uuid4().hex}.tmp")
            probe.write_bytes(b"")
            probe.unlink()
            return True
        existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        with tempfile.TemporaryFile(dir=existing) as file:
            file.write(b"0" * 4096)
            file.flush()
    except OSError:
        return False
    return True


def _claim(path: Path, suffix: str) -> tuple[Path, int | None]:
    """Make a temporary file, locked as long as its writer lives."""
    while True:
        # A name may have 255 bytes; 50 characters are 200 at most.
        temporary = path.with_name(f".{path.stem[:50]}-{uuid.uuid4().hex}.tmp{suffix}")
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        if sys.platform == "win32":  # an open file can be neither renamed nor removed there
            os.close(descriptor)
            return temporary, None
        with suppress(OSError):  # a file system without locks
            try_lock(descriptor)
        if temporary.exists():
            return temporary, descriptor
        os.close(descriptor)  # taken for a leftover before it was locked


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of `replacing` whose writers were killed.

    A file whose writer lives is locked by it, on whatever machine, and stays. On a file system that has no
    locks all of them stay.
    """
    for path in folder.iterdir():
        if not _TEMPORARY.fullmatch(path.name):
            continue
        with suppress(OSError):  # just renamed, removed by another process, or no locks
            if sys.platform == "win32":
                path.unlink()  # refused as long as its writer has it open
                continue
            descriptor = os.open(path, os.O_RDWR)
            try:
                if try_lock(descriptor):
                    path.unlink()
            finally:
                os.close(descriptor)


def try_lock(descriptor: int) -> bool:
    """Lock an open file; False if another process, or another opening in this one, holds it.

    The lock ends when the file is closed, also by the end of the process, however it ends. A forked child
    shares it: it lasts until parent and child have closed the file.

    Args:
        descriptor: Of a file opened for reading and writing.

    Raises:
        OSError: If the file system has no locks.
    """
    try:
        if sys.platform == "win32":
            os.lseek(descriptor, 1 << 30, os.SEEK_SET)  # a locked range can't be read; no data lies there
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES, errno.EDEADLK):
            return False
        raise
    return True


def _sync(path: Path, how: int) -> None:
    descriptor = os.open(path, how)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # some network file systems can't be asked for a folder, and need not be
        if how != os.O_RDONLY or error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)
