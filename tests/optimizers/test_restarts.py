"""Restarts of Nesterov's methods: when they happen, what they go by, and that processes do them together."""

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from lightning_optreg.optimizers import NAGConvex, NAGStronglyConvex
from tests.optimizers.problems import PROBLEMS, distance, gradient
from tests.resume_tools import assert_identical

Method = NAGConvex | NAGStronglyConvex
S, MU, STEPS = 0.05, 1e-3, 200  # mu is a hundredth of the quadratic's: too much momentum
every_scheme = pytest.mark.parametrize("scheme", ["function", "gradient"])


def walk(
    optimizer: Method, theta: list[Tensor], loss_of: Callable[[list[Tensor]], Tensor], steps: int = STEPS
) -> list[list[Tensor]]:
    path = [[t.detach().clone() for t in theta]]

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = loss_of(theta)
        loss.backward()
        return loss

    for _ in range(steps):
        optimizer.step(closure)
        path.append([t.detach().clone() for t in theta])
    return path


def begin() -> list[Tensor]:
    return [t.requires_grad_() for t in PROBLEMS["quadratic"].start()]


@every_scheme
@pytest.mark.parametrize("method", ["convex", "strongly"])
def test_they_follow_their_rule(method: str, scheme: Any) -> None:
    """A reference that starts over by hand does so at the same steps."""
    problem, root = PROBLEMS["quadratic"], math.sqrt(MU * S)
    (x,) = (y,) = problem.start()
    k, last, count = 0, math.inf, 0
    path = [[x]]
    for _ in range(STEPS):
        (g,), value = gradient(problem.loss, [x]), float(problem.loss([x]))
        new = x - S * g
        if value > last if scheme == "function" else float(g @ (new - y)) > 0:
            y, k, count = x, 0, count + 1
        last = value
        c = k / (k + 3) if method == "convex" else (1 - root) / (1 + root)
        x, y, k = new + c * (new - y), new, k + 1
        path.append([x])
    theta = begin()
    optimizer: Method = NAGConvex(theta, S, restart=scheme)
    if method == "strongly":
        optimizer = NAGStronglyConvex(theta, S, MU, restart=scheme)
    got = walk(optimizer, theta, problem.loss)
    assert count >= 3
    assert optimizer.restarts == count
    assert distance(got, path) <= 1e-10


@every_scheme
def test_they_make_up_for_a_mu_that_is_too_small(scheme: Any) -> None:
    loss = PROBLEMS["quadratic"].loss
    ends = {}
    for restart in (None, scheme):
        theta = begin()
        walk(NAGStronglyConvex(theta, S, MU, restart=restart), theta, loss)
        ends[restart] = float(loss(theta).detach())
    assert ends[scheme] < 1e-6 * ends[None]


@every_scheme
def test_climbing_is_descending_the_negative(scheme: Any) -> None:
    loss = PROBLEMS["quadratic"].loss
    down, up = begin(), begin()
    descent, ascent = NAGConvex(down, S, restart=scheme), NAGConvex(up, S, restart=scheme, maximize=True)
    assert_identical(walk(descent, down, loss), walk(ascent, up, lambda theta: -loss(theta)))
    assert descent.restarts == ascent.restarts >= 3


@every_scheme
def test_weight_decay_is_part_of_the_function(scheme: Any) -> None:
    """As if the loss had the term: without it the function scheme would start over at other steps."""
    loss = PROBLEMS["quadratic"].loss
    decayed, explicit = begin(), begin()
    with_decay = NAGConvex(decayed, S, weight_decay=0.5, restart=scheme)
    with_term = NAGConvex(explicit, S, restart=scheme)
    # Not for longer: converged to the last digit, f rises and falls by rounding.
    got = walk(with_decay, decayed, loss, 80)
    expected = walk(with_term, explicit, lambda theta: loss(theta) + 0.25 * theta[0].square().sum(), 80)
    assert with_decay.restarts == with_term.restarts >= 1
    assert distance(got, expected) <= 1e-10


@every_scheme
def test_groups_start_over_together(scheme: Any) -> None:
    loss = PROBLEMS["quadratic"].loss
    whole, parts = begin(), [torch.zeros(n, dtype=torch.float64, requires_grad=True) for n in (2, 3, 1)]
    together = NAGConvex(whole, S, restart=scheme)
    groups = NAGConvex([{"params": [t]} for t in parts], S, restart=scheme)
    one = walk(together, whole, loss)
    several = walk(groups, parts, lambda tensors: loss([torch.cat(tensors)]))
    assert distance(one, [[torch.cat(tensors)] for tensors in several]) <= 1e-10
    assert [group["restarts"] for group in groups.param_groups] == [together.restarts] * 3
    assert together.restarts >= 3


@every_scheme
def test_they_go_on_from_a_state_dict(scheme: Any) -> None:
    loss, theta = PROBLEMS["quadratic"].loss, begin()
    optimizer = NAGConvex(theta, S, restart=scheme)
    walk(optimizer, theta, loss, 50)
    theirs = [t.detach().clone().requires_grad_() for t in theta]
    resumed = NAGConvex(theirs, S)  # the state says that, and how, it starts over
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert_identical(walk(optimizer, theta, loss, 100), walk(resumed, theirs, loss, 100))
    assert resumed.restarts == optimizer.restarts >= 2


def test_those_by_the_function_need_a_closure() -> None:
    theta = torch.ones(2, requires_grad=True)
    theta.grad = torch.ones(2)
    with pytest.raises(RuntimeError, match=r"^NAGConvex: restart='function' needs step\(closure\)"):
        NAGConvex([theta], restart="function").step()
    assert torch.equal(theta, torch.ones(2))


def test_groups_cannot_start_over_in_two_ways() -> None:
    groups = [{"params": [torch.ones(1)], "restart": "gradient"}, {"params": [torch.ones(1)]}]
    with pytest.raises(ValueError, match=r"^NAGConvex: restart must be the same"):
        NAGConvex(groups)


class Bowl(LightningModule):
    """A quadratic whose minimum is another one in each process."""

    def __init__(self, scheme: Any) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.zeros(6, dtype=torch.float64))
        self.scheme = scheme

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        minimum = torch.arange(6, dtype=torch.float64) * (-1) ** self.global_rank + self.global_rank
        curvatures = torch.linspace(0.1, 10.0, 6, dtype=torch.float64)
        return 0.5 * (curvatures * (self.theta - minimum).square()).sum()

    def configure_optimizers(self) -> NAGConvex:
        return NAGConvex(self.parameters(), S, restart=self.scheme)


class RanksAgree(Callback):
    """Compare parameters and numbers of restarts of the processes at the end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        restarts = trainer.optimizers[0].restarts  # type: ignore[attr-defined]
        mine = torch.cat([pl_module.theta.detach(), torch.tensor([float(restarts)]).double()])
        everyone = [torch.empty_like(mine) for _ in range(trainer.world_size)]
        torch.distributed.all_gather(everyone, mine)
        assert all(torch.equal(other, mine) for other in everyone)
        assert restarts >= 2
        (self.folder / f"rank{trainer.global_rank}").touch()


@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="this build of torch has no gloo")
@every_scheme
def test_processes_start_over_together(scheme: Any, tmp_path: Path) -> None:
    trainer = Trainer(
        accelerator="cpu",
        strategy="ddp_fork",
        devices=2,
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[RanksAgree(tmp_path)],
    )
    trainer.fit(Bowl(scheme), torch.utils.data.DataLoader(torch.zeros(240, 1)))
    assert {path.name for path in tmp_path.glob("rank*")} == {"rank0", "rank1"}
