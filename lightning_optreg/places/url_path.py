"""A file or folder by URL, with the methods of `pathlib.Path`."""

import errno
import io
import os
import re
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, suppress
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple

from lightning_optreg.places.file_system import file_system

__all__ = ["UrlPath", "is_url"]

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*)://(.*)", re.DOTALL)
_HERE = ("file", "local")
_OBJECT_STORES = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oci", "oss", "memory"}


def is_url(path: object) -> bool:
    """Return whether a path is a URL of another system than this machine's files.

    Example:
        >>> [is_url(path) for path in ("s3://bucket/runs", "memory://a", "file:///a", "a", "C:/a")]
        [True, True, False, False, False]
    """
    found = _URL.match(str(path))
    return found is not None and found[1].lower() not in _HERE


class _Stat(NamedTuple):
    """What is known of a file: its size in bytes and the time of its last change."""

    st_size: int
    st_mtime_ns: int

    @property
    def st_mtime(self) -> float:
        return self.st_mtime_ns / 1e9


class UrlPath:
    """A file or folder by URL, with methods named and meant as those of `pathlib.Path`.

    Every method asks the file system anew, past the lists that fsspec keeps: another process may have
    written. Errors are OSErrors that name the URL, whatever the client of the file system raises.

    Args:
        url: Such as `s3://bucket/runs`; a slash at its end is left out.

    Example:
        >>> file = UrlPath("memory://docs/run/metrics.csv")
        >>> file.write_bytes(b"epoch")
        >>> [path.name for path in file.parent.iterdir()], file.read_text(), file.parent.exists()
        (['metrics.csv'], 'epoch', True)
    """

    def __init__(self, url: str) -> None:
        if not is_url(url):
            raise ValueError(f"UrlPath: url must be a URL such as s3://bucket/runs, got {url!r}")
        self._url = url.rstrip("/") if not url.endswith("://") else url

    def __str__(self) -> str:
        return self._url

    def __repr__(self) -> str:
        return f"UrlPath({self._url!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, UrlPath) and str(self) == str(other)

    def __lt__(self, other: "UrlPath") -> bool:
        return str(self) < str(other)

    def __hash__(self) -> int:
        return hash(self._url)

    # ---- names -------------------------------------------------------------------------------------------

    @property
    def protocol(self) -> str:
        """What stands before `://`."""
        return self._url.partition("://")[0].lower()

    @property
    def is_in_object_store(self) -> bool:
        """Whether a put is whole or not at all here, and folders are only beginnings of names."""
        return self.protocol in _OBJECT_STORES

    @property
    def bucket(self) -> "UrlPath":
        """The first folder, which in an object store is the bucket."""
        first = self._url.partition("://")[2].lstrip("/").partition("/")[0]
        return UrlPath(f"{self.protocol}://{first}")

    @property
    def name(self) -> str:
        """The last part."""
        return self._url.partition("://")[2].rpartition("/")[2]

    @property
    def stem(self) -> str:
        """The name without its ending."""
        return PurePosixPath(self.name).stem

    @property
    def suffix(self) -> str:
        """The ending of the name."""
        return PurePosixPath(self.name).suffix

    @property
    def parent(self) -> "UrlPath":
        """The folder that this is in; a bucket's is the bucket itself."""
        protocol, _, rest = self._url.partition("://")
        return UrlPath(f"{protocol}://{rest.rpartition('/')[0]}") if "/" in rest.lstrip("/") else self

    def with_name(self, name: str) -> "UrlPath":
        """Return the neighbour of another name."""
        return UrlPath(f"{self.parent}/{name}")

    def __truediv__(self, other: str | Path) -> "UrlPath":
        return UrlPath(f"{str(self).rstrip('/')}/{Path(other).as_posix()}")

    def is_relative_to(self, other: object) -> bool:
        """Return whether this is another place or lies in it."""
        return isinstance(other, UrlPath) and f"{self}/".startswith(f"{str(other).rstrip('/')}/")

    def relative_to(self, other: "UrlPath") -> PurePosixPath:
        """Return the way here from a folder.

        Raises:
            ValueError: If this is elsewhere.
        """
        if not self.is_relative_to(other):
            raise ValueError(f"{str(self)!r} is not in {str(other)!r}")
        return PurePosixPath(str(self)[len(str(other).rstrip("/")) + 1 :])

    def absolute(self) -> "UrlPath":
        """Return this: a URL is absolute."""
        return self

    # ---- what is there -----------------------------------------------------------------------------------

    def _info(self) -> dict[str, Any] | None:
        with self._system() as (system, path):
            try:
                found: dict[str, Any] = system.info(path)
            except (FileNotFoundError, NotADirectoryError):
                return None
        return found

    def exists(self) -> bool:
        """Return whether there is a file of this name, or files in a folder of it."""
        return self._info() is not None

    def is_file(self) -> bool:
        """Return whether there is a file of this name."""
        return (self._info() or {}).get("type") == "file"

    def is_dir(self) -> bool:
        """Return whether there are files in a folder of this name."""
        return (self._info() or {}).get("type") == "directory"

    def stat(self) -> _Stat:
        """Return size and time of a file.

        Raises:
            FileNotFoundError: If there is none.
        """
        with self._system() as (system, path):
            return _Stat(int(system.size(path) or 0), int(system.modified(path).timestamp() * 1e9))

    def children(self) -> list[tuple["UrlPath", str]]:
        """List what is in a folder, sorted by name, each with its type: `file` or `directory`.

        Raises:
            FileNotFoundError: If nothing is.
        """
        with self._system() as (system, path):
            found = {entry["name"].strip("/"): str(entry["type"]) for entry in system.ls(path, detail=True)}
        found.pop(path.strip("/"), None)  # some stores list an empty object that stands for the folder
        names = sorted((name.rpartition("/")[2], kind) for name, kind in found.items())
        return [(UrlPath(f"{str(self).rstrip('/')}/{name}"), kind) for name, kind in names]

    def iterdir(self) -> Iterator["UrlPath"]:
        """Yield what is in a folder, sorted by name.

        Raises:
            FileNotFoundError: If nothing is.
        """
        for child, _ in self.children():
            yield child

    def glob(self, pattern: str) -> Iterator["UrlPath"]:
        """Yield what fits a pattern in its last part, such as `checkpoints/*.ckpt`; nothing in no folder."""
        folder, _, names = pattern.rpartition("/")
        where = UrlPath(f"{self}/{folder}") if folder else self
        with suppress(FileNotFoundError, NotADirectoryError):
            for child in where.iterdir():
                if fnmatchcase(child.name, names):
                    yield child

    def rglob(self, pattern: str) -> Iterator["UrlPath"]:
        """Yield the files, in this folder and all below it, whose names fit a pattern."""
        with self._system() as (system, path):
            found = sorted(str(name) for name in system.find(path))
        for name in found:
            below = name.strip("/")[len(path.strip("/")) + 1 :]
            if below and fnmatchcase(below.rpartition("/")[2], pattern):
                yield UrlPath(f"{str(self).rstrip('/')}/{below}")

    # ---- read and write ----------------------------------------------------------------------------------

    def read_bytes(self) -> bytes:
        """Return what is in a file.

        Raises:
            FileNotFoundError: If there is none.
        """
        with self._system() as (system, path):
            content: bytes = system.cat_file(path)
        return content

    def read_text(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """Return the text in a file."""
        return io.TextIOWrapper(io.BytesIO(self.read_bytes()), encoding, errors).read()

    def open(self, mode: str = "r", newline: str | None = None, encoding: str = "utf-8") -> IO[Any]:
        """Open a file to read it, `r` or `rb`; what is written goes through `files.replacing`.

        Raises:
            ValueError: If the mode is another.
        """
        if mode not in ("r", "rb"):
            raise ValueError(f"{self}: mode must be r or rb, got {mode!r}; to write use files.replacing")
        content = io.BytesIO(self.read_bytes())
        return content if mode == "rb" else io.TextIOWrapper(content, encoding, newline=newline)

    def write_bytes(self, content: bytes, *, new: bool = False) -> None:
        """Write a small file.

        Args:
            content: All of it.
            new: Whether there must be no such file yet. If several processes do this, one succeeds.

        Raises:
            FileExistsError: If `new`, and there is one.
        """
        self.parent.mkdir(parents=True, exist_ok=True)
        with self._system() as (system, path):
            system.pipe_file(path, content, mode="create" if new else "overwrite")

    def upload(self, file: Path) -> None:
        """Put a local file here, in place of what is here.

        In an object store the file is here whole, or not at all. Elsewhere it is put beside and renamed.
        """
        self.parent.mkdir(parents=True, exist_ok=True)
        with self._system() as (system, path):
            if self.is_in_object_store:
                system.put_file(str(file), path)
                return
            beside = f"{path.rpartition('/')[0]}/.{self.name[:50]}-{uuid.uuid4().hex}.tmp"
            try:
                system.put_file(str(file), beside)
                system.mv(beside, path)
            except BaseException:
                with suppress(FileNotFoundError):
                    system.rm_file(beside)
                raise

    def mkdir(self, parents: bool = False, exist_ok: bool = False) -> None:
        """Make a folder, and those above it; in an object store folders are made by what is put into them."""
        if not self.is_in_object_store:  # s3fs would make the bucket
            with self._system() as (system, path):
                system.makedirs(path, exist_ok=exist_ok)

    def unlink(self, missing_ok: bool = False) -> None:
        """Remove a file.

        Raises:
            FileNotFoundError: If there is none, unless `missing_ok`.
        """
        if not self.exists():  # s3fs says nothing, others raise
            if missing_ok:
                return
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self))
        with self._system() as (system, path):
            system.rm_file(path)

    def rmdir(self) -> None:
        """Remove an empty folder; in an object store it has ended with its last file."""
        if not self.is_in_object_store or self.protocol == "memory":
            with self._system() as (system, path):
                system.rmdir(path)

    def remove_tree(self) -> None:
        """Remove a folder and all that is in it; nothing happens if there is none."""
        if self.exists():
            with self._system() as (system, path):
                system.rm(path, recursive=True)

    def version(self) -> str:
        """Return what changes with the content of a file, where the file system has such a thing."""
        with self._system() as (system, path):
            return str(system.ukey(path))

    def download(self, file: Path) -> None:
        """Copy a file from here to this machine."""
        with self._system() as (system, path):
            system.get_file(path, str(file))

    def _system(self) -> AbstractContextManager[tuple[Any, str]]:
        return file_system(self._url)
