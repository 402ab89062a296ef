"""Asynchronous elastic averaging against the authors' program, written out with scalars."""

import pytest
import torch

from lightning_optreg.parallel import ElasticServer, pull_worker


@pytest.mark.parametrize("tau", [1, 3])
def test_workers_follow_the_algorithm(tau: int) -> None:
    """Quadratics with other minima, workers taking turns unevenly; the first call is at t = 0."""
    alpha, eta = 0.3, 0.1
    centre = torch.tensor([1.0], dtype=torch.float64)
    server = ElasticServer([centre], alpha)
    workers = [centre.clone() for _ in range(2)]
    x, x_tilde, clocks = [1.0, 1.0], 1.0, [0, 0]
    for turn in (0, 1, 0, 0, 1, 0, 1, 1, 0, 0, 1, 0):
        d = 0.0
        calls = clocks[turn] % tau == 0
        if calls:
            d = alpha * (x[turn] - x_tilde)
            x_tilde += d
        x[turn] += -eta * (x[turn] - 2 * turn) - d
        clocks[turn] += 1

        gradient = workers[turn] - 2 * turn
        difference = server.exchange(turn, [workers[turn]]) if calls else None
        workers[turn].sub_(eta * gradient)
        if difference is not None:
            pull_worker([workers[turn]], difference)
        # A few float64 operations in another order.
        assert centre.item() == pytest.approx(x_tilde, rel=1e-14)
        assert workers[turn].item() == pytest.approx(x[turn], rel=1e-14)
    assert server.updates == sum(len(range(0, clock, tau)) for clock in clocks)


def test_delays_are_the_calls_of_others_in_between() -> None:
    server = ElasticServer([torch.zeros(1)], 0.5)
    for worker in (0, 1, 1, 0, 0, 1):
        server.exchange(worker, [torch.ones(1)])
    assert server.delays.counts() == [[0, 2], [2, 2]]


def test_alpha_0_leaves_all_alone() -> None:
    server = ElasticServer([torch.ones(1)], 0.0)
    assert server.exchange(0, [torch.zeros(1)]) == [torch.zeros(1)]
    assert server.centre == [torch.ones(1)]


@pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan")])
def test_alpha_is_checked(alpha: float) -> None:
    with pytest.raises(ValueError, match=r"ElasticServer: alpha must be in \[0, 1\]"):
        ElasticServer([torch.zeros(1)], alpha)
