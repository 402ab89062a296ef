"""Local response normalisation: the paper's formula in a loop, torch's layer, the gradient."""

import pytest
import torch
from torch import nn

from lightning_optreg.layers import LocalResponseNorm


@pytest.mark.parametrize("size", [1, 3, 5, 7, 25])
def test_is_the_papers_formula(size: int) -> None:
    a = torch.randn(2, 9, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    alpha, beta, k, half = 0.3, 0.6, 1.5, size // 2
    expected = torch.empty_like(a)
    for i in range(9):
        first, last = max(0, i - half), min(8, i + half)
        expected[:, i] = a[:, i] / (k + alpha * a[:, first : last + 1].square().sum(1)) ** beta
    torch.testing.assert_close(LocalResponseNorm(size, alpha, beta, k)(a), expected)


def test_default_is_torchs_layer_with_five_times_alpha() -> None:
    x = 10 * torch.randn(4, 96, 5, 5, generator=torch.Generator().manual_seed(0))
    x.requires_grad_()
    ours, theirs = LocalResponseNorm()(x), nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0)(x)
    torch.testing.assert_close(ours, theirs)
    weights = torch.randn_like(x)
    gradients = [torch.autograd.grad((weights * y).sum(), x)[0] for y in (ours, theirs)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("size", [2, 5])
def test_gradients(size: int) -> None:
    x = torch.randn(2, 6, 2, 2, dtype=torch.float64, requires_grad=True)
    layer = LocalResponseNorm(size, 0.5, 0.75, 2.0)
    assert torch.autograd.gradcheck(layer, x)
    assert torch.autograd.gradgradcheck(layer, x)


@pytest.mark.parametrize("settings", [{"alpha": 0.0, "k": 1.0}, {"beta": 0.0}])
def test_neutral_settings(settings: dict[str, float]) -> None:
    x = torch.randn(2, 8, 4, 4)
    assert torch.equal(LocalResponseNorm(**settings)(x), x)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": 0}, "size must be >= 1, got 0"),
        ({"alpha": -1e-4}, r"alpha must be in \[0, inf\), got -0.0001"),
        ({"beta": float("nan")}, r"beta must be in \[0, inf\), got nan"),
        ({"k": 0.0}, r"k must be in \(0, inf\), got 0.0"),
    ],
)
def test_wrong_settings(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=f"^LocalResponseNorm: {message}$"):
        LocalResponseNorm(**settings)
