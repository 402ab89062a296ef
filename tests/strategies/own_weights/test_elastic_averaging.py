"""Elastic averaging: exact limits, and steps by hand in float64."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.optim import SGD

from lightning_optreg.optimizers import NAG
from lightning_optreg.strategies import ElasticAveraging
from tests.processes import needs_gloo
from tests.resume_tools import assert_identical
from tests.small_runs import quiet_trainer
from tests.strategies.own_weights._marching import Net, Numbers, elastic, fit, in_forks, own_of

pytestmark = needs_gloo

STEPS = 4


def gradient(w: Tensor, batch: Tensor) -> Tensor:
    """Of the mean square of `Net`, by hand."""
    return 2 / len(batch) * (batch @ w - batch.sum(-1)) @ batch


def start() -> Tensor:
    weight: Any = Net(SGD).net.weight
    return weight.detach()[0].clone()


class MeanOfTheOld(Callback):
    """Compares each new centre with the mean of the workers' weights before the step, bit for bit."""

    def __init__(self) -> None:
        self.compared = 0

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.old = {name: weight.detach().clone() for name, weight in pl_module.named_parameters()}

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        centre = trainer.strategy.lightning_module_state_dict()
        for name, mine in self.old.items():
            both = [torch.empty_like(mine) for _ in range(2)]
            dist.all_gather(both, mine)
            assert torch.equal(centre[name], (both[0] + both[1]) / 2)
            self.compared += not torch.equal(*both)


def processes(rank: int, folder: Path) -> None:
    """All runs of two processes; rank 0 writes what they end with."""
    ends: dict[str, Any] = {}

    def end(name: str, trainer: Trainer, module: Net) -> None:
        ends[name] = {"own": own_of(trainer, folder, rank), "common": dict(module.state_dict())}

    with_momentum = partial(SGD, lr=0.05, momentum=0.9, weight_decay=0.01)
    module = Net(with_momentum)
    end("independent", fit(module, elastic(period=1, beta=0.0), rank), module)

    module, compares = Net(partial(SGD, lr=0.1)), MeanOfTheOld()
    fit(module, elastic(period=1, beta=1.0), rank, compares)
    assert compares.compared >= STEPS - 1  # at first they are equal

    for name, optimizer in (
        ("momentum", with_momentum),
        ("nag", partial(NAG, lr=0.05, momentum=0.9)),
        ("nesterov", partial(SGD, lr=0.05, momentum=0.9, nesterov=True)),
    ):
        module = Net(optimizer)
        end(name, fit(module, elastic(period=2), rank), module)
    module = Net(with_momentum)
    end("alpha", fit(module, elastic(period=2, moving_rate=0.45), rank), module)
    if rank == 0:
        torch.save(ends, folder / "ends.pt")


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("elastic")
    in_forks(2, processes, folder)
    return dict(torch.load(folder / "ends.pt", weights_only=True))


def test_without_springs_workers_are_independent_bit_for_bit(ends: dict[str, Any]) -> None:
    for rank, own in enumerate(ends["independent"]["own"]):
        module = Net(partial(SGD, lr=0.05, momentum=0.9, weight_decay=0.01))
        quiet_trainer(max_epochs=1).fit(module, Numbers(rank))
        assert torch.equal(own["net.weight"], module.net.weight)
    assert torch.equal(ends["independent"]["common"]["net.weight"][0], start())


def test_steps_are_those_of_the_paper(ends: dict[str, Any]) -> None:
    """Two workers, tau = 2, beta = 0.9, momentum and weight decay as torch has them, by hand."""
    x, centre = [start(), start()], start()
    v = [torch.zeros(3, dtype=torch.float64) for _ in x]
    loaders = [Numbers(rank).batches for rank in range(2)]
    for t in range(STEPS):
        d = [0.45 * (each - centre) if t % 2 == 0 else torch.zeros(3) for each in x]
        if t % 2 == 0:
            centre = 0.1 * centre + 0.9 * (x[0] + x[1]) / 2
        for i in range(2):
            v[i] = 0.9 * v[i] + gradient(x[i], loaders[i][t]) + 0.01 * x[i]
            x[i] = x[i] - 0.05 * v[i] - d[i]
    found = ends["momentum"]
    close = partial(torch.testing.assert_close, rtol=0, atol=1e-14)  # rounding of float64
    close(found["common"]["net.weight"][0], centre)
    for i in range(2):
        close(found["own"][i]["net.weight"][0], x[i])
    assert_identical(found, ends["alpha"])


def eamsgd() -> tuple[list[Tensor], Tensor, list[Tensor]]:
    """The paper's code: look ahead, take the gradient there; d from x before that."""
    x, centre = [start(), start()], start()
    v = [torch.zeros(3, dtype=torch.float64) for _ in x]
    loaders = [Numbers(rank).batches for rank in range(2)]
    for t in range(STEPS):
        due = t % 2 == 0
        d = [0.45 * (each - centre) if due else torch.zeros(3) for each in x]
        if due:
            centre = 0.1 * centre + 0.9 * (x[0] + x[1]) / 2
        for i in range(2):
            v[i] = 0.9 * v[i]
            x[i] = x[i] + v[i]
            g = gradient(x[i], loaders[i][t])
            x[i] = x[i] - 0.05 * g - d[i]
            v[i] = v[i] - 0.05 * g
    return x, centre, v


def test_with_nag_it_is_the_papers_eamsgd(ends: dict[str, Any]) -> None:
    x, centre, v = eamsgd()
    torch.testing.assert_close(ends["nag"]["common"]["net.weight"][0], centre, rtol=0, atol=1e-14)
    for i in range(2):  # between steps the parameters are where the next gradient is taken
        torch.testing.assert_close(
            ends["nag"]["own"][i]["net.weight"][0], x[i] + 0.9 * v[i], rtol=0, atol=1e-14
        )


def test_with_torchs_nesterov_the_springs_act_on_the_look_ahead_points(ends: dict[str, Any]) -> None:
    _, centre, _ = eamsgd()
    assert not torch.allclose(ends["nesterov"]["common"]["net.weight"][0], centre, rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"period": 0}, "ElasticAveraging: period must be an integer >= 1, got 0"),
        ({"period": 1.5}, "ElasticAveraging: period must be an integer >= 1, got 1.5"),
        ({"period": True}, "period must be an integer >= 1, got True"),
        ({"beta": 1.1}, r"beta must be in \[0, 1\], got 1.1"),
        ({"beta": float("nan")}, r"beta must be in \[0, 1\], got nan"),
        ({"moving_rate": -0.1}, r"moving_rate must be in \[0, 1\], got -0.1"),
    ],
)
def test_wrong_arguments_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ElasticAveraging(**options)


def test_arguments_of_the_wrapper_are_unknown() -> None:
    with pytest.raises(TypeError, match="find_unused_parameters"):
        ElasticAveraging(find_unused_parameters=True)  # type: ignore[call-arg]


def test_a_moving_rate_beyond_the_mean_is_refused() -> None:
    strategy = elastic(moving_rate=1.0)
    strategy.parallel_devices = [torch.device("cpu")] * 2
    trainer = Trainer(accelerator="cpu", devices=2, strategy=strategy, logger=False)
    with pytest.raises(MisconfigurationException, match="moving_rate must be <= 1 / 2, the number of"):
        strategy.check(trainer)
