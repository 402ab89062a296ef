"""fsspec's file systems, with errors that Python and this program know."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["file_system"]

_NUMBERS: dict[type[BaseException], int] = {
    FileNotFoundError: errno.ENOENT,
    FileExistsError: errno.EEXIST,
    PermissionError: errno.EACCES,
    NotADirectoryError: errno.ENOTDIR,
    IsADirectoryError: errno.EISDIR,
    TimeoutError: errno.ETIMEDOUT,
}
# What clients say of these varies, down to the empty string.
_PLAIN = (FileExistsError, NotADirectoryError, IsADirectoryError)


@contextmanager
def file_system(url: str) -> Iterator[tuple[Any, str]]:
    """Give the file system of a URL and the path in it, past the lists that it keeps.

    Args:
        url: The URL.

    Yields:
        fsspec's file system, and the path there.

    Raises:
        OSError: Whatever the client of the file system raises within; it names the URL.
        ModuleNotFoundError: If the client is not installed.
    """
    from fsspec.core import url_to_fs

    try:
        system, path = url_to_fs(url)
        system.invalidate_cache()
        yield system, path
    except OSError as error:
        if error.filename is not None and error.strerror is not None:
            raise
        kind = type(error) if type(error).__module__ == "builtins" else OSError
        number = error.errno or _NUMBERS.get(kind, errno.EIO)
        said = _said(error)
        if kind in _PLAIN or said.strip("/") == url.partition("://")[2].strip("/"):
            said = os.strerror(number)
        raise kind(number, said, url) from error
    except ImportError as error:
        raise ModuleNotFoundError(_missing(url, error)) from error
    except Exception as error:
        # Each client has errors of its own (botocore's, google.auth's), which have no base in common.
        raise OSError(errno.EIO, _said(error), url) from error


def _said(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _missing(url: str, error: ImportError) -> str:
    protocol = url.partition("://")[0]
    hint = "; pip install 'lightning-optreg[s3]'" if protocol in ("s3", "s3a") else ""
    return f"{protocol}://: {_said(error)}{hint}"
