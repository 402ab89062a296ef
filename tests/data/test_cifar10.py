import hashlib
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision

from lightning_optreg.data import CIFAR10DataModule, cifar10
from lightning_optreg.data.cifar10 import read_binary
from tests.conftest import make_images

pytestmark = pytest.mark.usefixtures("nowhere_else")


@pytest.fixture
def folder(cifar10_dir, tmp_path):
    """A copy of the small data set, to be damaged."""
    return Path(shutil.copytree(cifar10_dir, tmp_path / "data"))


def read(data_dir, **options):
    data = CIFAR10DataModule(str(data_dir), **{"verify_checksum": False, "val_fraction": 0.0, **options})
    data.setup()
    return data


def write_python_version(folder, monkeypatch):
    """Write the small data set as the python version; torchvision takes its md5 sums for the real ones."""
    root = folder / "cifar-10-batches-py"
    root.mkdir(parents=True)

    def dump(name, content):
        (root / name).write_bytes(pickle.dumps(content))
        return hashlib.md5((root / name).read_bytes()).hexdigest()

    sums = []
    for seed, name in enumerate([f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]):
        images, labels = make_images(100, (3, 32, 32), seed=seed)
        sums.append([name, dump(name, {"data": images.reshape(100, -1), "labels": labels.tolist()})])
    meta = {"label_names": [f"class {i}" for i in range(10)]}
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "train_list", sums[:5])
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "test_list", sums[5:])
    monkeypatch.setattr(
        torchvision.datasets.CIFAR10,
        "meta",
        {"filename": "batches.meta", "key": "label_names", "md5": dump("batches.meta", meta)},
    )
    return root


def check_content(data):
    expected = [make_images(100, (3, 32, 32), seed=seed) for seed in range(6)]
    train, test = data.train_dataloader(), data.test_dataloader()
    assert torch.equal(train.images, torch.from_numpy(np.concatenate([x for x, _ in expected[:5]])))
    assert torch.equal(train.labels, torch.from_numpy(np.concatenate([y for _, y in expected[:5]])).long())
    assert torch.equal(test.images, torch.from_numpy(expected[5][0]))
    assert train.images.is_contiguous()


@pytest.mark.parametrize("subfolder", [".", "cifar-10-batches-bin"])
def test_binary_version(cifar10_dir, subfolder):
    check_content(read(cifar10_dir / subfolder))


@pytest.mark.parametrize("subfolder", [".", "cifar-10-batches-py"])
@pytest.mark.parametrize("verify_checksum", [True, False])
def test_python_version(tmp_path, monkeypatch, subfolder, verify_checksum):
    write_python_version(tmp_path / "py", monkeypatch)
    check_content(read(tmp_path / "py" / subfolder, verify_checksum=verify_checksum))


@pytest.mark.parametrize("verify_checksum", [True, False])
def test_nothing_unverified_is_unpickled(tmp_path, monkeypatch, verify_checksum):
    root = write_python_version(tmp_path / "py", monkeypatch)

    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "unpickled",))

    (root / "data_batch_3").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(ValueError, match=r"md5 sums are not those of CIFAR-10's Python version"):
        read(tmp_path / "py", verify_checksum=verify_checksum)
    assert not (tmp_path / "unpickled").exists()


def test_verification_wants_the_official_number_of_images(cifar10_dir):
    message = r"data_batch_1\.bin: 307300 bytes, expected 30730000 \(10000 images\)"
    with pytest.raises(ValueError, match=message):
        read(cifar10_dir, verify_checksum=True)


def test_verification_wants_equally_many_images_of_each_class(folder, monkeypatch):
    monkeypatch.setattr(cifar10, "_FILE_RECORDS", 100)
    check_content(read(folder, verify_checksum=True))
    path = folder / "cifar-10-batches-bin" / "data_batch_2.bin"
    content = bytearray(path.read_bytes())
    content[0] = (content[0] + 1) % 10
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"the classes have \[.*51.*\] images in the train files, expected"):
        read(folder, verify_checksum=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content[:-1], "307299 bytes, expected a multiple of 3073"),
        (lambda content: content + b"x", "307301 bytes, expected a multiple of 3073"),
        (lambda content: b"", "0 bytes, expected a multiple of 3073"),
        (lambda content: b"\x0b" + content[1:], "label 11 of image 0, expected 0 to 9"),
        (lambda content: content[:3073] + b"\xff" + content[3074:], "label 255 of image 1, expected 0 to 9"),
    ],
)
def test_damaged_binary_files(folder, change, message):
    path = folder / "cifar-10-batches-bin" / "data_batch_3.bin"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ValueError, match=rf"data_batch_3\.bin: {message}"):
        read(folder)


def test_files_of_different_sizes(cifar10_dir):
    paths = [cifar10_dir / "cifar-10-batches-bin" / name for name in ("data_batch_1.bin", "test_batch.bin")]
    images = read_binary(paths)
    assert images.images.shape == (200, 3, 32, 32)
    assert torch.equal(images.labels[100:], read_binary(paths[1:]).labels)


def test_nothing_found_lists_what_was_tried(folder, monkeypatch):
    def download(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr("torchvision.datasets.CIFAR10", download)
    (folder / "cifar-10-batches-bin" / "data_batch_4.bin").unlink()
    with pytest.raises(FileNotFoundError) as error:
        CIFAR10DataModule(str(folder)).prepare_data()
    lines = str(error.value).splitlines()
    assert lines[0] == "CIFAR-10 was not found. Tried:"
    assert lines[1].endswith("data/cifar-10-batches-bin: no data_batch_4.bin")
    assert lines[2].endswith("data/cifar-10-batches-py: no such folder")
    assert lines[-2] == "  - download: no network"
    assert "https://www.cs.toronto.edu/~kriz/cifar.html" in lines[-1]


def test_download(tmp_path, monkeypatch):
    source = write_python_version(tmp_path / "server", monkeypatch)
    original, calls = torchvision.datasets.CIFAR10, []

    def dataset(root, train=True, download=False):
        if not download:
            return original(root, train=train)
        calls.append(root)
        return shutil.copytree(source, Path(root) / "cifar-10-batches-py")

    monkeypatch.setattr("torchvision.datasets.CIFAR10", dataset)
    for _ in range(2):
        data = CIFAR10DataModule(val_fraction=0.0)
        data.prepare_data()
        data.setup()
        check_content(data)
    assert len(calls) == 1
    assert not Path(calls[0]).exists()
