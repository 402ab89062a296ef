"""The file of a growing table, on a disk or in an object store, whose files can't grow."""

import time
from pathlib import Path

from lightning_optreg.files import replacing
from lightning_optreg.places import Place

__all__ = ["TableFile"]

_EVERY = 5.0
"""Seconds after which new lines are written to an object store."""


class TableFile:
    r"""Text that grows at its end.

    On a disk lines are written at once. By URL the whole text is kept in memory and put in place of the old
    one: with the first line, then with the first line after five seconds, and on `flush`.

    Args:
        path: The file.

    Example:
        >>> from lightning_optreg.places import UrlPath
        >>> table = TableFile(UrlPath("memory://docs/table.csv"))
        >>> table.append("0,2.5\n")
        >>> table.append("1,1.5\n")
        >>> table.path.read_text(), table.read()
        ('0,2.5\n', '0,2.5\n1,1.5\n')
    """

    def __init__(self, path: Place) -> None:
        self.path = path
        self._text: str | None = None  # by URL: all of it, once it has been read or written
        self._is_written = True
        self._next = 0.0

    def read(self) -> str | None:
        """Return the text; None if there is no file.

        Raises:
            UnicodeDecodeError: If it is not text.
        """
        if isinstance(self.path, Path):
            if not self.path.exists():
                return None
            with self.path.open(newline="") as file:
                return file.read()
        if self._text is None and self.path.exists():
            self._text = self.path.read_bytes().decode()
        return self._text

    def append(self, text: str) -> None:
        """Add lines at the end."""
        if isinstance(self.path, Path):
            with self.path.open("a", newline="") as file:
                file.write(text)
            return
        self._text, self._is_written = (self.read() or "") + text, False
        if time.monotonic() >= self._next:
            self.flush()

    def replace(self, text: str) -> None:
        """Write another text in place of this one."""
        self._text, self._is_written = text, False
        self.flush()

    def flush(self) -> None:
        """Write what is not written yet."""
        if self._is_written or self._text is None:
            return
        with replacing(self.path) as path:
            path.write_text(self._text, newline="", encoding=None if isinstance(self.path, Path) else "utf-8")
        self._is_written, self._next = True, time.monotonic() + _EVERY
        if isinstance(self.path, Path):
            self._text = None  # the file is read anew

    def remove(self) -> None:
        """Remove the file, if there is one."""
        self.path.unlink(missing_ok=True)
        self._text, self._is_written = None, True
