"""A file of pixels that is written piece by piece and memory-mapped whole, whatever its size.

First come the pixels of all images, then a small archive of `torch.save`'s (whatever belongs to the images,
and the ends and CRC-32 sums of the pieces), then its length, its own sum and a mark. Only a piece is in
memory while the file is written; `torch.save` would need all pixels. It may be larger than the memory; what
`torch.load` maps counts as memory that may be needed, and is refused then.
"""

import io
import mmap
import platform
import struct
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_optreg.trust.torch_files import DamagedFileError, reading

__all__ = ["check_pixels", "map_pixels", "open_pixels", "write_pixels"]

_END = struct.Struct("<QI8s")  # length and sum of the archive, and the mark
_MARK = b"pixels 1"
_THREADS = 4  # that compute sums, which Python's lock does not hinder
# Python 3.13 knows its name.
_ON_LINUX = 0x4000 if sys.platform == "linux" and platform.machine() in ("x86_64", "aarch64") else 0
_NO_RESERVE: int = getattr(mmap, "MAP_NORESERVE", _ON_LINUX)


def write_pixels(
    file: BinaryIO, pieces: Iterable[NDArray[np.uint8]], rest: Callable[[], Mapping[str, Tensor]]
) -> None:
    """Write a file of pixels.

    Args:
        file: An empty file.
        pieces: uint8 (P_i,) each; none of them is kept.
        rest: Returns small tensors that belong to them, when all pieces are written.

    Raises:
        OSError: If the disk is full.
    """
    ends, sums = [0], []
    for piece in pieces:
        file.write(piece.data)
        ends.append(ends[-1] + piece.nbytes)
        sums.append(zlib.crc32(piece.data))
    archive = io.BytesIO()
    torch.save({"ends": torch.tensor(ends), "sums": torch.tensor(sums), "rest": dict(rest())}, archive)
    content = archive.getbuffer()
    file.write(content)
    file.write(_END.pack(len(content), zlib.crc32(content), _MARK))


def open_pixels(path: Path) -> dict[str, Tensor]:
    """Open a file of pixels; `check_pixels` compares their sums.

    Args:
        path: A file that exists.

    Returns:
        `pixels`, uint8 (P,), mapped from the file, which does not change when they are written to; and the
        tensors that belong to them.

    Raises:
        DamagedFileError: If the file is cut short, or not such a file.
        OSError: If it can't be read.
    """
    with path.open("rb") as file:
        found = _read_end(file, path)
        pixels = map_pixels(file, int(found["ends"][-1]))
    return {"pixels": pixels, **found["rest"]}


def map_pixels(file: BinaryIO, length: int) -> Tensor:
    """Return the first bytes of an open file as uint8 (length,); writing to them does not change the file."""
    if length == 0:
        return torch.empty(0, dtype=torch.uint8)
    if sys.platform == "win32":
        mapped = mmap.mmap(file.fileno(), length, access=mmap.ACCESS_COPY)
    else:
        writable = mmap.PROT_READ | mmap.PROT_WRITE  # torch warns of what it can't write to
        mapped = mmap.mmap(file.fileno(), length, mmap.MAP_PRIVATE | _NO_RESERVE, writable)
    return torch.frombuffer(mapped, dtype=torch.uint8)


def check_pixels(path: Path) -> None:
    """Compare all pixels with their sums; this reads the whole file once.

    Raises:
        DamagedFileError: If the file is damaged.
        OSError: If it can't be read.
    """
    with path.open("rb") as file:
        found = _read_end(file, path)
    ends, sums = found["ends"].tolist(), found["sums"].tolist()
    with ThreadPoolExecutor(_THREADS) as pool:
        share = -(-len(sums) // _THREADS)
        parts = [slice(first, first + share) for first in range(0, len(sums), max(1, share))]
        wrong = pool.map(lambda part: list(_wrong(path, ends, sums, part)), parts)
        if damaged := [start for found in wrong for start in found]:
            raise DamagedFileError(f"{path} is damaged (the pixels from byte {damaged[0]})")


def _wrong(path: Path, ends: list[int], sums: list[int], part: slice) -> Iterator[int]:
    with path.open("rb") as file:
        file.seek(ends[part.start])
        for start, end, expected in zip(ends[part], ends[1:][part], sums[part], strict=False):
            if zlib.crc32(file.read(end - start)) != expected:
                yield start


def _read_end(file: BinaryIO, path: Path) -> dict[str, Any]:
    size = file.seek(0, io.SEEK_END)
    if size < _END.size:
        raise DamagedFileError(f"{path} is damaged (cut short)")
    file.seek(size - _END.size)
    length, expected, mark = _END.unpack(file.read())
    if mark != _MARK or length > size - _END.size:
        raise DamagedFileError(f"{path} is damaged (cut short, or another kind of file)")
    file.seek(size - _END.size - length)
    content = file.read(length)
    if zlib.crc32(content) != expected:
        raise DamagedFileError(f"{path} is damaged (its list of images)")
    with reading(path, is_whole=False):
        found: Any = torch.load(io.BytesIO(content), weights_only=True)
    if not _is_list(found, size - _END.size - length):
        raise DamagedFileError(f"{path} is damaged (it has {size} bytes)")
    return dict(found)


def _is_list(found: Any, length: int) -> bool:
    """Whether this is what `write_pixels` puts behind so many bytes of pixels."""
    if not (isinstance(found, dict) and found.keys() == {"ends", "sums", "rest"}):
        return False
    ends, sums, rest = found["ends"], found["sums"], found["rest"]
    numbers = all(isinstance(each, Tensor) and each.ndim == 1 for each in (ends, sums))
    if not (numbers and len(ends) == len(sums) + 1 and isinstance(rest, dict)):
        return False
    rises = bool((ends.diff() >= 0).all()) and int(ends[0]) == 0 and int(ends[-1]) == length
    return rises and all(isinstance(each, Tensor) for each in rest.values())
