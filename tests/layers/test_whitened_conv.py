"""Whitening convolution: covariance against numpy, responses uncorrelated, filters frozen and saved."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lightning_optreg.layers import WhitenedConv2d
from lightning_optreg.layers.whitened_conv import patch_covariance, whitening_filters


def images(count: int = 40, channels: int = 3, dtype: torch.dtype = torch.float32) -> Tensor:
    """Images whose neighbouring pixels and channels are alike."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(count, channels, 12, 10, generator=generator, dtype=torch.float64)
    smooth = noise + 0.9 * noise.roll(1, -1) + 0.5 * noise.roll(1, 1) + 0.3
    return smooth.to(dtype)


def patches_one_by_one(x: Tensor, k: int) -> np.ndarray:
    """All patches, flattened like a filter's weights, from two loops."""
    rows = [
        x[:, :, i : i + k, j : j + k].reshape(len(x), -1)
        for i in range(x.shape[2] - k + 1)
        for j in range(x.shape[3] - k + 1)
    ]
    return torch.cat(rows).double().numpy()


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("chunk", [1, 10_000, 2**20])
def test_covariance_is_numpys(k: int, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_optreg.layers.whitened_conv._CHUNK_VALUES", chunk)
    x = images()
    expected = np.cov(patches_one_by_one(x, k), rowvar=False, bias=True)
    found = patch_covariance(x, k)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, torch.from_numpy(expected), rtol=1e-12, atol=1e-12)


def test_covariance_bears_a_large_mean() -> None:
    x = images(dtype=torch.float64)
    torch.testing.assert_close(patch_covariance(x + 100, 2), patch_covariance(x, 2), rtol=1e-10, atol=1e-10)


def test_covariance_of_8_bit_images_is_that_of_their_numbers() -> None:
    x = torch.randint(0, 256, (5, 3, 8, 8), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    assert torch.equal(patch_covariance(x, 2), patch_covariance(x.float(), 2))


def test_filters_of_a_known_covariance() -> None:
    """S = R diag(9, 1) R^T, R a rotation by 30 degrees: the filters are its columns, over 3 and 1."""
    c, s = math.cos(math.pi / 6), math.sin(math.pi / 6)
    rotation = torch.tensor([[c, -s], [s, c]], dtype=torch.float64)
    covariance = rotation @ torch.diag(torch.tensor([9.0, 1.0]).double()) @ rotation.T
    expected = torch.tensor([[c / 3, s / 3], [-s, c]], dtype=torch.float64)
    found = whitening_filters(covariance, 1e-15)
    torch.testing.assert_close(found, torch.cat((expected, -expected)), rtol=1e-12, atol=1e-12)


def test_responses_are_uncorrelated_with_the_stated_variance() -> None:
    x, eps = images(dtype=torch.float64), 0.5
    layer = WhitenedConv2d(3, eps=eps).double()
    layer.whiten(x)
    responses = layer(x).transpose(0, 1).flatten(1)
    eigenvalues = torch.linalg.eigvalsh(patch_covariance(x, 2)).flip(0)
    expected = torch.diag(eigenvalues / (eigenvalues + eps))
    torch.testing.assert_close(responses[:12].cov(correction=0), expected, rtol=1e-10, atol=1e-10)
    assert torch.equal(responses[12:], -responses[:12])


def test_zero_phase_whitening_is_the_same_up_to_a_rotation() -> None:
    """E (Lambda + eps)^-1/2 E^T, ZCA, has the Gram matrix of E (Lambda + eps)^-1/2."""
    covariance = patch_covariance(images(), 2)
    filters = whitening_filters(covariance, 1e-3)[:12]
    inverse = torch.linalg.inv(covariance + 1e-3 * torch.eye(12, dtype=torch.float64))
    torch.testing.assert_close(filters.T @ filters, inverse, rtol=1e-9, atol=1e-9)


def test_constant_images_get_finite_filters() -> None:
    layer = WhitenedConv2d(1, eps=0.25)
    layer.whiten(torch.full((3, 1, 4, 4), 7.0))
    torch.testing.assert_close(layer.weight[:4].flatten(1).norm(dim=1), torch.full((4,), 2.0))


@pytest.mark.parametrize("k", [1, 2, 3])
def test_starts_as_an_orthonormal_basis(k: int) -> None:
    layer = WhitenedConv2d(2, k)
    assert layer.out_channels == 4 * k * k
    filters = layer.weight.detach().flatten(1)
    first, second = filters.chunk(2)
    torch.testing.assert_close(first @ first.T, torch.eye(2 * k * k))
    assert torch.equal(second, -first)
    assert not layer.bias.any()
    assert layer.patches == 0


def test_computes_what_a_convolution_does() -> None:
    layer, x = WhitenedConv2d(3, 3, stride=2, padding=1), images()
    layer.whiten(x)
    nn.init.normal_(layer.bias)
    expected = nn.functional.conv2d(x, layer.weight, layer.bias, stride=2, padding=1)
    assert torch.equal(layer(x), expected)


def test_only_the_bias_is_trained() -> None:
    layer, x = WhitenedConv2d(3), images()
    layer.whiten(x)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    before = copy.deepcopy(layer.state_dict())
    for _ in range(3):
        optimizer.zero_grad()
        (layer(x) - 1).square().mean().backward()
        optimizer.step()
    assert torch.equal(layer.weight, before["weight"])
    assert not torch.equal(layer.bias, before["bias"])
    assert [name for name, p in WhitenedConv2d(3, bias=False).named_parameters() if p.requires_grad] == []


def test_a_checkpoint_needs_no_images() -> None:
    layer, other, x = WhitenedConv2d(3), WhitenedConv2d(3), images()
    layer.whiten(x)
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other(x), layer(x))
    assert int(other.patches) == 40 * 11 * 9


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_whitens_in_any_precision(dtype: torch.dtype) -> None:
    layer, exact = WhitenedConv2d(3).to(dtype), WhitenedConv2d(3).double()
    exact.whiten(images(dtype=torch.float64))
    layer.whiten(images(dtype=torch.float64))
    assert layer.weight.dtype == dtype
    torch.testing.assert_close(layer.weight, exact.weight.to(dtype), rtol=0, atol=0)


def test_is_built_where_the_default_type_is_half_precision() -> None:
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        layer = WhitenedConv2d(3)
    finally:
        torch.set_default_dtype(default)
    assert layer.weight.dtype == torch.bfloat16


def test_draws_nothing_and_keeps_the_memory_format() -> None:
    layer = WhitenedConv2d(3).to(memory_format=torch.channels_last)
    state = torch.get_rng_state()
    layer.whiten(images().to(memory_format=torch.channels_last))
    assert torch.equal(torch.get_rng_state(), state)
    assert layer.weight.is_contiguous(memory_format=torch.channels_last)
    other = WhitenedConv2d(3)
    other.whiten(images())
    torch.testing.assert_close(layer.weight, other.weight)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"in_channels": 0}, "in_channels must be >= 1, got 0"),
        ({"kernel_size": 0}, "kernel_size must be >= 1, got 0"),
        ({"kernel_size": 1.5}, "kernel_size must be a whole number >= 1, got 1.5"),
        ({"stride": 0}, "stride must be >= 1, got 0"),
        ({"padding": -1}, "padding must be >= 0, got -1"),
        ({"eps": 0.0}, r"eps must be in \(0, inf\), got 0.0"),
        ({"eps": float("nan")}, r"eps must be in \(0, inf\), got nan"),
    ],
)
def test_wrong_settings(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=f"^WhitenedConv2d: {message}$"):
        WhitenedConv2d(**{"in_channels": 3, **settings})


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(4, 1, 8, 8), r"images must be \(N, 3, H, W\), got \(4, 1, 8, 8\)"),
        (torch.zeros(3, 8, 8), r"images must be \(N, 3, H, W\), got \(3, 8, 8\)"),
        (torch.zeros(0, 3, 8, 8), r"at least one image, of height and width >= 2, got \(0, 3, 8, 8\)"),
        (torch.zeros(4, 3, 1, 8), r"at least one image, of height and width >= 2, got \(4, 3, 1, 8\)"),
        (torch.full((4, 3, 8, 8), float("nan")), "images must be finite, got NaN or infinity"),
    ],
)
def test_wrong_images(x: Tensor, message: str) -> None:
    layer = WhitenedConv2d(3)
    before = copy.deepcopy(layer.state_dict())
    with pytest.raises(ValueError, match=f"^WhitenedConv2d: .*{message}"):
        layer.whiten(x)
    assert all(torch.equal(before[name], value) for name, value in layer.state_dict().items())


def test_patches_must_exist() -> None:
    with pytest.raises(ValueError, match=r"^patch_covariance: .*one image, of height and width >= 9"):
        patch_covariance(torch.zeros(2, 1, 8, 8), 9)
    with pytest.raises(ValueError, match=r"^patch_covariance: there must be at least one image, got none"):
        patch_covariance([], 2)
    with pytest.raises(ValueError, match=r"^patch_covariance: images must be \(N, C, H, W\), got \(2, 3, 8"):
        patch_covariance([torch.zeros(2, 1, 8, 8), torch.zeros(2, 3, 8, 8)], 2)


def test_batches_are_one_set_of_images() -> None:
    x = images(dtype=torch.float64)
    whole, parts = WhitenedConv2d(3).double(), WhitenedConv2d(3).double()
    whole.whiten(x)
    parts.whiten(iter(x.split(7)))
    torch.testing.assert_close(parts.weight, whole.weight, rtol=1e-10, atol=1e-10)
    assert torch.equal(parts.patches, whole.patches)
