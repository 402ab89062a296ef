"""LensDistortion and RandomStretch against closed forms and torchvision's `elastic` and `perspective`."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from lightning_optreg.data.transforms import LensDistortion, RandomStretch
from lightning_optreg.data.transforms.lens_distortion import distort
from lightning_optreg.randomness.draws import Draws, Place

SIZES = [(14, 11), (9, 16), (12, 12)]


def draws(n: int) -> Draws:
    return Draws(9, Place(1, 3, 0, n), n, torch.device("cpu"))


def rings(size: tuple[int, int], radius: float) -> Tensor:
    """A thin ring about the centre, radius in half diagonals; (1, 1, H, W), float64."""
    height, width = size
    y, x = np.mgrid[:height, :width] + 0.5
    r = np.hypot(x - width / 2, y - height / 2) / np.hypot(width / 2, height / 2)
    return torch.from_numpy(np.exp(-(((r - radius) / 0.02) ** 2)))[None, None]


def ray(image: Tensor, angle: float, steps: int = 4000) -> tuple[Tensor, Tensor]:
    """Radii in half diagonals, and the values of (1, 1, H, W) along a ray from the centre."""
    height, width = image.shape[-2:]
    r = torch.arange(steps, dtype=torch.float64) / steps
    diagonal = math.hypot(height, width)
    places = torch.stack((r * math.cos(angle) * diagonal / width, r * math.sin(angle) * diagonal / height), 1)
    values = torch.nn.functional.grid_sample(image, places[None, None], align_corners=False)
    return r, values.flatten()


@pytest.mark.parametrize("size", [(320, 320), (240, 400)])
@pytest.mark.parametrize(("k1", "k2"), [(0.3, 0.0), (-0.25, 0.0), (0.2, 0.3), (0.0, -0.15), (-0.5, 0.3)])
def test_a_ring_moves_to_the_radius_that_solves_the_formula(
    size: tuple[int, int], k1: float, k2: float
) -> None:
    image = rings(size, 0.4)
    number = (torch.tensor([k], dtype=torch.float64) for k in (k1, k2))
    distorted = distort(image, *number)
    # r' = 0.4 = r (1 + k1 r^2 + k2 r^4)
    roots = np.roots([k2, 0.0, k1, 0.0, 1.0, -0.4])
    expected = min(root.real for root in roots if abs(root.imag) < 1e-9 and root.real > 0)
    for angle in (0.0, 0.4, 1.3, 2.9, -2.0):
        r, values = ray(distorted, angle)
        # A pixel is 0.0044 half diagonals.
        assert r[values.argmax()].item() == pytest.approx(expected, abs=0.0044)
    assert abs(expected - 0.4) > 0.001


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_each_image_is_torchvisions_elastic_with_the_formulas_displacement(
    size: tuple[int, int], dtype: torch.dtype
) -> None:
    height, width = size
    images = torch.rand(6, 3, height, width, dtype=dtype, generator=torch.Generator().manual_seed(0))
    result = LensDistortion(k1=(-0.25, 0.4), k2=(-0.01, 0.2))(images, draws(6))
    u = draws(6).uniform(2).double()
    k1, k2 = u[:, 0] * 0.65 - 0.25, u[:, 1] * 0.21 - 0.01
    for n in range(6):
        displacement = torch.empty(1, height, width, 2, dtype=torch.float64)
        for i in range(height):
            for j in range(width):
                x, y = j + 0.5 - width / 2, i + 0.5 - height / 2
                r = math.hypot(x, y) / math.hypot(width / 2, height / 2)
                more = float(k1[n]) * r**2 + float(k2[n]) * r**4
                displacement[0, i, j] = torch.tensor([2 * x / width * more, 2 * y / height * more])
        expected = tv.elastic(images[n], displacement.to(dtype))
        torch.testing.assert_close(result[n], expected, atol=5e-6, rtol=0.0)  # k is drawn in float32


@pytest.mark.parametrize("size", SIZES)
def test_lens_without_distortion_is_the_identity(size: tuple[int, int]) -> None:
    images = torch.rand(2, 3, *size, dtype=torch.float64)
    zero = torch.zeros(2)
    torch.testing.assert_close(distort(images, zero, zero), images, atol=1e-5, rtol=0.0)  # in float32 places
    assert LensDistortion((0.0, 0.0))(images, draws(2)) is images


def test_a_barrel_has_black_corners_and_a_pincushion_has_none() -> None:
    images = torch.ones(2, 1, 20, 30)
    barrel = LensDistortion((0.2, 0.2))(images, draws(2))
    assert (barrel[:, 0, [0, 0, -1, -1], [0, -1, 0, -1]] == 0.0).all()
    assert (barrel[:, 0, 10, 2:-2] == 1.0).all()
    torch.testing.assert_close(LensDistortion((-0.2, -0.2))(images, draws(2)), images)
    border = LensDistortion((0.2, 0.2), padding_mode="border")(images, draws(2))
    torch.testing.assert_close(border, images)


def test_what_folds_is_refused() -> None:
    s = np.linspace(0.0, 1.0, 2001)
    refused = 0
    for k1 in np.linspace(-2.0, 1.0, 25):
        for k2 in np.linspace(-1.0, 2.0, 24):
            grows = bool((1 + 3 * k1 * s + 5 * k2 * s**2 > 0).all())
            try:
                LensDistortion((k1, 1.5), (k2, 2.5))
            except ValueError:
                refused += 1
                assert not grows
            else:
                assert grows
    assert 100 < refused < 500


def uniform(u: Tensor) -> bool:
    """Whether a sample could be uniform on [0, 1]: Kolmogorov's distance, exceeded in 0.07 % of cases."""
    n = len(u)
    steps = torch.arange(1, n + 1, dtype=u.dtype) / n
    return bool((u.sort().values - steps).abs().max() < 2 / math.sqrt(n))


def ramps(n: int) -> tuple[Tensor, float, float]:
    """Images 16 x 16 whose channels are the places x and y, and the x and y of the pixel (4, 10)."""
    middle = torch.arange(16.0) + 0.5 - 8
    images = torch.stack((middle.expand(16, 16), middle[:, None].expand(16, 16)))
    return images.expand(n, 2, 16, 16), 2.5, -3.5


def test_coefficients_are_uniform_and_independent() -> None:
    images, x, y = ramps(4000)
    r2 = (x * x + y * y) / 128
    k1_only = LensDistortion((-0.2, 0.3))(images, draws(4000))[:, 0, 4, 10].double()
    k1 = (k1_only / x - 1) / r2
    assert uniform((k1 + 0.2) / 0.5)
    k2_only = LensDistortion((0.0, 0.0), (0.1, 0.3))(images, draws(4000))[:, 1, 4, 10].double()
    k2 = (k2_only / y - 1) / r2**2
    assert uniform((k2 - 0.1) / 0.2)
    assert torch.corrcoef(torch.stack((k1, k2)))[0, 1].abs() < 4 / math.sqrt(4000)


@pytest.mark.parametrize("size", SIZES)
def test_each_stretch_is_torchvisions_perspective(size: tuple[int, int]) -> None:
    height, width = size
    images = torch.rand(6, 3, height, width, generator=torch.Generator().manual_seed(0))
    result = RandomStretch((0.5, 1.5), (0.7, 2.0))(images, draws(6))
    u = draws(6).uniform(2).double()
    corners = [[0, 0], [width, 0], [width, height], [0, height]]
    for n in range(6):
        wider = 0.5 * 3.0 ** u[n, 0].item()
        higher = 0.7 * (2.0 / 0.7) ** u[n, 1].item()
        ends = [
            [width / 2 + wider * (x - width / 2), height / 2 + higher * (y - height / 2)] for x, y in corners
        ]
        expected = tv.perspective(images[n], corners, ends)  # type: ignore[arg-type]
        torch.testing.assert_close(result[n], expected, atol=2e-5, rtol=0.0)


def test_stretch_multiplies_widths_and_heights() -> None:
    image = torch.zeros(1, 1, 40, 40)
    image[:, :, 16:24, 16:24] = 1.0  # a square of side 8
    got = RandomStretch((2.0, 2.0), (0.5, 0.5))(image, draws(1))[0, 0]
    assert got.sum(1).max().item() == pytest.approx(16.0, abs=0.01)
    assert got.sum(0).max().item() == pytest.approx(4.0, abs=0.01)


def test_stretch_factors_are_log_uniform_and_independent() -> None:
    images, x, y = ramps(4000)
    result = RandomStretch((0.8, 1.25), (0.9, 1.5))(images, draws(4000))[:, :, 4, 10].double()
    u = (x / result[:, 0] / 0.8).log() / math.log(1.25 / 0.8)
    v = (y / result[:, 1] / 0.9).log() / math.log(1.5 / 0.9)
    assert uniform(u)
    assert uniform(v)
    assert torch.corrcoef(torch.stack((u, v)))[0, 1].abs() < 4 / math.sqrt(4000)
