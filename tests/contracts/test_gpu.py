"""On a GPU no step waits for the device: that would keep the CPU from preparing the next one."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer

from tests.contracts.optimizers import RULES, make
from tests.contracts.watched_runs import WATCHED, fit, fit_with

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
    pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype"),
    pytest.mark.filterwarnings("ignore:DifferentialPrivacy. epsilon is computed for Poisson samples"),
]
GPU = {"accelerator": "gpu", "max_epochs": 3}


class NoWaiting(Callback):
    """First among the callbacks: from the second epoch on, waiting for the device is an error in a step."""

    def on_train_batch_start(self, trainer: Trainer, module: Any, batch: Any, batch_idx: int) -> None:
        torch.cuda.set_sync_debug_mode("error" if trainer.current_epoch and batch_idx else "default")


class Waiting(Callback):
    """Last among the callbacks: waiting is allowed again."""

    def on_train_batch_end(self, *args: Any) -> None:
        torch.cuda.set_sync_debug_mode("default")


@pytest.fixture(autouse=True)
def waiting_allowed_afterwards() -> Any:
    yield
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("name", ["none", *WATCHED])
def test_no_step_with_a_callback_waits(name: str, precision: str, tmp_path: Path) -> None:
    fit_with(name, tmp_path, NoWaiting(), Waiting(), precision=precision, **GPU)


@pytest.mark.parametrize("name", [name for name, rule in RULES.items() if not rule.reads_values])
def test_no_step_of_an_optimizer_waits(name: str, tmp_path: Path) -> None:
    callbacks = [NoWaiting(), Waiting()]
    fit(tmp_path, callbacks, partial(make, name), **GPU)


def test_a_run_is_the_same_wherever_its_images_lie(tmp_path: Path) -> None:
    one, other = (
        fit(tmp_path, [], lambda p: torch.optim.SGD(p, lr=0.1), device=device, **GPU).state_dict()
        for device in ("cuda", "cpu")
    )
    assert all(torch.equal(one[name], other[name]) for name in one)
