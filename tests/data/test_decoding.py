"""Images by the million: the file that they are decoded into, who decodes, and what is said meanwhile."""

import multiprocessing
import os
import re
import sys
import time
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from PIL import Image

from lightning_optreg.data import ImageFolderDataModule, _cache, _decoding, _progress
from lightning_optreg.data._decoding import decode, default_workers
from lightning_optreg.data._image_files import read_image
from lightning_optreg.data._pixel_file import check_pixels, map_pixels, open_pixels, write_pixels
from lightning_optreg.data._progress import told
from lightning_optreg.trust.torch_files import DamagedFileError

FORK = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")  # threads of pytest's plugins


@pytest.fixture
def photos(tmp_path):
    """Two classes of 20 images of many sizes."""
    draw = np.random.default_rng(0)
    for name in ("ant", "bee"):
        (tmp_path / "photos" / "train" / name).mkdir(parents=True)
        (tmp_path / "photos" / "test" / name).mkdir(parents=True)
        for i in range(20):
            pixels = draw.integers(0, 256, (*draw.integers(8, 20, 2), 3), dtype=np.uint8)
            part = "test" if i % 4 == 0 else "train"
            Image.fromarray(pixels).save(tmp_path / "photos" / part / name / f"{i:02}.png")
    return tmp_path / "photos"


@pytest.fixture
def small_jobs(monkeypatch):
    monkeypatch.setattr(_decoding, "_JOB_IMAGES", 3)


def opened(root, cache, **options):
    data = ImageFolderDataModule(str(root), 8, val_fraction=0.0, cache_dir=str(cache), **options)
    data.setup()
    return data


def pixel_files(cache):
    return sorted(path for path in cache.iterdir() if path.suffix == ".pixels")


# ---- decoding ----------------------------------------------------------------------------------------------


@FORK
@pytest.mark.parametrize("resize", ["crop", "short_side"])
def test_files_are_the_same_byte_by_byte_for_any_number_of_workers(photos, tmp_path, small_jobs, resize):
    contents = []
    for workers in (0, 1, 2):
        cache = tmp_path / f"cache{workers}"
        opened(photos, cache, resize=resize, decode_workers=workers)
        contents.append([(path.name, path.read_bytes()) for path in pixel_files(cache)])
    assert len(contents[0]) == 2
    assert contents[0] == contents[1] == contents[2]


@FORK
def test_images_are_those_that_are_read_one_by_one(photos, tmp_path, small_jobs):
    data = opened(photos, tmp_path / "cache", decode_workers=2)
    paths = [path for name in ("ant", "bee") for path in sorted((photos / "train" / name).iterdir())]
    expected = torch.stack([read_image(path, (8, 8), 3, "crop") for path in paths])
    assert torch.equal(data.train_dataloader().images, expected)


@FORK
def test_of_several_unreadable_images_the_first_is_named(photos, tmp_path, small_jobs):
    for name in ("bee/18", "bee/06", "ant/19"):
        (photos / "train" / f"{name}.png").write_bytes(b"no image")
    for workers in (0, 2):
        with pytest.raises(ValueError, match=r"^\S*ant/19\.png: not a readable image"):
            opened(photos, tmp_path / "cache", decode_workers=workers)
    assert list((tmp_path / "cache").iterdir()) == []


def test_global_random_numbers_are_not_drawn(photos):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    list(decode(sorted(photos.rglob("*.png")), (8, 8), 3, "crop"))
    assert torch.equal(torch.get_rng_state(), before)


def test_default_is_a_process_for_each_core_if_there_are_enough_images(monkeypatch):
    monkeypatch.setattr(_decoding, "count_cores", lambda: 8)
    assert [default_workers(images) for images in (0, 999, 1000, 3999, 1_281_167)] == [0, 0, 2, 7, 8]
    monkeypatch.setattr(_decoding, "count_cores", lambda: 1)
    assert default_workers(1_281_167) == 0
    monkeypatch.setattr(_decoding, "count_cores", lambda: 8)
    daemon = namedtuple("Process", "daemon")(True)
    monkeypatch.setattr(_decoding.multiprocessing, "current_process", lambda: daemon)
    assert default_workers(1_281_167) == 0


def test_wrong_number_of_workers(photos):
    with pytest.raises(ValueError, match="ImageFolderDataModule: decode_workers must be >= 0, got -1"):
        ImageFolderDataModule(str(photos), decode_workers=-1)


# ---- room --------------------------------------------------------------------------------------------------


def test_size_is_said_before_the_first_image_is_decoded(photos, tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO")
    said = []

    def read(*args):
        if not said:
            said.extend(caplog.messages)
        return read_image(*args)

    monkeypatch.setattr(_decoding, "read_image", read)
    opened(photos, tmp_path / "cache")
    line = rf"decoding 30 images into {tmp_path}/cache: 0.00576 MB, [\d.]+ [GM]B are free there"
    assert re.fullmatch(f"ImageFolderDataModule: {line}", said[0])
    sizes = [path.stat().st_size for path in pixel_files(tmp_path / "cache")]
    assert all(3 * 64 * n < size < 3 * 64 * n + 4000 for n, size in zip((10, 30), sizes, strict=True))
    opened(photos, tmp_path / "cache", resize="short_side")
    assert "decoding 10 images into" in caplog.messages[-1]
    assert ": 0.00192 MB or more, " in caplog.messages[-1]


def test_without_room_nothing_is_decoded(photos, tmp_path, monkeypatch):
    usage = namedtuple("Usage", "total used free")(10_000, 5_000, 5_000)
    monkeypatch.setattr(_cache.shutil, "disk_usage", lambda folder: usage)
    monkeypatch.setattr(_decoding, "read_image", None)
    cache = tmp_path / "cache"
    message = (
        f"ImageFolderDataModule: 30 images take 0.00576 MB in the cache {cache}, where 0.005 MB are free: "
        "make room, or give another cache_dir or a smaller image_size"
    )
    with pytest.raises(MisconfigurationException, match=f"^{re.escape(message)}$"):
        opened(photos, cache)
    assert list(cache.iterdir()) == []


def test_a_disk_that_fills_up_meanwhile_is_an_error_and_leaves_nothing(photos, tmp_path, monkeypatch):
    def write(file, pieces, rest):
        file.write(next(iter(pieces)).data)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_cache, "write_pixels", write)
    with pytest.raises(OSError, match=r"No space left on device: '.*image-folder-train-images-.*\.pixels'"):
        opened(photos, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_without_a_folder_to_write_to_images_are_in_memory(photos, tmp_path):
    blocker = tmp_path / "file"
    blocker.write_text("in the way")
    expected = opened(photos, tmp_path / "cache", resize="short_side")
    with pytest.warns(UserWarning, match="annot write to the cache") as warned:
        data = opened(photos, blocker / "cache", resize="short_side")
    decoded = [str(each.message) for each in warned if "decoded into memory" in str(each.message)]
    assert len(decoded) == 2
    assert decoded[0].endswith("30 images will be decoded into memory at every start, 0.00576 MB")
    assert torch.equal(data.train_dataloader().images, expected.train_dataloader().images)
    for one, other in zip(data.test_dataloader(), expected.test_dataloader(), strict=True):
        assert torch.equal(one.images, other.images)


def resident(field):
    return int(re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) / 1e3


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="Linux resets the peak of memory")
def test_memory_does_not_grow_with_the_number_of_images(tmp_path):
    path = tmp_path / "x.png"
    Image.new("RGB", (512, 512)).save(path)
    list(decode([path], (512, 512), 3, "crop"))  # imports what it needs
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts anew
    before = resident("VmRSS")
    with (tmp_path / "all.pixels").open("wb") as file:
        write_pixels(file, (p.pixels for p in decode([path] * 200, (512, 512), 3, "crop", 0)), dict)
    assert (tmp_path / "all.pixels").stat().st_size > 157e6
    assert resident("VmHWM") - before < 40  # MB: a few jobs of 2 MB, and what decoding one image takes


# ---- the file ----------------------------------------------------------------------------------------------


def written(path, pieces, **rest):
    with path.open("wb") as file:
        write_pixels(file, (np.array(piece, dtype=np.uint8) for piece in pieces), lambda: rest)
    return path


def test_pixels_and_what_belongs_to_them_come_back(tmp_path):
    path = written(tmp_path / "x", [[1, 2], [], [3]], labels=torch.tensor([4]))
    check_pixels(path)
    found = open_pixels(path)
    assert found["pixels"].tolist() == [1, 2, 3]
    assert found["labels"].tolist() == [4]
    found["pixels"].zero_()
    assert open_pixels(path)["pixels"].tolist() == [1, 2, 3]
    empty = written(tmp_path / "empty", [])
    check_pixels(empty)
    assert open_pixels(empty)["pixels"].shape == (0,)


def test_every_damaged_byte_and_every_cut_is_found(tmp_path):
    path = written(tmp_path / "x", [[1, 2], [3, 4, 5]], labels=torch.tensor([4]))
    content = path.read_bytes()
    for place in [*range(8), *range(8, len(content), 37), *range(len(content) - 20, len(content))]:
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(DamagedFileError, match="is damaged"):
            check_pixels(path)
        path.write_bytes(content[:place])
        with pytest.raises(DamagedFileError, match="is damaged"):
            open_pixels(path)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have other rules")
def test_a_file_larger_than_the_memory_can_be_mapped(tmp_path):
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    path = tmp_path / "x"
    with path.open("wb") as file:
        file.truncate(4 * memory)  # zeros, which take no room on the disk
    with path.open("rb") as file:
        mapped = map_pixels(file, 4 * memory)
    mapped[7] = 1
    assert mapped[6:9].tolist() == [0, 1, 0]
    assert len(mapped) == 4 * memory


def test_a_damaged_cache_is_made_again(photos, tmp_path):
    expected = opened(photos, tmp_path / "cache").train_dataloader().images.clone()
    _, path = pixel_files(tmp_path / "cache")
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    with pytest.warns(
        UserWarning, match=r"train-images-.*\.pixels cannot be read and is made again .*damaged"
    ):
        data = opened(photos, tmp_path / "cache")
    assert torch.equal(data.train_dataloader().images, expected)


# ---- killed, and two at once -------------------------------------------------------------------------------


def build_slowly(root: Path, cache: Path, began: Path) -> None:
    def slow(path, *args):
        if path.name == "17.png":
            began.touch()
            time.sleep(2)
        return read_image(path, *args)

    _decoding.read_image = slow  # in this process only
    opened(root, cache, decode_workers=2)


@FORK
@pytest.mark.skipif(sys.platform == "win32", reason="has no fork")
def test_a_killed_build_is_never_taken_for_whole_and_leaves_nothing(photos, tmp_path, small_jobs):
    cache, began = tmp_path / "cache", tmp_path / "began"
    arguments = (photos, cache, began)
    process = multiprocessing.get_context("fork").Process(target=build_slowly, args=arguments)
    process.start()
    while not began.exists():
        time.sleep(0.01)
    process.kill()  # and its workers live on for some seconds
    process.join()
    (half,) = cache.iterdir()
    assert half.suffix != ".pixels"
    data = opened(photos, cache)
    assert not half.exists()
    assert len(data.train_dataloader().images) == 30
    assert [path.name.split("-")[2] for path in pixel_files(cache)] == ["test", "train"]


def build(root: Path, cache: Path, barrier) -> None:
    barrier.wait()
    images = opened(root, cache, decode_workers=0).train_dataloader().images
    paths = [path for name in ("ant", "bee") for path in sorted((root / "train" / name).iterdir())]
    same = all(
        torch.equal(image, read_image(path, (8, 8), 3, "crop"))
        for image, path in zip(images, paths, strict=True)
    )
    os._exit(0 if same else 1)


@FORK
def test_two_processes_may_build_at_once(photos, tmp_path):
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(2)
    processes = [context.Process(target=build, args=(photos, tmp_path / "c", barrier)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    assert len(list((tmp_path / "c").iterdir())) == 3  # pixels of two parts, and statistics


# ---- progress ----------------------------------------------------------------------------------------------


def test_a_terminal_gets_a_bar(monkeypatch, capsys):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert list(told([(300, "a"), (700, "b")], 1000, "Decoding", "images")) == ["a", "b"]
    out, err = capsys.readouterr()
    assert "Decoding: " in out
    assert "0/1000" in out
    assert err == ""


def test_only_the_first_process_has_a_bar(monkeypatch, capsys):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setattr(_progress.rank_zero_only, "rank", 1)
    assert list(told([(1, "a")], 1, "Decoding", "images")) == ["a"]
    assert capsys.readouterr() == ("", "")


def test_elsewhere_there_is_a_line_now_and_then(monkeypatch, capsys, caplog):
    caplog.set_level("INFO")
    clock = iter([0.0, 10.0, 31.0, 40.0, 100.0, 110.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    parts = [(100, k) for k in range(5)]
    assert list(told(parts, 500, "Decoding", "images")) == list(range(5))
    assert capsys.readouterr().out == ""
    assert caplog.messages == [
        "Decoding: 200 of 500 images, 6 a second, about 46 s left",
        "Decoding: 400 of 500 images, 4 a second, about 25 s left",
    ]
