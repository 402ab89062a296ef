"""The rules of elastic averaging: one step by hand, exact limits, and the region where they are stable."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lightning_optreg.parallel import elastic_difference, move_centre, pull_centre, pull_worker


def test_a_step_is_that_of_the_paper() -> None:
    x, centre = [torch.tensor([4.0, -2.0])], [torch.tensor([0.0, 2.0])]
    difference = elastic_difference(x, centre, 0.25)
    assert difference[0].tolist() == [1.0, -1.0]
    pull_centre(centre, difference)
    x[0] -= 0.5 * x[0]  # a gradient step at the old x
    pull_worker(x, difference)
    assert centre[0].tolist() == [1.0, 1.0]
    assert x[0].tolist() == [1.0, 0.0]


@pytest.mark.parametrize("beta", [0.0, 1.0])
def test_the_centre_stays_or_becomes_the_mean_bit_for_bit(beta: float) -> None:
    centre, mean = torch.randn(1000) * 1e3, torch.randn(1000)
    expected = mean.clone() if beta else centre.clone()
    move_centre([centre], [mean], beta)
    assert torch.equal(centre, expected)


def test_all_workers_at_once_move_the_centre_as_each_does_from_the_same_values() -> None:
    workers = torch.randn(3, 5, dtype=torch.float64)
    centre = torch.randn(5, dtype=torch.float64)
    at_once, one_by_one = centre.clone(), centre.clone()
    move_centre([at_once], [workers.mean(0)], 0.9)
    for worker in workers:
        pull_centre([one_by_one], elastic_difference([worker], [centre], 0.3))
    torch.testing.assert_close(at_once, one_by_one, rtol=1e-14, atol=1e-14)  # another order of sums


@pytest.mark.parametrize("tau", [1, 10])
@pytest.mark.parametrize("workers", [1, 2, 4])
@pytest.mark.parametrize("beta", [0.3, 0.9])
def test_springs_hold_agreeing_workers_back_to_p_of_p_plus_one(workers: int, tau: int, beta: float) -> None:
    """Under a constant gradient: from one exchange to the next d <- (1 - alpha - beta) d + eta g tau."""
    alpha, change = beta / workers, torch.tensor([0.1, -0.3], dtype=torch.float64)  # eta g
    x = [torch.zeros(2, dtype=torch.float64) for _ in range(workers)]
    centre = torch.zeros(2, dtype=torch.float64)
    for step in range(100 * tau):
        differences = [elastic_difference([each], [centre], alpha) for each in x]
        mean, before = torch.stack(x).mean(0), centre.clone()
        for each in x:
            each -= change
        if step % tau == 0:
            for each, difference in zip(x, differences, strict=True):
                pull_worker([each], difference)
            move_centre([centre], [mean], beta)
            moved, distance = before - centre, before - mean
    ratio = torch.full_like(centre, workers / (workers + 1))
    # what is left of the start is at most 0.8 to the power of 99
    torch.testing.assert_close((alpha + beta) * distance, change * tau, rtol=1e-6, atol=0.0)
    torch.testing.assert_close(moved / (change * tau), ratio, rtol=1e-6, atol=0.0)


def matrix_of(step: Callable[[list[Tensor]], None], size: int) -> Tensor:
    """The matrix of a linear map on `size` numbers, from what it does to each unit vector."""
    columns = []
    for unit in torch.eye(size, dtype=torch.float64):
        numbers = [number.clone() for number in unit]
        step(numbers)
        columns.append(torch.stack(numbers))
    return torch.stack(columns, dim=1)


def calls(numbers: list[Tensor], eta: float, alpha: float, order: list[int]) -> None:
    """One worker after the other, in an order, on x^2 / 2; the centre is the last number."""
    *workers, centre = numbers
    for worker in (workers[index] for index in order):
        difference = elastic_difference([worker], [centre], alpha)
        pull_centre([centre], difference)
        worker -= eta * worker
        pull_worker([worker], difference)


def radius(eta: float, alpha: float, workers: int, order: list[int]) -> float:
    matrix = matrix_of(lambda numbers: calls(numbers, eta, alpha, order), workers + 1)
    return float(torch.linalg.eigvals(matrix).abs().max())


@pytest.mark.parametrize("eta", [0.1, 0.5, 1.0, 1.5, 1.9])
def test_calls_are_stable_up_to_the_papers_moving_rate(eta: float) -> None:
    """Section 3.2 of the paper: on the unit quadratic 0 <= alpha <= (4 - 2 eta) / (4 - eta), for any p.

    One worker's call is a symmetric map, which lengthens no vector exactly in this region; so the region is
    exact for one worker, and enough for several, in round robin and in any other order.
    """
    bound = (4 - 2 * eta) / (4 - eta)
    for alpha in (-0.01, 1.001 * bound, 1.5 * bound):
        assert radius(eta, alpha, 1, [0]) > 1
    for alpha in (share * bound for share in (0.0, 0.01, 0.3, 0.7, 0.999)):
        for workers in (1, 2, 3, 8):
            at_random = torch.randint(workers, (5 * workers,)).tolist()
            for order in (list(range(workers)), at_random):
                assert radius(eta, alpha, workers, order) <= 1 + 1e-12, "rounding of the eigenvalues"
