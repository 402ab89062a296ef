"""Random short sides: against torchvision's resize and crop, and the law of the scale."""

import math

import pytest
import torch
from torchvision.transforms.v2 import functional as tv

from lightning_optreg.data.transforms import RandomScaleCrop
from lightning_optreg.randomness.draws import Draws, Place


def draws(n: int) -> Draws:
    return Draws(7, Place(0, 0, 0, n), n, torch.device("cpu"))


@pytest.mark.parametrize("image", [(40, 40), (36, 50), (61, 33), (24, 24)])
@pytest.mark.parametrize("size", [(24, 24), (20, 28)])
def test_is_resize_and_crop(image: tuple[int, int], size: tuple[int, int]) -> None:
    """Each window is that of torchvision's bilinear resize to its short side, at the place that was drawn."""
    images = torch.rand(12, 3, *image)
    crop = RandomScaleCrop(size, scale=(28, 60))
    got, boxes = crop(images, draws(12)), crop.draw(draws(12), image)
    sides = set()
    for n in range(12):
        short = image.index(min(image))
        side = round(size[short] / float(boxes[3 - short][n]) * min(image))  # of height or width
        resized = tv.resize(images[n], [side], antialias=False)
        assert min(resized.shape[-2:]) == side
        sides.add(side)
        pixel = [image[k] / resized.shape[1 + k] for k in range(2)]
        top = float(boxes.y[n]) / pixel[0] - size[0] / 2
        left = float(boxes.x[n]) / pixel[1] - size[1] / 2
        assert top == pytest.approx(round(top), abs=1e-3)
        assert left == pytest.approx(round(left), abs=1e-3)
        wanted = tv.crop(resized, round(top), round(left), *size)
        torch.testing.assert_close(got[n], wanted, atol=1e-4, rtol=0.0)
    assert len(sides) > 5


def test_short_side_is_uniform_and_so_is_the_place() -> None:
    n, image = 30_000, (300, 400)
    drawn = RandomScaleCrop(224, scale=(256, 480)).draw(draws(n), image)
    side = (224 / drawn.height.double() * 300).round()
    assert (side.min(), side.max()) == (256, 480)
    # The mean of 256, ..., 480 and its standard error
    assert abs(float(side.mean()) - 368) < 4 * math.sqrt((225**2 - 1) / 12 / n)
    counts = torch.bincount(side.long())[256:].double()
    expected = n / 225
    chi2 = float(((counts - expected) ** 2 / expected).sum())
    assert abs(chi2 - 224) < 5 * math.sqrt(2 * 224)
    for centre, length, whole in ((drawn.y, drawn.height, 300), (drawn.x, drawn.width, 400)):
        start = centre.double() - length.double() / 2
        room = whole - length.double()
        u = start / room
        assert u.min() > -1e-5
        assert u.max() < 1 + 2e-2  # the long side is rounded down
        assert abs(float(u.mean()) - 0.5) < 4 / math.sqrt(12 * n) + 2e-3
        assert abs(float(torch.corrcoef(torch.stack([u, side]))[0, 1])) < 5 / math.sqrt(n) + 1e-2


def test_places_reach_both_ends() -> None:
    drawn = RandomScaleCrop(8, scale=(9, 9)).draw(draws(200), (9, 9))
    assert set(drawn.x.tolist()) == set(drawn.y.tolist()) == {4.0, 5.0}


@pytest.mark.parametrize(("image", "side"), [((40, 40), 32), ((36, 50), 30), ((61, 33), 33)])
def test_evaluation_is_resize_and_middle(image: tuple[int, int], side: int) -> None:
    images = torch.rand(3, 3, *image)
    crop = RandomScaleCrop(24, scale=(28, 60), evaluation_scale=side)
    wanted = tv.center_crop(tv.resize(images, [side], antialias=False), [24, 24])
    torch.testing.assert_close(crop.evaluate(images), wanted, atol=1e-6, rtol=0.0)
    assert RandomScaleCrop(24, scale=(28, 60)).evaluation_scale == 28


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": 0}, "size must be"),
        (
            {"scale": (300, 256)},
            r"scale must be \(low, high\), whole numbers with 1 <= low <= high, got \(300",
        ),
        ({"scale": (256.0, 480)}, "scale must be"),
        ({"scale": (256,)}, "scale must be"),
        ({"scale": 256}, "scale must be"),
        ({"scale": (100, 480)}, "scale must be >= the window's short side, 224, got 100"),
        ({"evaluation_scale": 0}, "evaluation_scale must be a whole number >= 1, got 0"),
        ({"evaluation_scale": 200}, "evaluation_scale must be >= the window's short side, 224, got 200"),
    ],
)
def test_wrong_settings(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=f"^RandomScaleCrop: {message}"):
        RandomScaleCrop(**settings)


def test_a_window_that_does_not_fit_is_refused() -> None:
    crop = RandomScaleCrop((10, 14), scale=(12, 20))
    assert crop.output_shape((3, 10, 20)) == (3, 10, 14)
    message = r"size 10x14 must fit into the image of 20x20 resized to 12x12$"
    with pytest.raises(ValueError, match=message):
        crop.output_shape((3, 20, 20))
    with pytest.raises(ValueError, match=message):
        crop(torch.rand(2, 3, 20, 20), draws(2))
