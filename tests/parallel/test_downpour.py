"""Downpour's two sides against algorithm 7.1, and its limit: plain training."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_optreg.optimizers import AdaDelay, AdaptiveRevision, HeavyBall, PowerSign
from lightning_optreg.parallel import Delays, DownpourServer, DownpourWorker

OPTIMIZERS: list[Any] = [
    partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=1e-3),
    partial(torch.optim.Adagrad, lr=0.1),
    partial(torch.optim.Adam, lr=0.1),
    partial(AdaDelay, lr=0.1),
    partial(AdaptiveRevision, lr=0.1),
    partial(HeavyBall, lr=0.1),
    partial(PowerSign, lr=0.1),
]


def gradient(w: Tensor, step: int) -> Tensor:
    """Of |w - c|^4 / 4 with a target c that differs from step to step."""
    return (w - torch.linspace(0, 1, len(w)) * (step % 3)) ** 3


@pytest.mark.parametrize("make", OPTIMIZERS, ids=lambda make: make.func.__name__)
def test_one_worker_that_pushes_and_fetches_in_every_step_is_plain_training(make: Any) -> None:
    start = torch.linspace(-1, 1, 7)
    plain = start.clone().requires_grad_()
    optimizer = make([plain])
    for step in range(20):
        plain.grad = gradient(plain.detach(), step)
        optimizer.step()

    w = start.clone()
    server, worker = DownpourServer(make([start.clone().requires_grad_()])), DownpourWorker([w])
    w.copy_(server.fetch(0)[0])
    for step in range(20):
        pushed, fetch = worker.step([gradient(w, step)], [0.1])
        assert pushed is not None
        assert fetch
        server.push(0, pushed)
        w.copy_(server.fetch(0)[0])
    assert torch.equal(w, plain.detach())
    assert server.delays.counts() == [[0, 20]]


@pytest.mark.parametrize(("n_push", "n_fetch"), [(1, 1), (1, 3), (3, 1), (2, 3), (4, 4)])
def test_two_workers_follow_the_algorithm(n_push: int, n_fetch: int) -> None:
    """Against the algorithm written out with scalars in float64, workers taking turns unevenly."""
    alpha, eta = 0.05, 0.1
    theta = torch.tensor([1.0], dtype=torch.float64)
    server = DownpourServer(torch.optim.SGD([theta], lr=eta))
    weights = [torch.empty(1, dtype=torch.float64) for _ in range(2)]
    workers = [DownpourWorker([w], n_push, n_fetch) for w in weights]
    for number, w in enumerate(weights):
        w.copy_(server.fetch(number)[0])

    x, local, accrued, steps = 1.0, [1.0, 1.0], [0.0, 0.0], [0, 0]
    updates, read, delays = 0, [0, 0], []
    for turn in (0, 1, 0, 0, 1, 0, 1, 1, 0, 0, 1, 0):
        g = local[turn] - 2.0 * turn  # of (w - 2 turn)^2 / 2
        steps[turn] += 1
        accrued[turn] += g
        if steps[turn] % n_push == 0:
            x, accrued[turn] = x - eta * accrued[turn], 0.0
            delays.append(updates - read[turn])
            updates += 1
        local[turn] -= alpha * g
        if steps[turn] % n_fetch == 0:
            local[turn], read[turn] = x, updates

        pushed, fetch = workers[turn].step([weights[turn] - 2.0 * turn], [alpha])
        if pushed is not None:
            assert server.push(turn, pushed) == delays[-1]
        if fetch:
            weights[turn].copy_(server.fetch(turn)[0])
        # A few float64 operations in another order.
        assert theta.item() == pytest.approx(x, rel=1e-14)
        assert weights[turn].item() == pytest.approx(local[turn], rel=1e-14)
    assert server.updates == updates == len(delays)
    assert server.delays.counts() == Delays([[d, 1] for d in delays]).counts()


def test_what_is_accrued_can_be_flushed() -> None:
    worker = DownpourWorker([torch.zeros(1), torch.zeros(1)], n_push=3, n_fetch=3)
    assert worker.flush() is None
    for value in (1.0, 2.0):
        assert worker.step([torch.tensor([value]), None], [0.0, 0.0]) == (None, False)
    assert worker.flush() == [torch.tensor([3.0]), None]
    assert worker.steps == 0
    assert worker.flush() is None


def test_parameters_without_gradient_stay_and_keep_no_state() -> None:
    used, unused = torch.ones(1), torch.ones(1)
    server = DownpourServer(torch.optim.Adam([{"params": [used]}, {"params": [unused]}], lr=0.1))
    server.fetch(0)
    server.push(0, [torch.ones(1), None])
    assert used < 1
    assert unused == 1
    assert unused not in server.optimizer.state


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="DownpourWorker: n_push must be >= 1, got 0"):
        DownpourWorker([torch.zeros(1)], n_push=0)
    with pytest.raises(ValueError, match="DownpourWorker: n_fetch must be >= 1, got -1"):
        DownpourWorker([torch.zeros(1)], n_fetch=-1)
    with pytest.raises(KeyError):
        DownpourServer(torch.optim.SGD([torch.zeros(1)], lr=0.1)).push(0, [None])
