import gzip
import hashlib
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from lightning_optreg.data import FashionMNISTDataModule, fashion_mnist
from lightning_optreg.data.fashion_mnist import read_idx
from tests.conftest import make_images, write_idx

pytestmark = pytest.mark.usefixtures("nowhere_else")

NAMES = [f"{p}-{kind}-ubyte" for p in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]


@pytest.fixture
def folder(fashion_mnist_dir, tmp_path):
    """A copy of the small data set, to be damaged."""
    return Path(shutil.copytree(fashion_mnist_dir, tmp_path / "data"))


@pytest.fixture
def known_sums(fashion_mnist_dir, monkeypatch):
    """Take the small data set's md5 sums for the published ones."""
    sums = {
        name: hashlib.md5(gzip.decompress((fashion_mnist_dir / f"{name}.gz").read_bytes())).hexdigest()
        for name in NAMES
    }
    monkeypatch.setattr(fashion_mnist, "_MD5", sums)


def read(data_dir, **options):
    data = FashionMNISTDataModule(str(data_dir), **{"verify_checksum": False, **options})
    data.setup()
    return data


def unzip(folder):
    for path in folder.glob("*.gz"):
        path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
        path.unlink()


# ---- the idx format ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["x.gz", "x"])
@pytest.mark.parametrize("shape", [(5,), (2, 3, 4)])
def test_idx_round_trip(tmp_path, name, shape):
    array = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    write_idx(tmp_path / name, array)
    assert torch.equal(read_idx(tmp_path / name, len(shape)), torch.from_numpy(array))


HEADER = bytes([0, 0, 8, 1]) + struct.pack(">I", 4)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "first bytes are missing, expected 00 00 08 01"),
        (b"\x89PNG1234", "first bytes are 89 50 4e 47, expected 00 00 08 01"),
        (bytes([0, 0, 8, 3]) + b"0" * 20, "first bytes are 00 00 08 03, expected 00 00 08 01"),
        (bytes([0, 0, 9, 1]) + b"0" * 20, "first bytes are 00 00 09 01, expected 00 00 08 01"),
        (HEADER[:6], "6 bytes, expected a header of 8"),
        (HEADER + b"123", "11 bytes, expected 12 for 4 values"),
        (HEADER + b"12345", "13 bytes, expected 12 for 4 values"),
    ],
)
def test_wrong_idx_content(tmp_path, content, message):
    path = tmp_path / "labels"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"labels: {message}"):
        read_idx(path, 1)


def test_damaged_gzip(tmp_path):
    path = tmp_path / "labels.gz"
    write_idx(path, np.arange(200, dtype=np.uint8))
    whole = path.read_bytes()
    broken = bytearray(whole)
    broken[60] ^= 0xFF
    for content in (whole[: len(whole) // 2], whole[:-4], bytes(broken), b"", b"plain text"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"labels\.gz: (not a whole gzip file|first bytes are missing)"):
            read_idx(path, 1)


def test_checksum_of_the_content(tmp_path):
    write_idx(tmp_path / "x.gz", np.arange(4, dtype=np.uint8))
    content = gzip.decompress((tmp_path / "x.gz").read_bytes())
    assert read_idx(tmp_path / "x.gz", 1, hashlib.md5(content).hexdigest()).tolist() == [0, 1, 2, 3]
    with pytest.raises(ValueError, match=r"x\.gz: md5 of the content is [0-9a-f]{32}, expected 0000"):
        read_idx(tmp_path / "x.gz", 1, "0000")


# ---- reading the data set ----------------------------------------------------------------------------------


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("subfolder", [".", "FashionMNIST/raw"])
def test_files_are_found(folder, tmp_path, plain, subfolder):
    if plain:
        unzip(folder)
    root = tmp_path / "root"
    shutil.copytree(folder, root / subfolder)
    data = read(root, val_fraction=0.1)
    images, labels = make_images(600, (1, 28, 28), seed=1)
    index = torch.cat([batch.index for batch in data.train_dataloader()])
    batch = next(iter(data.train_dataloader()))
    assert torch.equal(batch.images, torch.from_numpy(images)[batch.index])
    assert torch.equal(batch.labels, torch.from_numpy(labels).long()[batch.index])
    assert (len(index), len(next(iter(data.test_dataloader())).index)) == (540, 100)


def test_verified_data_are_read(folder, known_sums):
    assert len(read(folder, verify_checksum=True).train_dataloader()) == 5


def test_other_data_are_refused_unless_asked_for(folder):
    data = FashionMNISTDataModule(str(folder))
    with pytest.raises(ValueError, match=r"train-images-idx3-ubyte\.gz: md5 of the content is"):
        data.setup("fit")
    assert read(folder).statistics is not None


def test_what_was_read_unverified_is_not_taken_for_verified(folder):
    read(folder)  # into the cache
    with pytest.raises(ValueError, match="md5"):
        read(folder, verify_checksum=True)


def write(folder, name, array):
    write_idx(folder / f"{name}.gz", np.asarray(array, dtype=np.uint8))


def test_wrong_label(folder):
    labels = np.arange(600) % 10
    labels[17] = 10
    write(folder, "train-labels-idx1-ubyte", labels)
    message = r"train-labels-idx1-ubyte\.gz: label 10 of image 17, expected 0 to 9"
    with pytest.raises(ValueError, match=message):
        read(folder)


def test_labels_that_do_not_match_the_images(folder):
    write(folder, "t10k-labels-idx1-ubyte", np.zeros(99))
    message = r"t10k-labels-idx1-ubyte\.gz: 99 labels, expected 100, one per image of t10k-images"
    with pytest.raises(ValueError, match=message):
        read(folder)


def test_images_of_another_size(folder):
    write(folder, "train-images-idx3-ubyte", np.zeros((600, 20, 28)))
    with pytest.raises(ValueError, match=r"train-images.*: images of 20 x 28 pixels, expected 28 x 28"):
        read(folder)


def test_a_truncated_file_is_named(folder):
    path = folder / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"train-images-idx3-ubyte\.gz: not a whole gzip file"):
        read(folder)


def test_changed_files_are_read_again(folder):
    assert len(read(folder).test_dataloader()) == 1
    write(folder, "t10k-images-idx3-ubyte", np.zeros((300, 28, 28)))
    write(folder, "t10k-labels-idx1-ubyte", np.zeros(300))
    assert len(read(folder).test_dataloader()) == 3


# ---- where it is looked for --------------------------------------------------------------------------------


def fail_to_download(*_, **__):
    raise OSError("no network")


def test_nothing_found_lists_what_was_tried_and_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr("torchvision.datasets.FashionMNIST", fail_to_download)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train-images-idx3-ubyte").touch()
    data = FashionMNISTDataModule(str(tmp_path / "data"))
    with pytest.raises(FileNotFoundError) as error:
        data.prepare_data()
    lines = str(error.value).splitlines()
    assert lines[0] == "Fashion-MNIST was not found. Tried:"
    assert lines[1].endswith(
        "data: no train-labels-idx1-ubyte, t10k-images-idx3-ubyte, t10k-labels-idx1-ubyte (plain or .gz)"
    )
    assert lines[2].endswith("data/FashionMNIST/raw: no such folder")
    assert lines[3].endswith("no-such-folder: no such folder")
    assert lines[4] == "  - download: no network"
    assert "apt-get install dataset-fashion-mnist" in lines[5]
    assert list((tmp_path / "data").rglob("*.gz")) == []


def test_setup_does_not_download(monkeypatch):
    monkeypatch.setattr("torchvision.datasets.FashionMNIST", fail_to_download)
    with pytest.raises(FileNotFoundError, match=r"only prepare_data\(\) downloads"):
        FashionMNISTDataModule().setup("fit")


def test_the_systems_folder_comes_after_data_dir(
    folder, fashion_mnist_dir, known_sums, monkeypatch, tmp_path
):
    monkeypatch.setattr(fashion_mnist, "_SYSTEM", fashion_mnist_dir)
    assert read(folder, verify_checksum=True).locate(download=False).files["test"][0].parent == folder
    empty = tmp_path / "empty"
    empty.mkdir()
    found = read(empty, verify_checksum=True).locate(download=False)
    assert found.files["test"][0].parent == fashion_mnist_dir


def test_unverified_data_come_from_data_dir_only(fashion_mnist_dir, monkeypatch, tmp_path):
    monkeypatch.setattr(fashion_mnist, "_SYSTEM", fashion_mnist_dir)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(FileNotFoundError):
        read(empty, verify_checksum=False)


@pytest.mark.parametrize("given", [True, False])
def test_download(fashion_mnist_dir, known_sums, monkeypatch, tmp_path, given):
    calls = []

    def download(root, download):
        calls.append(root)
        shutil.copytree(fashion_mnist_dir, Path(root) / "FashionMNIST" / "raw")
        (Path(root) / "FashionMNIST" / "raw" / "extracted").touch()

    monkeypatch.setattr("torchvision.datasets.FashionMNIST", download)
    folder = tmp_path / "data"
    folder.mkdir()
    for _ in range(2):
        data = FashionMNISTDataModule(str(folder) if given else None)
        data.prepare_data()
        data.setup("fit")
    assert len(calls) == 1
    target = folder if given else tmp_path / "cache" / "lightning_optreg"
    raw = target / "FashionMNIST" / "raw"
    assert sorted(path.name for path in raw.iterdir()) == sorted(f"{name}.gz" for name in NAMES)
    assert not Path(calls[0]).exists()


def test_interrupted_download_leaves_nothing(monkeypatch, tmp_path):
    def download(root, download):
        (Path(root) / "half").write_text("...")
        raise RuntimeError("Error downloading train-images:\nTried http://...\n")

    monkeypatch.setattr("torchvision.datasets.FashionMNIST", download)
    with pytest.raises(FileNotFoundError, match=r"download: Error downloading train-images: Tried http"):
        FashionMNISTDataModule(str(tmp_path)).prepare_data()
    assert list(tmp_path.iterdir()) == []
