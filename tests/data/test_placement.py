"""Where images lie, and that batches are the same wherever they do."""

import logging
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor

from lightning_optreg.data import BatchLoader, FashionMNISTDataModule, ImageFolderDataModule, ImageSet
from lightning_optreg.data import _placement as placement
from lightning_optreg.data._packed import PackedImages
from lightning_optreg.data._placement import Placement
from tests.contracts.images import FewImages
from tests.fake_device import DEVICE, FakeDevice, needs_fake_device

CPU, CUDA, MPS = torch.device("cpu"), torch.device("cuda", 0), torch.device("mps", 0)
COUNT = 50
NUMBERS = torch.arange(COUNT)
IMAGES = ImageSet(NUMBERS.to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 4, 4).contiguous(), 100 + NUMBERS)


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Says how many bytes are free on devices that are not here."""

    def says(amount: int) -> None:
        monkeypatch.setattr(placement, "free_memory", lambda device: amount)

    return says


# ---- the setting -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda", "cuda:1", "mps", "cpu:1"])
def test_settings(device: str) -> None:
    assert FashionMNISTDataModule(device=device).device == device


@pytest.mark.parametrize("device", ["gpu", "", "cuda:", "cuda:-1", "meta", 0, None])
def test_wrong_settings_are_one_line_at_construction(device: Any) -> None:
    message = "FashionMNISTDataModule: device must be auto, cpu or a device such as cuda or cuda:0, got "
    with pytest.raises(ValueError, match=message) as caught:
        FashionMNISTDataModule(device=device)
    assert repr(device) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_workers_read_from_main_memory() -> None:
    with pytest.raises(ValueError, match=r"num_workers must be 0 with device=cuda, .* got 2"):
        FashionMNISTDataModule(device="cuda", num_workers=2)
    assert Placement("Digits", "auto", 2).place(IMAGES, CUDA) is IMAGES
    assert Placement("Digits", "cpu", 2).place(IMAGES, CUDA) is IMAGES


@pytest.mark.parametrize(("wanted", "run"), [("cuda", CPU), ("cuda:1", CUDA), ("mps", CUDA), ("cpu:1", CUDA)])
def test_images_lie_where_the_run_is(wanted: str, run: torch.device) -> None:
    message = f"Digits: device must be auto, cpu or the run's device {run}, got {wanted}"
    with pytest.raises(MisconfigurationException, match=message):
        Placement("Digits", wanted, 0).place(IMAGES, run)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_without_a_run_the_device_must_be_there() -> None:
    with pytest.raises(MisconfigurationException, match="Digits: device is cuda, but torch finds no such"):
        Placement("Digits", "cuda", 0).place(IMAGES, None)


# ---- what fits ---------------------------------------------------------------------------------------------


def test_auto_takes_a_quarter_of_what_is_free(
    free: Callable[[int], None], caplog: pytest.LogCaptureFixture
) -> None:
    size = COUNT * (3 * 4 * 4 + 8)
    free(4 * size - 1)
    with caplog.at_level(logging.INFO):
        assert Placement("Digits", "auto", 0).place(IMAGES, CUDA) is IMAGES
    assert "50 images of 0.0028 MB stay in main memory, more than a quarter of the 0.0112 MB" in caplog.text
    free(4 * size)
    with pytest.raises((AssertionError, RuntimeError)):  # there is no such device, and it tries to copy
        Placement("Digits", "auto", 0).place(IMAGES, torch.device("cuda", 77))


def test_auto_stays_in_main_memory_of_a_run_on_the_cpu_and_without_one() -> None:
    for run in (None, CPU, DEVICE):
        assert Placement("Digits", "auto", 0).place(IMAGES, run) is IMAGES


def test_what_is_asked_for_must_fit(free: Callable[[int], None]) -> None:
    free(100)
    message = "Digits: 50 images of 0.0028 MB do not fit on cpu:1, which has 0.0001 MB free: use device=cpu"
    with pytest.raises(MisconfigurationException, match=message):
        Placement("Digits", "cpu:1", 0).place(IMAGES, DEVICE)


def test_images_of_many_sizes_stay() -> None:
    packed = ImageSet(
        PackedImages(torch.zeros(5, dtype=torch.uint8), torch.tensor([[1, 2], [1, 3]]), 1), NUMBERS[:2]
    )
    assert Placement("Digits", "cpu:1", 0).place(packed, DEVICE) is packed


@needs_fake_device
def test_all_loaders_share_one_copy_which_does_not_travel_to_other_processes() -> None:
    with FakeDevice():
        where = Placement("Digits", "cpu:1", 0)
        copy = where.place(IMAGES, DEVICE)
        assert copy.images.device == copy.labels.device == DEVICE
        assert where.place(IMAGES._replace(labels=IMAGES.labels), DEVICE) is copy
        assert len(pickle.dumps(where)) < 1000
        again = pickle.loads(pickle.dumps(where)).place(IMAGES, DEVICE)
        assert again.images is not copy.images
        assert torch.equal(again.images, copy.images)


# ---- batches -----------------------------------------------------------------------------------------------


def loaders(**options: Any) -> tuple[BatchLoader, BatchLoader]:
    options = {"batch_size": 8, "shuffle": True, "seed": 1, **options}
    there = ImageSet(*(tensor.to(DEVICE) for tensor in IMAGES))  # type: ignore[union-attr]
    return BatchLoader(*IMAGES, **options), BatchLoader(*there, **options)


def same(one: Any, other: Any) -> bool:
    tensors = all(
        torch.equal(a, b.cpu()) and b.device == DEVICE for a, b in zip(one[:3], other[:3], strict=True)
    )
    return tensors and one.place == other.place


@needs_fake_device
@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("shuffle", [True, False, "once", "never", "by_class", "poisson"])
def test_batches_are_the_same(shuffle: Any, rank: int) -> None:
    with FakeDevice() as device:
        here, there = loaders(shuffle=shuffle, rank=rank, world_size=2, batch_size=4, indices=NUMBERS[3:])
        for epoch in (0, 1):
            here.set_epoch(epoch)
            there.set_epoch(epoch)
            batches = iter(there)
            got = [next(batches)]
            device.watching, device.copies = True, []
            got += batches
            device.watching = False
            assert device.copies == []
            assert len(got) == len(here)
            assert all(map(same, here, got))
        assert here.state_dict() == there.state_dict()


@needs_fake_device
@pytest.mark.parametrize("shuffle", [True, "poisson"])
def test_an_epoch_goes_on_where_it_was_left(shuffle: Any) -> None:
    with FakeDevice():
        here, there = loaders(shuffle=shuffle)
        for loader in (here, there):
            loader.load_state_dict({**loader.state_dict(), "epoch": 2, "batches": 3})
            loader.set_epoch(2)
        batches = list(there)
        assert [batch.place.step for batch in batches] == [3, 4, 5, 6]
        assert all(map(same, here, batches))


@needs_fake_device
def test_an_order_of_ones_own() -> None:
    def order(epoch: int) -> Tensor:
        return NUMBERS.flip(0) // (epoch + 1)

    with FakeDevice():
        here, there = loaders()
        for loader in (here, there):
            loader.set_order(order)
            loader.set_epoch(1)
        assert all(map(same, here, list(there)))


@needs_fake_device
def test_a_data_module_of_ones_own_loop() -> None:
    with FakeDevice():
        one, other = (
            FewImages(batch_size=16, val_fraction=0.28, device=device) for device in ("cpu", "cpu:1")
        )
        for data in (one, other):
            data.setup("fit")
        for part in ("train", "val"):
            batches = list(zip(one.batches(part), other.batches(part), strict=True))
            for (x, y), (x_there, y_there) in batches:
                assert torch.equal(x, x_there.cpu())
                assert torch.equal(y, y_there.cpu())
        loader: Any = other.val_dataloader()
        assert loader.images is other.train_dataloader().images


def test_a_loader_refuses_what_it_cannot_read() -> None:
    there = IMAGES.images.to("meta")  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="labels must be on meta as the images are, got cpu"):
        BatchLoader(there, IMAGES.labels, batch_size=8, shuffle=True, seed=1)
    with pytest.raises(ValueError, match="num_workers must be 0 with images on meta, got 2"):
        BatchLoader(there, IMAGES.labels.to("meta"), batch_size=8, shuffle=True, seed=1, num_workers=2)


def test_folders_of_images_take_the_setting(tmp_path: Path) -> None:
    from PIL import Image

    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for i in range(4):
            Image.new("L", (8, 8), 20 * i).save(tmp_path / name / f"{i}.png")
    data = ImageFolderDataModule(
        str(tmp_path), 8, channels=1, val_fraction=0.25, cache_dir=str(tmp_path / ".cache"), device="cpu:1"
    )
    assert data.device == "cpu:1"
    data.setup("fit")
    loader: Any = data.train_dataloader()
    assert len(next(iter(loader)).labels) == len(loader.indices)
