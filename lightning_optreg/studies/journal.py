"""A study's storage as a journal: a file on a disk that machines share, where SQLite's locks don't hold."""

import json
import os
from pathlib import Path

__all__ = ["check_journal", "journal_file"]

_SCHEME = "journal:///"


def journal_file(storage: str) -> Path | None:
    """Return the file of a journal; None for any other storage.

    Args:
        storage: `journal:///study.log`, or `journal:////disk/study.log` with an absolute path, as SQLite's.

    Raises:
        ValueError: If the URL begins as a journal's, and names no file.

    Example:
        >>> journal_file("journal:///study.log").name, journal_file("sqlite:///study.db")
        ('study.log', None)
    """
    if not storage.startswith("journal:"):
        return None
    path = storage.removeprefix(_SCHEME)
    if path == storage or not path.strip():
        near = storage.removeprefix("journal:").lstrip("/") or "study.log"
        raise ValueError(f"storage: {storage!r} names no file; did you mean {_SCHEME}{near}?")
    return Path(path)


def check_journal(path: Path) -> None:
    """Raise an error if a file can't be a journal, without creating it.

    Args:
        path: The file.

    Raises:
        ValueError: If it can't be; the message says why.
    """
    if path.is_dir():
        raise ValueError(f"storage: {str(path)!r} is a folder; did you mean {_SCHEME}{path / 'study.log'}?")
    if not path.absolute().parent.is_dir():
        raise ValueError(f"storage: there is no folder {str(path.parent)!r} for the file {path.name!r}")
    # Its lock is a file beside it.
    for place in (path.absolute().parent, *([path] if path.exists() else [])):
        if not os.access(place, os.W_OK):
            raise ValueError(f"storage: {str(place)!r} may not be written to")
    if not path.exists():
        return
    with open(path, "rb") as file:
        line = file.readline(1_000_000)
    try:
        is_journal = not line or isinstance(json.loads(line), dict)
    except ValueError:
        is_journal = False
    if not is_journal:
        raise ValueError(f"storage: {str(path)!r} is not a journal of Optuna")
