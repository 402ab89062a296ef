"""PCAColorJitter against its formula and ColorJitter against torchvision."""

import colorsys
import math

import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from lightning_optreg.data.statistics import Statistics, compute_statistics
from lightning_optreg.data.transforms import (
    ColorJitter,
    PCAColorJitter,
    PerImageStandardization,
    TFColorJitter,
)
from lightning_optreg.data.transforms.tf_color_jitter import adjust_saturation
from lightning_optreg.randomness.draws import Draws, Place

CPU = torch.device("cpu")


def draws(n: int) -> Draws:
    return Draws(11, Place(2, 1, 0, n), n, CPU)


class Given(Draws):
    """Draws whose normal numbers are given, for examples worked by hand."""

    def __init__(self, numbers: Tensor) -> None:
        super().__init__(0, Place(0, 0, 0, len(numbers)), len(numbers), CPU)
        self.numbers = numbers

    def normal(self, *shape: int) -> Tensor:
        return self.numbers.view(self.count, *shape)


def colours(eigenvalues: list[float], eigenvectors: list[list[float]]) -> Statistics:
    c = len(eigenvalues)
    return Statistics(
        mean=torch.zeros(c),
        std=torch.ones(c),
        mean_image=torch.zeros(c, 4, 4),
        eigenvalues=torch.tensor(eigenvalues),
        eigenvectors=torch.tensor(eigenvectors),
    )


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        # 0.1 x (1 x 0.25 (0.6, 0.8) - 2 x 0.04 (-0.8, 0.6))
        ("eigenvalue", (0.0214, 0.0152)),
        # 0.1 x (1 x 0.5 (0.6, 0.8) - 2 x 0.2 (-0.8, 0.6))
        ("std", (0.062, 0.016)),
    ],
)
def test_pca_jitter_worked_by_hand(form: str, expected: tuple[float, float]) -> None:
    jitter = PCAColorJitter(std=0.1, form=form)  # type: ignore[arg-type]
    jitter.fit(colours([0.25, 0.04], [[0.6, -0.8], [0.8, 0.6]]))
    images = torch.rand(1, 2, 3, 5)
    shifted = jitter(images, Given(torch.tensor([[1.0, -2.0]])))
    torch.testing.assert_close(
        shifted - images, torch.tensor(expected).view(1, 2, 1, 1).expand(1, 2, 3, 5), atol=1e-6, rtol=0.0
    )


@pytest.mark.parametrize(("form", "of_255"), [("eigenvalue", 4.38), ("std", 10.57)])
def test_pca_jitter_has_the_size_that_its_description_gives_for_cifar10(form: str, of_255: float) -> None:
    # One standard deviation along the first component, whose variance is 0.17183 on [0, 1].
    jitter = PCAColorJitter(form=form)  # type: ignore[arg-type]
    identity = torch.eye(3).tolist()
    jitter.fit(colours([0.17183, 0.01253, 0.00265], identity))
    shift = jitter.shift(Given(torch.tensor([[1.0, 0.0, 0.0]])))
    assert shift is not None
    assert 255 * shift[0].norm().item() == pytest.approx(of_255, abs=0.01)


@pytest.mark.parametrize("form", ["eigenvalue", "std"])
@pytest.mark.parametrize("channels", [1, 3])
def test_pca_jitter_has_the_covariance_of_its_formula(form: str, channels: int) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (200, channels, 8, 8), dtype=torch.uint8, generator=generator)
    images[:, 0] //= 2
    s = compute_statistics(images)
    jitter = PCAColorJitter(std=0.2, form=form)  # type: ignore[arg-type]
    jitter.fit(s)
    n = 20000
    shift = jitter.shift(draws(n))
    assert shift is not None
    shift = shift.double()
    spread = s.eigenvalues.double() if form == "eigenvalue" else s.eigenvalues.double().sqrt()
    v = s.eigenvectors.double()
    expected = 0.04 * v @ torch.diag(spread**2) @ v.T
    variance = expected.diagonal()
    error = ((variance[:, None] * variance + expected**2) / n).sqrt()  # of a normal sample's covariance
    assert ((shift.T @ shift / n - expected).abs() < 4.5 * error).all()
    assert (shift.mean(0).abs() < 4.5 * (variance / n).sqrt()).all()


def test_pca_jitter_moves_all_pixels_of_a_channel_together() -> None:
    jitter = PCAColorJitter()
    jitter.fit(compute_statistics(torch.randint(0, 256, (50, 3, 8, 8), dtype=torch.uint8)))
    images = torch.rand(6, 3, 4, 5)
    difference = jitter(images, draws(6)) - images
    shift = jitter.shift(draws(6))
    assert shift is not None
    torch.testing.assert_close(difference, shift[:, :, None, None].expand(6, 3, 4, 5), atol=1e-6, rtol=0.0)
    assert len(set(shift.flatten().tolist())) == 18


def test_pca_jitter_needs_statistics_of_such_images() -> None:
    jitter = PCAColorJitter()
    with pytest.raises(RuntimeError, match=r"^PCAColorJitter: it has no statistics .*: call fit\("):
        jitter(torch.rand(2, 3, 4, 4), draws(2))
    jitter.fit(colours([1.0], [[1.0]]))
    with pytest.raises(ValueError, match=r"^PCAColorJitter: fitted to images of 1 channel\(s\), got 3$"):
        jitter(torch.rand(2, 3, 4, 4), draws(2))


@pytest.mark.parametrize("channels", [1, 3])
def test_colour_jitter_is_torchvisions_with_the_drawn_factors(channels: int) -> None:
    images = torch.rand(60, channels, 7, 6)
    result = ColorJitter(brightness=0.8, contrast=0.6)(images, draws(60))
    numbers = draws(60)
    brightness, contrast = numbers.uniform(low=1 - 0.8, high=1.8), numbers.uniform(low=1 - 0.6, high=1.6)
    for image, got, b, c in zip(images, result, brightness.tolist(), contrast.tolist(), strict=True):
        torch.testing.assert_close(
            got, tv.adjust_contrast(tv.adjust_brightness(image, b), c), atol=1e-6, rtol=0.0
        )
    assert result.min() >= 0.0
    assert result.max() == 1.0  # some pixels were clamped


def test_brightness_alone_is_torchvisions_bit_for_bit() -> None:
    images = torch.rand(40, 2, 5, 5)  # more channels than torchvision takes would do as well
    result = ColorJitter(brightness=1.0)(images, draws(40))
    for image, got, b in zip(images, result, draws(40).uniform(low=0.0, high=2.0), strict=True):
        for channel, got_channel in zip(image, got, strict=True):
            assert torch.equal(got_channel, tv.adjust_brightness(channel[None], b.item())[0])


def test_factors_are_uniform_on_their_ranges() -> None:
    n = 20000
    factors = ColorJitter(brightness=0.3)(torch.full((n, 1, 1, 1), 0.5), draws(n)).flatten().double() / 0.5
    assert 0.7 <= factors.min() < 0.701
    assert 1.299 < factors.max() < 1.3 + 1e-6
    assert abs(factors.mean().item() - 1.0) < 4 * 0.6 / math.sqrt(12 * n)
    counts = torch.histc(factors, 20, 0.7, 1.3)
    chi_square = ((counts - n / 20) ** 2 / (n / 20)).sum().item()
    assert chi_square < 19 + 5 * math.sqrt(38)


@pytest.mark.parametrize("factor", [0.0, 0.5, 1.0, 1.7, 30.0])
def test_saturation_is_that_of_hsv(factor: float) -> None:
    images = torch.rand(2, 3, 5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    images[0, :, 0, 0] = 0.4  # a grey pixel
    images[0, :, 0, 1] = 0.0  # a black one
    changed = adjust_saturation(images, torch.tensor([factor, factor], dtype=torch.float64))
    for before, after in zip(
        images.permute(0, 2, 3, 1).reshape(-1, 3), changed.permute(0, 2, 3, 1).reshape(-1, 3), strict=True
    ):
        h, s, v = colorsys.rgb_to_hsv(*before.tolist())
        assert after.tolist() == pytest.approx(colorsys.hsv_to_rgb(h, min(1.0, s * factor), v), abs=1e-12)


def test_tensorflows_contrast_keeps_the_mean_of_each_channel_and_does_not_clamp() -> None:
    images = torch.rand(8, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    changed = TFColorJitter(contrast=(1.8, 1.8))(images, draws(8))
    mean = images.mean((2, 3), keepdim=True)
    torch.testing.assert_close(changed, mean + 1.8 * (images - mean))
    assert changed.min() < 0
    shifted = TFColorJitter(brightness=0.2)(images, draws(8)) - images
    assert (shifted.flatten(1).std(1) < 1e-6).all()
    assert shifted.abs().max() <= 0.2
    assert shifted[:, 0, 0, 0].unique().numel() == 8


def test_per_image_standardization_against_its_formula() -> None:
    images = torch.rand(4, 3, 5, 7, generator=torch.Generator().manual_seed(0))
    images[1] = 0.3  # uniform: the bound keeps it finite
    result = PerImageStandardization()(images, draws(4))
    for before, after in zip(images, result, strict=True):
        bound = 1 / (255 * math.sqrt(before.numel()))
        expected = (before - before.mean()) / max(float(before.std(correction=0)), bound)
        torch.testing.assert_close(after, expected, atol=2e-4, rtol=1e-4)
    assert torch.equal(result, PerImageStandardization().evaluate(images))
