"""Copies on this machine of files by URL."""

import atexit
import shutil
import tempfile
import threading
import uuid
from pathlib import Path

from lightning_optreg.places.place import Place
from lightning_optreg.places.url_path import UrlPath

__all__ = ["local_copy"]


class _Copies:
    """Copies of files by URL, each fetched once for as long as it stays as it is."""

    def __init__(self) -> None:
        self._of: dict[str, tuple[str, Path]] = {}
        self._folder: Path | None = None
        self._guard = threading.Lock()

    def get(self, path: UrlPath) -> Path:
        with self._guard:
            version = path.version()
            known = self._of.get(str(path))
            if known is not None and known[0] == version and known[1].exists():
                return known[1]
            if self._folder is None:
                self._folder = Path(tempfile.mkdtemp(prefix="lightning_optreg-"))
                atexit.register(shutil.rmtree, self._folder, ignore_errors=True)
            # A name of its own: the older copy may be mapped into memory.
            copy = self._folder / f"{uuid.uuid4().hex}-{path.name[-100:]}"
            path.download(copy)
            if known is not None:
                known[1].unlink(missing_ok=True)
            self._of[str(path)] = version, copy
            return copy


_copies = _Copies()


def local_copy(path: Place) -> Path:
    """Return a file of this machine with the same content: the file itself, or a copy of what a URL names.

    Copies lie in the folder for temporary files until the process ends. The same one is returned again as
    long as the file at the URL has not changed.

    Raises:
        FileNotFoundError: If there is nothing at the URL.

    Example:
        >>> UrlPath("memory://docs/a.txt").write_bytes(b"whole")
        >>> local_copy(UrlPath("memory://docs/a.txt")).read_text()
        'whole'
    """
    return path if isinstance(path, Path) else _copies.get(path)
