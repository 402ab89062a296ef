"""RandomCrop and RandomHorizontalFlip against torchvision, image by image, and in their frequencies."""

import math

import pytest
import torch
import torch.nn.functional as F
from torchvision.transforms.v2 import functional as tv

from lightning_optreg.data.transforms import RandomCrop, RandomHorizontalFlip
from lightning_optreg.data.transforms.random_crop import _take_by_copy, _take_by_index, take_windows
from lightning_optreg.randomness.draws import Draws, Place

CPU = torch.device("cpu")


def draws(n: int, step: int = 0) -> Draws:
    return Draws(3, Place(0, step, 0, n), n, CPU)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("mode", ["zeros", "reflect"])
@pytest.mark.parametrize(
    ("size", "padding"), [(None, 4), ((7, 9), 0), (8, 2), ((12, 18), 5), ((13, 7), 1), ((21, 19), 5)]
)
def test_crop_is_torchvisions_at_the_drawn_places(
    channels: int, mode: str, size: int | tuple[int, int] | None, padding: int
) -> None:
    images = torch.randint(0, 256, (40, channels, 11, 9), dtype=torch.uint8)
    crop = RandomCrop(size, padding, mode)  # type: ignore[arg-type]
    height, width = crop.output_shape((channels, 11, 9))[1:]
    right = 9 + 2 * padding - width + 1
    down = 11 + 2 * padding - height + 1
    result = crop(images, draws(40))
    padding_mode = "constant" if mode == "zeros" else "reflect"
    for image, got, place in zip(images, result, draws(40).integers(0, down * right).tolist(), strict=True):
        padded = tv.pad(image, [padding], padding_mode=padding_mode)
        assert torch.equal(got, tv.crop(padded, place // right, place % right, height, width))


def test_reflection_repeats_the_image_but_not_its_edge() -> None:
    image = torch.tensor([[[[1, 2, 3]] * 2]], dtype=torch.uint8).view(1, 1, 2, 3)
    crop = RandomCrop((2, 5), padding=1, padding_mode="reflect")
    assert crop.evaluate(image)[0, 0, 0].tolist() == [2, 1, 2, 3, 2]
    images = torch.rand(1, 2, 6, 5)
    full = RandomCrop((10, 9), padding=2, padding_mode="reflect")
    assert torch.equal(full(images, draws(1)), F.pad(images, (2, 2, 2, 2), mode="reflect"))


@pytest.mark.parametrize("size", [1, 4, 5, (6, 3), (9, 8), 7])
def test_evaluation_takes_torchvisions_centre(size: int | tuple[int, int]) -> None:
    images = torch.randint(0, 256, (3, 2, 9, 8), dtype=torch.uint8)
    pair = [size, size] if isinstance(size, int) else list(size)
    assert torch.equal(RandomCrop(size).evaluate(images), tv.center_crop(images, pair))


def test_evaluation_of_a_window_larger_than_the_image_is_centred_too() -> None:
    images = torch.rand(2, 1, 4, 4)
    assert torch.equal(RandomCrop(8, padding=3).evaluate(images), F.pad(images, (2, 2, 2, 2)))


def test_each_place_is_as_likely_as_any_other() -> None:
    # A marked pixel in the middle tells where the window was. 25 places, 10 000 images, 400 expected each.
    images = torch.zeros(1000, 1, 5, 5, dtype=torch.uint8)
    images[:, :, 2, 2] = 1
    counts = torch.zeros(25)
    crop = RandomCrop(padding=2)
    for step in range(10):
        counts += torch.bincount(crop(images, draws(1000, step)).flatten(1).argmax(1), minlength=25)
    chi_square = ((counts - 400) ** 2 / 400).sum().item()
    assert 24 - 5 * math.sqrt(48) < chi_square < 24 + 5 * math.sqrt(48)  # mean 24, variance 2 x 24


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.bfloat16, torch.int64])
def test_both_ways_of_taking_windows_agree(dtype: torch.dtype) -> None:
    images = torch.randint(0, 100, (30, 3, 9, 7)).to(dtype)
    views = [images, images[5:], images.to(memory_format=torch.channels_last), images[:, 1:2], images.mT]
    for view in views:
        for size in ((1, 1), (4, 5), (view.shape[-2], view.shape[-1]), (3, view.shape[-1])):
            top = torch.randint(0, view.shape[-2] - size[0] + 1, (len(view),))
            left = torch.randint(0, view.shape[-1] - size[1] + 1, (len(view),))
            copied = _take_by_copy(view, top, left, size)
            assert torch.equal(copied, _take_by_index(view, top, left, size))
            assert copied.is_contiguous()
            assert torch.equal(copied[3], view[3, :, top[3] : top[3] + size[0], left[3] : left[3] + size[1]])


def test_no_image_gives_no_window() -> None:
    none = torch.zeros(0, dtype=torch.int64)
    assert take_windows(torch.zeros(0, 1, 5, 5), none, none, (3, 2)).shape == (0, 1, 3, 2)


def test_flip_mirrors_the_drawn_images_as_torchvision_does() -> None:
    images = torch.randint(0, 256, (50, 3, 6, 5), dtype=torch.uint8)
    result = RandomHorizontalFlip(0.4)(images, draws(50))
    mirrored = draws(50).uniform() < 0.4
    assert 0 < mirrored.sum() < 50
    for image, got, turned in zip(images, result, mirrored.tolist(), strict=True):
        assert torch.equal(got, tv.horizontal_flip(image) if turned else image)


@pytest.mark.parametrize("p", [0.1, 0.5, 1.0])
def test_flip_has_its_frequency(p: float) -> None:
    images = torch.tensor([[0, 1]], dtype=torch.uint8).expand(20000, 1, 1, 2)
    share = RandomHorizontalFlip(p)(images, draws(20000))[:, 0, 0, 0].double().mean().item()
    assert abs(share - p) <= 4 * math.sqrt(p * (1 - p) / 20000)


def test_crop_and_flip_are_independent() -> None:
    # The flip must not tell anything about the place: correlation of n pairs is 0 within 4 / sqrt(n).
    numbers = draws(20000)
    marked = torch.zeros(20000, 1, 3, 3, dtype=torch.uint8)
    marked[:, :, 1, 1] = 1
    row = RandomCrop(padding=1)(marked, numbers).amax(3).argmax(2).double().flatten()
    sided = torch.tensor([[0, 1]], dtype=torch.uint8).expand(20000, 1, 1, 2)
    mirrored = RandomHorizontalFlip()(sided, numbers)[:, 0, 0, 0].double()
    assert abs(torch.corrcoef(torch.stack((row, mirrored)))[0, 1].item()) < 4 / math.sqrt(20000)
