"""The synchronous strategies on a GPU: no step waits for the device."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD

from lightning_optreg.strategies import ElasticAveraging, LocalSGD
from tests.processes import in_processes
from tests.small_runs import quiet_trainer
from tests.strategies.own_weights._marching import Net, Numbers

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


class NeverWaits:
    """A step in which waiting for the device is an error."""

    def make_step(self, clock: Any, optimizer: Any, trained: Any, step: Callable[[], Any]) -> Any:
        torch.cuda.set_sync_debug_mode("error")
        try:
            return super().make_step(clock, optimizer, trained, step)  # type: ignore[misc]
        finally:
            torch.cuda.set_sync_debug_mode("default")


class Elastic(NeverWaits, ElasticAveraging):
    pass


class Local(NeverWaits, LocalSGD):
    pass


def on_the_gpu(rank: int, folder: Path) -> None:
    outer = partial(SGD, lr=0.7, momentum=0.9, nesterov=True)
    for strategy in (Elastic(2), Local(2), Local(2, outer)):
        module = Net(partial(SGD, lr=0.05), nn.Linear(3, 1), torch.float32)
        trainer = quiet_trainer(accelerator="gpu", devices=1, strategy=strategy, max_epochs=1)
        trainer.fit(module, Numbers(0, dtype=torch.float32))
        trainer.save_checkpoint(folder / "end.ckpt")
        again = Net(partial(SGD, lr=0.05), nn.Linear(3, 1), torch.float32)
        trainer = quiet_trainer(accelerator="gpu", devices=1, strategy=type(strategy)(2), max_epochs=2)
        trainer.fit(again, Numbers(0, dtype=torch.float32), ckpt_path=folder / "end.ckpt")
        assert trainer.global_step == 8


def test_no_step_waits_for_the_device(tmp_path: Path) -> None:
    in_processes(1, on_the_gpu, tmp_path, start_method="spawn")
