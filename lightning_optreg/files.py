"""Files that appear whole or not at all, and names that stay in their folder."""

import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["check_inside", "check_name", "leaves_folder", "replacing"]


def leaves_folder(path: str | Path) -> bool:
    r"""Tell whether a path, joined to a folder, may lead out of it: on any system.

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
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path` to write to; it takes the place of `path` if all went well.

    Nobody sees half a file, and an error leaves an older file as it was. The folder is made if missing.

    Args:
        path: Where the file shall be. The temporary name has the same ending.

    Yields:
        The path to write to.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with replacing(Path(folder) / "a.txt") as temporary:
        ...         _ = temporary.write_text("whole")
        ...     [(file.name, file.read_text()) for file in Path(folder).iterdir()]
        [('a.txt', 'whole')]
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}-{uuid.uuid4().hex}{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
