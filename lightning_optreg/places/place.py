"""A place: a path of this machine, or a URL."""

import shutil
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path

from lightning_optreg.places.url_path import UrlPath, is_url

__all__ = ["Place", "check_place", "folders_in", "place_of", "remove_tree"]

Place = Path | UrlPath
"""A file or folder, on this machine or by URL."""


def place_of(path: str | Path | UrlPath) -> Place:
    """Return the place that a path or a URL names; `file://` URLs are paths.

    Example:
        >>> str(place_of("file:///tmp/a.ckpt")), place_of("s3://bucket/runs/version_0").name
        ('/tmp/a.ckpt', 'version_0')
    """
    if isinstance(path, (Path, UrlPath)):
        return path
    if is_url(path):
        return UrlPath(path)
    if "://" not in path:
        return Path(path)
    from fsspec.core import url_to_fs

    return Path(url_to_fs(path)[1])


def check_place(path: Place, what: str) -> None:
    """Refuse a URL that nothing can be read from, before anything is computed.

    Args:
        path: The place; a local one is left to whatever uses it.
        what: Begins the message: "trainer.default_root_dir".

    Raises:
        ValueError: If fsspec doesn't know the protocol, or there is no such bucket, or it is not ours to see.
        ModuleNotFoundError: If the protocol's package is missing.

    Example:
        >>> check_place(UrlPath("s4://bucket/runs"), "trainer.default_root_dir")
        Traceback (most recent call last):
        ValueError: trainer.default_root_dir: 's4://bucket/runs': Protocol not known: s4
    """
    if isinstance(path, Path):
        return
    try:
        if path.is_in_object_store and path.protocol != "memory" and not path.bucket.exists():
            raise ValueError(f"{what}: {str(path)!r}: there is no bucket {path.bucket.name!r}")
        path.exists()
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{what}: {error}") from error
    except OSError as error:
        raise ValueError(f"{what}: {str(path)!r}: {error.strerror}") from error


def folders_in(folder: Place, pattern: str) -> list[Place]:
    """List the folders in a folder whose names fit a pattern; none if it does not exist.

    By URL this asks once, and not for every name.
    """
    if isinstance(folder, Path):
        return [child for child in folder.glob(pattern) if child.is_dir()]
    try:
        children = folder.children()
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [child for child, kind in children if kind == "directory" and fnmatchcase(child.name, pattern)]


def remove_tree(folder: Place) -> None:
    """Remove a folder and all that is in it, as far as that works."""
    if isinstance(folder, UrlPath):
        with suppress(OSError):
            folder.remove_tree()
    else:
        shutil.rmtree(folder, ignore_errors=True)
