"""The outer step of local SGD: by hand, and an outer SGD(1) as the mean."""

import torch
from torch.optim import SGD

from lightning_optreg.parallel import outer_gradient, outer_step


def test_the_outer_gradient_is_how_far_the_mean_has_moved() -> None:
    common, mean = [torch.tensor([1.0, 2.0])], [torch.tensor([3.0, 1.0])]
    assert outer_gradient(common, mean)[0].tolist() == [-2.0, 1.0]


def test_without_an_outer_optimizer_the_common_point_is_the_mean_bit_for_bit() -> None:
    common, mean = torch.randn(100), torch.randn(100)
    outer_step([common], [mean])
    assert torch.equal(common, mean)


def test_an_outer_sgd_of_rate_one_gives_the_mean() -> None:
    common, mean = torch.randn(100, dtype=torch.float64), torch.randn(100, dtype=torch.float64)
    outer_step([common], [mean], SGD([common], lr=1.0))
    torch.testing.assert_close(common, mean, rtol=0, atol=1e-15 * 4)  # one rounding each way of numbers < 4


def test_nesterovs_outer_step_is_dilocos() -> None:
    """Three outer steps by hand: b <- 0.9 b + Delta, x~ <- x~ - 0.7 (Delta + 0.9 b)."""
    common = torch.tensor([1.0], dtype=torch.float64)
    optimizer = SGD([common], lr=0.7, momentum=0.9, nesterov=True)
    by_hand, b = 1.0, 0.0
    for target in (0.5, 0.2, -1.0):
        delta = by_hand - target
        b = 0.9 * b + delta
        by_hand -= 0.7 * (delta + 0.9 * b)
        outer_step([common], [torch.tensor([target], dtype=torch.float64)], optimizer)
    assert abs(common.item() - by_hand) < 1e-14
    assert common.grad is None
