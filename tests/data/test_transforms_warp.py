"""RandomResizedCrop against float64 arithmetic, torchvision and pictures whose warp is plain to see."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from lightning_optreg.data.transforms import RandomResizedCrop
from lightning_optreg.data.transforms.random_resized_crop import Boxes, affine_matrices, warp
from lightning_optreg.randomness.draws import Draws, Place

CPU = torch.device("cpu")


def draws(n: int) -> Draws:
    return Draws(5, Place(1, 4, 0, n), n, CPU)


def boxes(
    image: tuple[int, int],
    box: tuple[float, float, float, float] | None = None,  # left, top, width, height
    angle: float = 0.0,
    shear: float = 0.0,
    stretch: float = 1.0,
) -> Boxes:
    left, top, width, height = (0.0, 0.0, image[1], image[0]) if box is None else box
    numbers = (left + width / 2, top + height / 2, width, height, angle, shear, stretch)
    return Boxes(*(torch.tensor([v], dtype=torch.float64) for v in numbers))


def warped(image: Tensor, one: Boxes, size: tuple[int, int], padding_mode: str = "zeros") -> Tensor:
    matrices = affine_matrices(one, (image.shape[-2], image.shape[-1]))
    return warp(image[None], matrices, size, padding_mode)[0]


def reference(image: Tensor, one: Boxes, size: tuple[int, int], padding_mode: str) -> Tensor:
    """Warp (H, W) pixel by pixel: the forward matrices multiplied out and inverted, in float64."""
    x, y, w, h, angle, shear, s = (v.item() for v in one)
    r, k = math.radians(angle), math.radians(shear)
    rotate = torch.tensor([[math.cos(r), -math.sin(r)], [math.sin(r), math.cos(r)]], dtype=torch.float64)
    sheared = torch.tensor([[1.0, -math.tan(k)], [0.0, 1.0]], dtype=torch.float64)
    stretched = torch.tensor([[math.sqrt(s), 0.0], [0.0, 1 / math.sqrt(s)]], dtype=torch.float64)
    back = torch.linalg.inv(rotate @ sheared @ stretched)
    height, width = image.shape

    def pixel(i: int, j: int) -> float:
        inside = 0 <= i < height and 0 <= j < width
        if padding_mode == "zeros" and not inside:
            return 0.0
        return image[min(max(i, 0), height - 1), min(max(j, 0), width - 1)].item()

    def reflected(t: float, n: int) -> float:  # about the outer edges, -0.5 and n - 0.5
        t = (t + 0.5) % (2 * n)
        return (t if t <= n else 2 * n - t) - 0.5

    result = torch.zeros(size, dtype=torch.float64)
    for i in range(size[0]):
        for j in range(size[1]):
            from_centre = torch.tensor(
                [((j + 0.5) / size[1] - 0.5) * w, ((i + 0.5) / size[0] - 0.5) * h], dtype=torch.float64
            )
            px, py = (back @ from_centre).tolist()
            px, py = px + x - 0.5, py + y - 0.5  # pixel 0 has its middle at 0.5
            if padding_mode == "reflection":
                px, py = reflected(px, width), reflected(py, height)
            j0, i0 = math.floor(px), math.floor(py)
            a, b = px - j0, py - i0
            result[i, j] = (1 - b) * ((1 - a) * pixel(i0, j0) + a * pixel(i0, j0 + 1)) + b * (
                (1 - a) * pixel(i0 + 1, j0) + a * pixel(i0 + 1, j0 + 1)
            )
    return result


@pytest.mark.parametrize("padding_mode", ["zeros", "border", "reflection"])
@pytest.mark.parametrize(("dtype", "atol"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_warp_is_the_matrices_multiplied_out(padding_mode: str, dtype: torch.dtype, atol: float) -> None:
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(11, 8, dtype=torch.float64, generator=generator)
    for one, size in (
        (boxes((11, 8), (1.3, 2.7, 5.1, 6.2), 25.0, 15.0, 1.7), (7, 9)),
        (boxes((11, 8), None, -130.0, -40.0, 0.5), (11, 8)),
        (boxes((11, 8), (0.0, 1.0, 8.0, 4.0)), (8, 16)),
    ):
        got = warped(image[None].to(dtype), one, size, padding_mode)
        assert got.dtype == dtype
        expected = reference(image.to(dtype).double(), one, size, padding_mode)
        torch.testing.assert_close(got[0].double(), expected, atol=atol, rtol=0.0)


def test_transform_is_the_reference_at_the_drawn_boxes() -> None:
    images = torch.rand(6, 2, 9, 7, dtype=torch.float64)
    crop = RandomResizedCrop((6, 8), rotation=40.0, shear=20.0, stretch=1.5)
    result = crop(images, draws(6))
    drawn = crop.draw(draws(6), (9, 7))
    for n in range(6):
        one = Boxes(*(v[n : n + 1].double() for v in drawn))
        for image, got in zip(images[n], result[n], strict=True):
            expected = reference(image, one, (6, 8), "reflection")
            torch.testing.assert_close(got, expected, atol=2e-6, rtol=0.0)  # boxes are drawn in float32


@pytest.mark.parametrize(
    ("angle", "shear"), [(0.0, 0.0), (30.0, 0.0), (0.0, 25.0), (-75.0, 12.0), (160.0, -33.0)]
)
def test_rotation_and_shear_are_torchvisions_affine(angle: float, shear: float) -> None:
    image = torch.rand(3, 14, 11)
    expected = tv.affine(
        image,
        angle,
        translate=[0, 0],
        scale=1.0,
        shear=[shear, 0.0],
        interpolation=InterpolationMode.BILINEAR,
    )
    got = warped(image, boxes((14, 11), None, angle, shear), (14, 11))
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0.0)


@pytest.mark.parametrize("box", [(0, 0, 11, 14), (2, 3, 5, 4), (6, 0, 5, 14), (1, 1, 9, 12)])
@pytest.mark.parametrize("size", [(14, 11), (8, 8), (30, 21)])
def test_box_is_torchvisions_resized_crop(box: tuple[int, int, int, int], size: tuple[int, int]) -> None:
    image = torch.rand(3, 14, 11)
    left, top, width, height = box
    expected = tv.resized_crop(image, top, left, height, width, list(size), antialias=False)
    got = warped(image, boxes((14, 11), box), size, "reflection")
    # Within half a pixel of the box's edge torchvision repeats the edge, and here the picture goes on.
    x = (torch.arange(size[1]) + 0.5) / size[1] * width
    y = (torch.arange(size[0]) + 0.5) / size[0] * height
    columns = torch.ones(size[1], dtype=torch.bool) if width == 11 else (x >= 0.5) & (x <= width - 0.5)
    rows = torch.ones(size[0], dtype=torch.bool) if height == 14 else (y >= 0.5) & (y <= height - 0.5)
    assert columns.sum() >= 3
    assert rows.sum() >= 3
    torch.testing.assert_close(
        got[:, rows][:, :, columns], expected[:, rows][:, :, columns], atol=1e-5, rtol=0.0
    )


def test_positive_angles_turn_clockwise() -> None:
    image = torch.rand(2, 9, 9)
    got = warped(image, boxes((9, 9), angle=90.0), (9, 9))
    torch.testing.assert_close(got, image.rot90(-1, (1, 2)), atol=1e-5, rtol=0.0)


def test_stretch_widens_the_picture_and_keeps_areas() -> None:
    # A square of side 8, stretched by 4: twice as wide and half as high.
    image = torch.zeros(1, 32, 32)
    image[:, 12:20, 12:20] = 1.0
    got = warped(image, boxes((32, 32), stretch=4.0), (32, 32))
    assert got.sum().item() == pytest.approx(64.0, rel=0.02)
    assert got.sum(2).max().item() == pytest.approx(16.0, rel=0.02)
    assert got.sum(1).max().item() == pytest.approx(4.0, rel=0.02)


def test_small_angles_change_little_and_none_nothing() -> None:
    images = torch.rand(4, 1, 8, 8)
    assert RandomResizedCrop(scale=(1, 1), ratio=(1, 1))(images, draws(4)) is images
    assert RandomResizedCrop(8, scale=(1, 1), ratio=(1, 1))(images, draws(4)) is images
    nearly = RandomResizedCrop(scale=(1, 1), ratio=(1, 1), rotation=1e-3)(images, draws(4))
    torch.testing.assert_close(nearly, images, atol=1e-3, rtol=0.0)
    assert not torch.equal(nearly, images)


def test_without_randomness_training_resizes_as_evaluation_does() -> None:
    images = torch.rand(3, 2, 9, 12)
    crop = RandomResizedCrop((6, 15), scale=(1, 1), ratio=(1, 1))
    assert torch.equal(crop(images, draws(3)), crop.evaluate(images))
    expected = F.interpolate(images, (6, 15), mode="bilinear", align_corners=False)
    assert torch.equal(crop.evaluate(images), expected)
    full = warp(images, affine_matrices(boxes((9, 12)), (9, 12)).expand(3, 2, 3), (6, 15), "border")
    torch.testing.assert_close(full, expected, atol=1e-5, rtol=0.0)


def test_parameters_have_the_stated_distributions() -> None:
    n, image = 20000, (20, 40)
    crop = RandomResizedCrop(scale=(0.2, 0.5), ratio=(0.8, 1.6), rotation=30.0, shear=10.0, stretch=1.5)
    drawn = Boxes(*(v.double() for v in crop.draw(draws(n), image)))
    area = drawn.width * drawn.height / 800
    ratio = (drawn.width / 40) / (drawn.height / 20)  # in units of the image's
    assert drawn.width.max() <= 40
    assert drawn.height.max() <= 20
    unit = {  # each brought to a uniform number on [0, 1]
        "area": (area - 0.2) / 0.3,
        "ratio": (ratio / 0.8).log() / math.log(2),
        "x": (drawn.x - drawn.width / 2) / (40 - drawn.width),
        "y": (drawn.y - drawn.height / 2) / (20 - drawn.height),
        "angle": (drawn.angle + 30) / 60,
        "shear": (drawn.shear + 10) / 20,
        "stretch": drawn.stretch.log() / (2 * math.log(1.5)) + 0.5,
    }
    for name, u in unit.items():
        assert u.min() >= -1e-5, name
        assert u.max() <= 1 + 1e-5, name
        # Kolmogorov's distance between sample and uniform distribution exceeds 2 / sqrt(n) in 0.07 % of cases
        steps = torch.arange(1, n + 1, dtype=torch.float64) / n
        assert (u.sort().values - steps).abs().max() < 2 / math.sqrt(n), name
    assert torch.corrcoef(torch.stack(list(unit.values()))).fill_diagonal_(0).abs().max() < 4 / math.sqrt(n)


def test_sides_longer_than_the_image_are_shortened() -> None:
    drawn = RandomResizedCrop(scale=(1.0, 1.0), ratio=(4.0, 4.0)).draw(draws(5), (10, 10))
    assert drawn.width.tolist() == [10.0] * 5
    assert drawn.height.tolist() == [5.0] * 5
    assert drawn.x.tolist() == [5.0] * 5
