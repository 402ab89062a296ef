"""Every callback with parameter servers: the run is the plain one, or the callback refuses before it."""

from pathlib import Path
from typing import Any

import pytest
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import seed_everything

from lightning_optreg.strategies import AsyncElasticAveraging, Downpour
from tests.contracts.parts import CALLBACKS
from tests.contracts.runs import fit
from tests.resume_tools import assert_identical
from tests.strategies.servers.local_ray import local_ray  # noqa: F401

pytestmark = pytest.mark.usefixtures("local_ray")

REFUSED_BY_DOWNPOUR = {
    "AdamRestarts": "so a restart here would not reach them; use ddp",
    "AdamToSGD": "so it can't be replaced here; use SWATS",
    "Curriculum": "so images have no common score; give a reference or a file of scores",
    "FullBatch": "each with one worker's share of the images",
    "MaxNorm": "so what is projected here does not reach them; use weight decay",
    "Poisoned": "",
}
QUICK = ("EarlyStopping", "GradientNoise", "MaxNorm", "MixUp")  # of the ordinary suite; slow tests run all


def check(name: str, folder: Path) -> None:
    part = CALLBACKS[name]

    def run(strategy: Any) -> dict[str, Any]:
        seed_everything(1, verbose=False)
        return fit(folder / str(strategy), [part.build()], strategy=strategy, devices=1)

    if REFUSED_BY_DOWNPOUR.get(name):
        with pytest.raises(MisconfigurationException, match=REFUSED_BY_DOWNPOUR[name]) as caught:
            run(Downpour())
        assert str(caught.value).startswith(f"{name}: the servers of Downpour make the optimizer's steps, ")
        return
    plain, served = run("auto"), run(Downpour())
    assert_identical(plain["weights"], served["weights"], "weights")
    assert_identical(plain["optimizer"], served["optimizer"], "optimizer")
    assert_identical(plain["schedule"], served["schedule"], "schedule")


@pytest.mark.parametrize("name", QUICK)
def test_callbacks_work_or_refuse(name: str, tmp_path: Path) -> None:
    check(name, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(CALLBACKS.keys() - set(QUICK)))
def test_all_callbacks_work_or_refuse(name: str, tmp_path: Path) -> None:
    check(name, tmp_path)


REFUSED_BY_ELASTIC = ("AdamRestarts", "AdamToSGD", "Curriculum", "FullBatch")


@pytest.mark.slow
@pytest.mark.parametrize("name", CALLBACKS)
def test_beta_0_with_one_worker_trains_as_without(name: str, tmp_path: Path) -> None:
    """The centre stays where it began, and is what is validated and left; the worker is on its own."""
    seed_everything(1, verbose=False)
    strategy = AsyncElasticAveraging(period=2, beta=0.0)
    if name in REFUSED_BY_ELASTIC:
        with pytest.raises(MisconfigurationException):
            fit(tmp_path, [CALLBACKS[name].build()], strategy=strategy, devices=1)
        return
    fit(tmp_path, [CALLBACKS[name].build()], strategy=strategy, devices=1)
    assert strategy.record is not None
    assert strategy.record["worker"]["clock"] > 0
