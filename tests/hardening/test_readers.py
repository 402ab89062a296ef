"""Readers of data take any bytes: what is no data is refused by name, at once and without much memory."""

import gzip
import io
import resource
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from PIL import Image

from lightning_optreg.data._cache import cached
from lightning_optreg.data._image_files import read_image
from lightning_optreg.data._pixel_file import check_pixels, open_pixels, write_pixels
from lightning_optreg.data.cifar10 import read_binary
from lightning_optreg.data.fashion_mnist import read_idx
from tests.hardening.bytes import Damage, damages, little_memory
from tests.hardening.search import by_effort, search

pytestmark = [
    pytest.mark.filterwarnings("ignore:Corrupt EXIF data"),  # Pillow reads what is left
    pytest.mark.filterwarnings("ignore:.*:UserWarning:PIL[.].*"),
    pytest.mark.filterwarnings("ignore:.*has no checksums"),
]
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")


def idx(shape: tuple[int, ...] = (7, 4, 4)) -> bytes:
    values = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    return struct.pack(f">BBBB{len(shape)}I", 0, 0, 8, len(shape), *shape) + values.tobytes()


def picture(format: str, size: tuple[int, int] = (9, 7)) -> bytes:
    values = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    Image.fromarray(values).save(
        file, format, **({"exif": exif} if format in ("JPEG", "PNG", "WEBP") else {})
    )
    return file.getvalue()


def pixel_file() -> bytes:
    file = io.BytesIO()
    pieces = [np.arange(size, dtype=np.uint8) for size in (12, 0, 30)]
    write_pixels(file, pieces, lambda: {"labels": torch.arange(3), "sizes": torch.ones(3, 2).long()})
    return file.getvalue()


def read_folder(path: Path) -> None:
    image = read_image(path, (4, 4), 3, "crop")
    assert image.shape == (3, 4, 4)


def read_pixels(path: Path) -> None:
    check_pixels(path)
    open_pixels(path)


READERS: dict[str, tuple[str, Callable[[], bytes], Callable[[Path], Any]]] = {
    "idx": ("images", idx, lambda path: read_idx(path, 3)),
    "idx.gz": ("images.gz", lambda: gzip.compress(idx(), mtime=0), lambda path: read_idx(path, 3)),
    "CIFAR-10": ("a.bin", lambda: bytes(range(9)) * 683, lambda path: read_binary([path])),
    "pixels": ("a.pixels", pixel_file, read_pixels),
    **{f: (f"a.{f.lower()}", lambda f=f: picture(f), read_folder) for f in FORMATS},  # type: ignore[misc]
}


def reads_or_names(name: str, read: Callable[[Path], Any], content: bytes) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder, name)
        path.write_bytes(content)
        try:
            with little_memory(200 * len(content) + (4 << 20)):
                read(path)
        except ValueError as error:
            if name not in str(error):
                pytest.fail(f"which file? {error}")


@pytest.mark.parametrize("kind", READERS)
@by_effort(few=40, many=2_000)
def test_damaged_files_are_read_or_named(kind: str, examples: int) -> None:
    name, make, read = READERS[kind]
    good = make()
    read_good = Damage(1.0, (), None, b"")
    reads_or_names(name, read, read_good.of(good))
    search(examples, damages(), lambda damage: reads_or_names(name, read, damage.of(good)))


@pytest.mark.parametrize("kind", READERS)
@by_effort(few=15, many=1_000)
def test_any_bytes_are_read_or_named(kind: str, examples: int) -> None:
    name, make, read = READERS[kind]
    begin = st.integers(0, 24).map(lambda length: make()[:length])
    content = st.tuples(begin, st.binary(max_size=300)).map(b"".join)
    search(examples, content, lambda content: reads_or_names(name, read, content))


@by_effort(few=40, many=1_000)
def test_damaged_caches_are_made_again(examples: int) -> None:
    wanted = {"x": torch.arange(6), "y": torch.ones(2, 3)}

    def check(damage: Damage) -> None:
        with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
            patch.setattr("lightning_optreg.data._cache.rank_zero_warn", lambda text: None)
            cached(Path(folder), "a", {}, lambda: wanted)
            (path,) = Path(folder).iterdir()
            path.write_bytes(damage.of(path.read_bytes()))
            found = cached(Path(folder), "a", {}, lambda: wanted)
            assert found.keys() == wanted.keys()
            assert all(torch.equal(found[name], wanted[name]) for name in wanted)

    search(examples, damages(), check)


@pytest.mark.parametrize("held", [[1, 2], {"x": 3}, {"x": [torch.ones(1)]}, "text", None])
def test_a_cache_of_something_else_is_made_again(held: Any, tmp_path: Path) -> None:
    cached(tmp_path, "a", {}, lambda: {"x": torch.ones(1)})
    (path,) = tmp_path.iterdir()
    torch.save(held, path)
    with pytest.warns(UserWarning, match=r"cannot be read and is made again \(.*other than tensors"):
        assert cached(tmp_path, "a", {}, lambda: {"x": torch.zeros(2)})["x"].tolist() == [0.0, 0.0]


# ---- headers that promise much, and bombs ------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(2**32 - 1,) * 3, (2**31, 2**31, 4), (1, 2**32 - 1, 1), (0, 2**32 - 1, 5)])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_huge_sizes_in_an_idx_header(shape: tuple[int, ...], suffix: str, tmp_path: Path) -> None:
    content = struct.pack(">BBBB3I", 0, 0, 8, 3, *shape) + bytes(50)
    path = tmp_path / f"images{suffix}"
    path.write_bytes(gzip.compress(content) if suffix else content)
    with little_memory(4 << 20), pytest.raises(ValueError, match="images"):
        read_idx(path, 3)


def test_a_gzip_bomb_is_not_unpacked(tmp_path: Path) -> None:
    zeros = struct.pack(">BBBB3I", 0, 0, 8, 3, 2**15, 28, 28) + bytes(2**15 * 28 * 28)  # 26 MB
    path = tmp_path / "bomb.gz"
    path.write_bytes(gzip.compress(zeros, mtime=0))
    del zeros
    with little_memory(16 << 20), pytest.raises(ValueError, match=r"bomb\.gz: it expands to more than"):
        read_idx(path, 3)


def png(width: int, height: int, data: bytes) -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(60_000, 60_000), (9_000, 9_000), (2**31 - 1, 1), (0, 5)])
def test_an_image_that_promises_more_than_it_has(size: tuple[int, int], tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(png(*size, zlib.compress(bytes(100))))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match=r"bomb\.png: not a readable image"):
        read_image(path, (8, 8), 1, "crop")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 40 << 10  # KiB on Linux


def test_a_line_is_not_blown_up_to_cover_the_size(tmp_path: Path) -> None:
    path = tmp_path / "line.png"
    Image.new("L", (300_000, 1)).save(path)
    with pytest.raises(ValueError, match=r"line\.png: .* would become one of 64 x 19200000; .*'stretch'"):
        read_image(path, (64, 64), 1, "crop")
    assert read_image(path, (64, 64), 1, "stretch").shape == (1, 64, 64)


def test_a_blank_image_of_any_size_is_read(tmp_path: Path) -> None:
    """Its file is as small as can be."""
    for name, options in (("a.png", {"optimize": True}), ("a.webp", {"lossless": True})):
        Image.new("L", (3_000, 3_000)).convert("RGB").save(tmp_path / name, **options)
        assert read_image(tmp_path / name, (8, 8), 3, "crop").sum() == 0


def test_files_that_pillow_gives_to_other_programs_are_not_opened(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("RGB", (4, 4)).save(path, "EPS")
    with pytest.raises(ValueError, match=r"a\.png: not a readable image \(cannot identify"):
        read_image(path, (4, 4), 3, "crop")


@pytest.mark.parametrize("kind", READERS)
def test_no_file_and_a_folder(kind: str, tmp_path: Path) -> None:
    name, _, read = READERS[kind]
    with pytest.raises((ValueError, FileNotFoundError), match=name):
        read(tmp_path / name)
    (tmp_path / name).mkdir()
    with pytest.raises((ValueError, IsADirectoryError), match=name):
        read(tmp_path / name)
