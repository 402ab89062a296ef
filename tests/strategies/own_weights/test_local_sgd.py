"""Local SGD and DiLoCo: exact limits, and steps by hand in float64."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim import SGD, AdamW

from lightning_optreg.strategies import LocalSGD
from tests.processes import ddp, needs_gloo
from tests.resume_tools import assert_identical
from tests.small_runs import quiet_trainer
from tests.strategies.own_weights._marching import Net, Numbers, fit, in_forks, local, own_of
from tests.strategies.own_weights.test_elastic_averaging import STEPS, gradient, start

pytestmark = needs_gloo

PLAIN = partial(SGD, lr=0.1)
NESTEROV = partial(SGD, lr=0.7, momentum=0.9, nesterov=True)
INNER = partial(AdamW, lr=0.05, weight_decay=0.1)


def processes(rank: int, folder: Path) -> None:
    """All runs of two processes; rank 0 writes what they end with."""
    ends: dict[str, Any] = {}
    for name, optimizer, strategy in (
        ("ddp", PLAIN, ddp()),
        ("every step", PLAIN, local(period=1)),
        ("outer SGD(1)", PLAIN, local(period=1, outer_optimizer=partial(SGD, lr=1.0))),
        ("period 3", PLAIN, local(period=3)),
        ("DiLoCo", INNER, local(period=2, outer_optimizer=NESTEROV)),
    ):
        module = Net(optimizer)
        trainer = fit(module, strategy, rank)
        ends[name] = {"common": module.net.weight.detach()[0].clone()}
        if isinstance(strategy, LocalSGD):
            ends[name]["own"] = [own["net.weight"][0] for own in own_of(trainer, folder, rank)]
    if rank == 0:
        torch.save(ends, folder / "ends.pt")


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("local")
    in_forks(2, processes, folder)
    return dict(torch.load(folder / "ends.pt", weights_only=True))


close = partial(torch.testing.assert_close, rtol=0, atol=1e-14)  # rounding of float64


def test_averaging_after_every_step_of_plain_sgd_is_ddp(ends: dict[str, Any]) -> None:
    close(ends["every step"]["common"], ends["ddp"]["common"])
    assert not torch.equal(ends["ddp"]["common"], start())


def test_one_inner_step_and_an_outer_sgd_of_rate_one_is_averaging_after_every_step(
    ends: dict[str, Any],
) -> None:
    close(ends["outer SGD(1)"]["common"], ends["every step"]["common"])


def test_steps_are_those_of_local_sgd(ends: dict[str, Any]) -> None:
    """Three steps each, the mean, and one step more; the common weights are the mean of the present ones."""
    x, loaders = [start(), start()], [Numbers(rank).batches for rank in range(2)]
    for t in range(STEPS):
        x = [w - 0.1 * gradient(w, loader[t]) for w, loader in zip(x, loaders, strict=True)]
        if t == 2:
            x = [(x[0] + x[1]) / 2] * 2
    for found, wanted in zip(ends["period 3"]["own"], x, strict=True):
        close(found, wanted)
    close(ends["period 3"]["common"], (x[0] + x[1]) / 2)


def test_steps_are_those_of_diloco(ends: dict[str, Any]) -> None:
    """AdamW within, Nesterov's momentum outside, by torch's own classes on bare tensors."""
    common = start()
    x = [start().requires_grad_() for _ in range(2)]
    inner = [INNER([w]) for w in x]
    outer, loaders = NESTEROV([common]), [Numbers(rank).batches for rank in range(2)]
    for t in range(STEPS):
        for i in range(2):
            x[i].grad = gradient(x[i].detach(), loaders[i][t])
            inner[i].step()
        if t % 2 == 1:
            common.grad = common - (x[0] + x[1]).detach() / 2
            outer.step()
            with torch.no_grad():
                for w in x:
                    w.copy_(common)
    close(ends["DiLoCo"]["common"], common)
    for found in ends["DiLoCo"]["own"]:
        assert torch.equal(found, ends["DiLoCo"]["common"])


def one_process(rank: int, folder: Path) -> None:
    module = Net(INNER)
    fit(module, local(period=2), rank, devices=1, max_epochs=2)
    torch.save(module.state_dict(), folder / "one.pt")


def test_one_process_is_plain_training_bit_for_bit(tmp_path: Path) -> None:
    in_forks(1, one_process, tmp_path)
    module = Net(INNER)
    quiet_trainer(max_epochs=2).fit(module, Numbers(0))
    weights: dict[str, Tensor] = dict(module.state_dict())
    assert_identical(dict(torch.load(tmp_path / "one.pt", weights_only=True)), weights)


@pytest.mark.parametrize("period", [0, -1, 2.0, True])
def test_wrong_periods_are_refused(period: Any) -> None:
    with pytest.raises(ValueError, match=f"LocalSGD: period must be an integer >= 1, got {period}"):
        LocalSGD(period=period)
