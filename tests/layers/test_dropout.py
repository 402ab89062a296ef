"""Dropout: torch's own numbers, the lecture's two forms, and the law of what is dropped."""

import math

import pytest
import torch
from torch import nn

from lightning_optreg.layers import Dropout


def test_inverted_is_torchs_dropout_bit_for_bit() -> None:
    x = torch.randn(64, 32, requires_grad=True)
    results = []
    for layer in (nn.Dropout(0.3), Dropout(0.3)):
        torch.manual_seed(1)
        y = layer(x)
        (gradient,) = torch.autograd.grad(y.square().sum(), x)
        results.append((y, gradient, layer.eval()(x)))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_vanilla_is_inverted_without_the_division() -> None:
    x, results = torch.randn(100, 7), []
    for form in ("inverted", "vanilla"):
        torch.manual_seed(1)
        results.append(Dropout(0.3, form=form)(x))
    torch.testing.assert_close(results[1], 0.7 * results[0])


def test_vanilla_keeps_or_drops_in_training_and_scales_at_test() -> None:
    torch.manual_seed(0)
    x = torch.rand(1000, 100, dtype=torch.float64, requires_grad=True)
    layer = Dropout(0.3, form="vanilla")
    y = layer(x)
    kept = y != 0
    assert torch.equal(y[kept], x[kept])
    # 100,000 independent draws: the share is within 5 standard errors of 0.7 but for 1 seed in 1.7 million
    assert abs(kept.double().mean() - 0.7) < 5 * math.sqrt(0.3 * 0.7 / x.numel())
    y.sum().backward()
    assert torch.equal(x.grad, kept.double())
    assert torch.equal(layer.eval()(x), x * 0.7)


def test_draws_are_independent_between_images_and_units() -> None:
    torch.manual_seed(0)
    kept = Dropout(0.5, form="vanilla")(torch.ones(20_000, 4)).double() - 0.5
    covariance = kept.T @ kept / len(kept)
    expected = 0.25 * torch.eye(4, dtype=torch.float64)
    # the product of two centred draws is +-1/4: its mean has a standard error of 0.25 / sqrt(20,000)
    assert (covariance - expected).abs().max() < 5 * 0.25 / math.sqrt(len(kept))


@pytest.mark.parametrize("form", ["inverted", "vanilla"])
def test_training_and_test_agree_in_expectation(form: str) -> None:
    torch.manual_seed(0)
    layer = Dropout(0.4, form=form)
    x = torch.tensor([1.0, -2.0], dtype=torch.float64)
    draws = torch.stack([layer(x) for _ in range(4000)])
    error = draws.std(0) / math.sqrt(len(draws))
    assert ((draws.mean(0) - layer.eval()(x)).abs() < 5 * error).all()


def test_sampling_keeps_it_on_in_evaluation() -> None:
    layer = Dropout(0.5).eval()
    layer.sampling = True
    assert (layer(torch.ones(1000)) == 0).any()


@pytest.mark.parametrize("p", [-0.1, 1.0, float("nan")])
def test_wrong_p(p: float) -> None:
    with pytest.raises(ValueError, match=r"^Dropout: p must be in \[0, 1\), got "):
        Dropout(p)


def test_wrong_form() -> None:
    with pytest.raises(ValueError, match=r"^Dropout: form must be 'inverted' or 'vanilla', got 'scaled'$"):
        Dropout(form="scaled")
