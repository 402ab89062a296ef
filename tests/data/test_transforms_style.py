"""Posterize, solarize, invert, autocontrast, equalize, grey: torchvision's functions, image by image."""

import math
from collections.abc import Callable

import pytest
import torch
from PIL import ImageOps
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from lightning_optreg.data.transforms import (
    Pipeline,
    RandomAutocontrast,
    RandomEqualize,
    RandomGrayscale,
    RandomInvert,
    RandomlyApplied,
    RandomPosterize,
    RandomSolarize,
)
from lightning_optreg.randomness.draws import Draws, Place

# Ours, given p; torchvision's function of an image and of the largest value of a pixel
FAMILY: dict[str, tuple[Callable[[float], RandomlyApplied], Callable[[Tensor, float], Tensor]]] = {
    "posterize": (lambda p: RandomPosterize(3, p), lambda image, most: tv.posterize(image, 3)),
    "solarize": (lambda p: RandomSolarize(0.4, p), lambda image, most: tv.solarize(image, 0.4 * most)),
    "invert": (RandomInvert, lambda image, most: tv.invert(image)),
    "autocontrast": (RandomAutocontrast, lambda image, most: tv.autocontrast(image)),
    "equalize": (RandomEqualize, lambda image, most: tv.equalize(image)),
    "grey": (RandomGrayscale, lambda image, most: tv.rgb_to_grayscale(image, 3)),
}
family = pytest.mark.parametrize(("make", "function"), FAMILY.values(), ids=FAMILY.keys())


def draws(n: int) -> Draws:
    return Draws(9, Place(1, 3, 0, n), n, torch.device("cpu"))


def dull(n: int, channels: int = 3) -> Tensor:
    """Images whose values are not spread over the whole range; the last one is of a single value."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(40, 200, (n, channels, 20, 24), generator=generator).clamp_max(180)
    images[-1] = 77
    return images.to(torch.uint8)


@family
@pytest.mark.parametrize("is_float", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
def test_chosen_images_are_torchvisions_and_others_stay(
    make: Callable[[float], RandomlyApplied],
    function: Callable[[Tensor, float], Tensor],
    is_float: bool,
    channels: int,
) -> None:
    images = dull(24, channels)
    if is_float:
        images = images / 255
    result = make(0.6)(images, draws(24))
    chosen = draws(24).uniform() < 0.6
    assert 5 < chosen.sum() < 19
    assert result.dtype == images.dtype  # 8-bit images stay in 8 bits
    for image, got, change in zip(images, result, chosen, strict=True):
        expected = function(image, 1.0 if is_float else 255.0)[:channels] if change else image
        assert torch.equal(got, expected)


@family
def test_p_is_the_share_of_changed_images(
    make: Callable[[float], RandomlyApplied], function: Callable[[Tensor, float], Tensor]
) -> None:
    n = 3000
    images = dull(2)[:1].expand(n, 3, 20, 24)
    for p in (0.2, 1.0):
        changed = (make(p)(images, draws(n)) != images).flatten(1).any(1).double().mean().item()
        assert abs(changed - p) <= 4.5 * math.sqrt(p * (1 - p) / n)


@pytest.mark.parametrize("threshold", [0.0, 0.1, 0.5, 1.0, *(k / 255 for k in (1, 85, 128, 200))])
def test_solarize_has_one_threshold_for_8_bits_and_for_floats(threshold: float) -> None:
    values = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    result = RandomSolarize(threshold, p=1.0)(values, draws(1)).flatten().tolist()
    assert result == [255 - x if x >= 255 * threshold - 1e-9 else x for x in range(256)]
    if threshold in (0.0, 0.1, 0.5):  # others would compare numbers that are equal but for rounding
        as_floats = RandomSolarize(threshold, p=1.0)(values / 255, draws(1)).flatten() * 255
        torch.testing.assert_close(as_floats, torch.tensor(result, dtype=torch.float32), atol=1e-4, rtol=0.0)


def test_posterize_keeps_the_highest_bits() -> None:
    values = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    for bits in range(1, 8):
        step = 2 ** (8 - bits)
        result = RandomPosterize(bits, p=1.0)(values, draws(1)).flatten().tolist()
        assert result == [x // step * step for x in range(256)]
        as_floats = RandomPosterize(bits, p=1.0)(values / 255, draws(1))
        assert as_floats.unique().tolist() == [k / 2**bits for k in range(2**bits)]


@pytest.mark.parametrize(
    ("transform", "pil"), [(RandomEqualize, ImageOps.equalize), (RandomAutocontrast, ImageOps.autocontrast)]
)
def test_histograms_are_changed_as_by_pil(
    transform: type[RandomlyApplied], pil: Callable[..., object]
) -> None:
    images = dull(6)
    result = transform(p=1.0)(images, draws(6))
    for image, got in zip(images, result, strict=True):
        expected = tv.pil_to_tensor(pil(tv.to_pil_image(image)))  # type: ignore[arg-type]
        # PIL rounds its table down by other steps: the values may differ by one.
        assert (got.int() - expected.int()).abs().max() <= (1 if transform is RandomAutocontrast else 0)


def test_equalize_changes_no_image_with_few_pixels() -> None:
    images = dull(4)[:, :, :15, :16]  # 240 pixels
    assert torch.equal(RandomEqualize(p=1.0)(images, draws(4)), images)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_equalize_keeps_white_in_half_precision(dtype: torch.dtype) -> None:
    images = (torch.arange(1024).view(1, 1, 32, 32) / 1023).to(dtype)
    result = RandomEqualize(p=1.0)(images, draws(1))
    assert result.flatten()[-1] == 1.0
    assert (result.flatten().diff() >= 0).all()


def test_a_pipeline_keeps_8_bits_until_it_normalises() -> None:
    transforms = [make(0.5) for make, _ in FAMILY.values()]
    seen = []
    for transform in transforms:
        transform.register_forward_hook(lambda module, args, output: seen.append(output.dtype))
    assert Pipeline(transforms, "none").train(dull(8), draws(8)).dtype == torch.float32
    assert seen == [torch.uint8] * 6


def test_a_pipeline_refuses_them_after_the_mean_image() -> None:
    from lightning_optreg.data.transforms import RandomStretch

    with pytest.raises(ValueError, match="RandomInvert needs pixels on"):
        Pipeline([RandomStretch(), RandomInvert()], "mean_image")
