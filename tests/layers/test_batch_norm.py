"""The lecture's batch normalisation against torch's: forward, backward, running averages."""

import copy

import pytest
import torch
from torch import nn

from lightning_optreg.layers import BatchNorm

CASES = pytest.mark.parametrize(
    ("theirs", "shape"),
    [(nn.BatchNorm1d, (8, 5)), (nn.BatchNorm1d, (4, 5, 7)), (nn.BatchNorm2d, (4, 5, 6, 3))],
)


def pair(kind: type[nn.Module], **settings: float) -> tuple[BatchNorm, nn.Module]:
    theirs = kind(5, **settings).double()
    with torch.no_grad():
        theirs.weight.copy_(torch.randn(5))
        theirs.bias.copy_(torch.randn(5))
    ours = BatchNorm(5, **settings).double()
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


@CASES
def test_is_torchs(theirs: type[nn.Module], shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    layers = pair(theirs, eps=1e-3, momentum=0.3)
    for _ in range(3):
        x = (3 + 2 * torch.randn(shape, dtype=torch.float64)).requires_grad_()
        weights = torch.randn(shape, dtype=torch.float64)
        results = []
        for layer in layers:
            y = layer(x)
            gradients = torch.autograd.grad((weights * y.tanh()).sum(), [x, layer.weight, layer.bias])
            results.append((y, *gradients))
        torch.testing.assert_close(*results, rtol=0, atol=1e-9)
    ours, twin = (copy.deepcopy(layer.state_dict()) for layer in layers)
    torch.testing.assert_close(dict(ours), dict(twin), rtol=0, atol=1e-12)
    torch.testing.assert_close(*(layer.eval()(x) for layer in layers), rtol=0, atol=1e-9)
    assert all(torch.equal(ours[name], value) for name, value in layers[0].state_dict().items())


def test_is_torchs_in_float32() -> None:
    torch.manual_seed(0)
    x = 3 + 2 * torch.randn(16, 5, 8, 8)
    ours, theirs = BatchNorm(5), nn.BatchNorm2d(5)
    torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=1e-6)
    torch.testing.assert_close(dict(ours.state_dict()), dict(theirs.state_dict()), rtol=0, atol=1e-6)


def test_second_derivatives() -> None:
    x = torch.randn(3, 2, 2, dtype=torch.float64, requires_grad=True)
    layer = BatchNorm(2).double()
    assert torch.autograd.gradcheck(layer, x)
    assert torch.autograd.gradgradcheck(layer, x)


def test_zero_momentum_leaves_the_running_averages() -> None:
    layer = BatchNorm(5, momentum=0.0)
    layer(torch.randn(4, 5))
    assert torch.equal(layer.running_mean, torch.zeros(5))
    assert torch.equal(layer.running_var, torch.ones(5))


def test_half_precision_keeps_its_type_and_sums_in_float32() -> None:
    x = (100 + torch.randn(64, 5, 8, 8)).bfloat16()
    y = BatchNorm(5)(x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y, nn.BatchNorm2d(5)(x), rtol=0.02, atol=0.02)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_features": 0}, "num_features must be >= 1, got 0"),
        ({"num_features": 3, "eps": 0.0}, r"eps must be in \(0, inf\), got 0.0"),
        ({"num_features": 3, "momentum": 1.5}, r"momentum must be in \[0, 1\], got 1.5"),
    ],
)
def test_wrong_settings(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=f"^BatchNorm: {message}$"):
        BatchNorm(**settings)


def test_wrong_inputs() -> None:
    with pytest.raises(
        ValueError, match=r"^BatchNorm: expected activations \(N, 5, ...\), got shape \(2, 3\)$"
    ):
        BatchNorm(5)(torch.ones(2, 3))
    with pytest.raises(
        ValueError, match=r"^BatchNorm: in training a channel needs at least two values, got 1$"
    ):
        BatchNorm(5)(torch.ones(1, 5, 1, 1))
    assert BatchNorm(5).eval()(torch.ones(1, 5, 1, 1)).shape == (1, 5, 1, 1)
