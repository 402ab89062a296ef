"""Stochastic depth: what is computed, what it adds up to, who gets gradients."""

import math

import pytest
import torch
from torch import nn
from torchvision.ops import stochastic_depth as torchvision_depth

from lightning_optreg.layers import StochasticDepth, StochasticResidual
from lightning_optreg.layers.stochastic_depth import random_branch, with_zero_gradients

MODES = pytest.mark.parametrize("mode", ["block", "sample"])


class Counting(nn.Module):
    """A branch that counts how often it is computed."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.frozen = nn.Parameter(torch.ones(3), requires_grad=False)
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.linear(x) * self.frozen


@MODES
def test_draws_as_often_as_it_should(mode: str) -> None:
    torch.manual_seed(0)
    layer = StochasticDepth(0.7, mode=mode)
    runs = 2000
    kept = torch.stack([layer(torch.ones(8, 2, 2)) for _ in range(runs)])
    assert set(kept.unique().tolist()) == {0.0, 1.0}  # nothing is divided by 0.7
    kept = kept.flatten(2)
    assert torch.equal(kept.amin(2), kept.amax(2))  # an image is kept or dropped as a whole
    kept = kept[:, :, 0].double()
    draws = runs * (8 if mode == "sample" else 1)
    assert abs(kept.mean() - 0.7) < 5 * math.sqrt(0.7 * 0.3 / draws)
    if mode == "block":
        assert torch.equal(kept.amin(1), kept.amax(1))
    else:
        covariance = torch.cov(kept.T)
        off_diagonal = covariance - covariance.diag().diag()
        assert off_diagonal.abs().max() < 5 * 0.7 * 0.3 / math.sqrt(runs)


@pytest.mark.parametrize(("mode", "theirs"), [("block", "batch"), ("sample", "row")])
def test_is_torchvisions_without_the_division(mode: str, theirs: str) -> None:
    x = torch.randn(64, 5)
    torch.manual_seed(1)
    ours = StochasticDepth(0.6, mode=mode)(x)
    torch.manual_seed(1)
    expected = 0.6 * torchvision_depth(x, p=0.4, mode=theirs)
    torch.testing.assert_close(ours, expected)


@MODES
def test_at_test_the_branch_counts_with_its_probability(mode: str) -> None:
    branch, x = nn.Linear(3, 3), torch.randn(4, 3)
    block = StochasticResidual(branch, 0.7, mode=mode).eval()
    assert torch.equal(block(x), x + branch(x) * 0.7)
    assert torch.equal(StochasticDepth(0.7, mode=mode).eval()(x), x * 0.7)


@MODES
def test_training_and_test_agree_in_expectation(mode: str) -> None:
    torch.manual_seed(0)
    block = StochasticResidual(nn.Linear(3, 3), 0.7, mode=mode).double()
    x = torch.randn(1, 3, dtype=torch.float64)
    with torch.no_grad():
        draws = torch.stack([block(x) for _ in range(3000)])
        error = draws.std(0) / math.sqrt(len(draws))
        assert ((draws.mean(0) - block.eval()(x)).abs() < 5 * error).all()


def test_a_dropped_branch_is_not_computed() -> None:
    torch.manual_seed(0)
    block, runs = StochasticResidual(Counting(), 0.3), 2000
    for _ in range(runs):
        block(torch.ones(1, 3))
    assert abs(block.branch.calls / runs - 0.3) < 5 * math.sqrt(0.3 * 0.7 / runs)


def test_a_dropped_branch_has_zero_gradients_and_the_shortcut_its_own() -> None:
    block = StochasticResidual(Counting(), 0.0, shortcut=nn.Linear(3, 3))
    x = torch.randn(4, 3, requires_grad=True)
    y = block(x)
    assert torch.equal(y, block.shortcut(x))
    y.square().sum().backward()
    assert block.branch.calls == 0
    assert block.branch.frozen.grad is None
    for parameter in block.branch.linear.parameters():
        assert torch.equal(parameter.grad, torch.zeros_like(parameter))
    gradients = torch.autograd.grad(block.shortcut(x).square().sum(), [x, *block.shortcut.parameters()])
    for tensor, gradient in zip([x, *block.shortcut.parameters()], gradients, strict=True):
        assert torch.equal(tensor.grad, gradient)


@pytest.mark.parametrize("survival", [0.0, 1.0])
def test_sums_are_in_memory_of_their_own(survival: float) -> None:
    branch, x = nn.Linear(3, 3), torch.randn(2, 3)
    before = x.clone()
    random_branch(branch, x, x, branch.parameters(), survival).zero_()
    assert torch.equal(x, before)


def test_second_derivatives_pass_through() -> None:
    w = torch.randn(3, dtype=torch.float64, requires_grad=True)
    x = torch.randn(3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, w: with_zero_gradients(x, [w]), (x, w))
    assert torch.autograd.gradgradcheck(lambda x, w: with_zero_gradients(x, [w]).square(), (x, w))


def test_weights_are_kept_when_it_is_switched_on_and_off() -> None:
    block = StochasticResidual(nn.Linear(3, 3), 0.5)
    assert list(block.state_dict()) == ["branch.weight", "branch.bias"]
    assert not StochasticDepth(0.5).state_dict()


@MODES
def test_survival_one_is_the_plain_block_and_draws_nothing(mode: str) -> None:
    branch, x = nn.Linear(3, 3), torch.randn(4, 3)
    state = torch.get_rng_state()
    assert torch.equal(StochasticResidual(branch, 1.0, mode=mode)(x), x + branch(x))
    assert StochasticDepth(1.0, mode=mode)(x) is x
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("survival", [-0.1, 1.1, float("nan")])
def test_wrong_survival(survival: float) -> None:
    with pytest.raises(ValueError, match=r"^StochasticDepth: survival must be in \[0, 1\], got "):
        StochasticDepth(survival)


def test_wrong_mode() -> None:
    with pytest.raises(ValueError, match=r"^StochasticDepth: mode must be 'block' or 'sample', got 'row'$"):
        StochasticDepth(0.5, mode="row")
