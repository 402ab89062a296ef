"""What parts ask of a trainer, and what they refuse."""

from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.strategies import FSDPStrategy

from lightning_optreg.trainer import queries, refusals


def trainer(**settings: Any) -> Trainer:
    return Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, **settings)


@pytest.mark.parametrize(
    ("every", "steps"), [(1, [1, 2, 3, 4, 5, 6]), (3, [3, 6]), (7, []), (0, [])], ids=str
)
def test_steps_are_logged_at_the_cadence(every: int, steps: list[int]) -> None:
    asked = trainer(log_every_n_steps=every)
    assert [step for step in range(1, 7) if queries.is_logging_step(asked, step)] == steps


def test_the_step_is_the_last_one_that_was_made() -> None:
    asked = trainer(log_every_n_steps=4)
    assert queries.is_logging_step(asked)  # 0
    asked.fit_loop.epoch_loop.automatic_optimization.optim_progress.optimizer.step.total.completed = 3
    assert asked.global_step == 3
    assert not queries.is_logging_step(asked)
    assert queries.is_logging_step(asked, asked.global_step + 1)


def test_attributes_are_those_of_the_trainer() -> None:
    asked = trainer(fast_dev_run=True, reload_dataloaders_every_n_epochs=2)
    assert queries.is_dry_run(asked)
    assert not queries.is_dry_run(trainer())
    assert queries.reload_cadence(asked) == 2
    assert queries.datamodule_of(asked) is None
    callbacks: Any = asked.callbacks  # type: ignore[attr-defined]
    assert queries.callbacks_of(asked) is callbacks


def test_fused_optimizers_are_told_from_others() -> None:
    weights = [torch.zeros(1, requires_grad=True)]
    assert queries.is_fused(torch.optim.SGD(weights, lr=0.1, fused=True))
    assert not queries.is_fused(torch.optim.SGD(weights, lr=0.1))


def test_refusals_name_who_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = trainer()
    module = LightningModule()
    refusals.refuse_sharding(asked, "Part", "so nothing works")
    refusals.refuse_manual_optimization(module, "Part", "since it counts steps")
    refusals.refuse_barebones(asked, "Part", "val/loss")
    fused = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1, fused=True)
    asked.strategy.optimizers = [fused]
    refusals.refuse_fused_under_scaler(asked, "Part", "noise")

    module.automatic_optimization = False
    with pytest.raises(MisconfigurationException, match=r"^Part: needs automatic optimization, since it co"):
        refusals.refuse_manual_optimization(module, "Part", "since it counts steps")
    with pytest.raises(MisconfigurationException, match=r"^Part: a barebones trainer logs nothing, so ther"):
        refusals.refuse_barebones(trainer(barebones=True), "Part", "val/loss")
    monkeypatch.setattr(asked.precision_plugin, "scaler", object(), raising=False)
    with pytest.raises(MisconfigurationException, match=r"^Part: a fused .*after the noise; set fused to f"):
        refusals.refuse_fused_under_scaler(asked, "Part", "noise")
    monkeypatch.setattr(type(asked), "strategy", FSDPStrategy())
    with pytest.raises(MisconfigurationException, match=r"^Part: FSDPStrategy shards parameters, so nothi"):
        refusals.refuse_sharding(asked, "Part", "so nothing works")
