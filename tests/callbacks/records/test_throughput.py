"""Throughput counts every image once an epoch and tells training from validation."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from typing_extensions import override

from lightning_optreg.callbacks.records.throughput import Throughput
from lightning_optreg.loggers import RunCSVLogger
from tests.small_runs import quiet_trainer


class Model(LightningModule):
    """Takes 10 ms a training step and 20 ms a validation step."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(3, 1)

    @override
    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        time.sleep(0.01)
        loss: Tensor = self.net(batch[0]).mean()
        return loss

    @override
    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        time.sleep(0.02)

    @override
    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.net.parameters(), lr=0.01)


def loader() -> Any:
    return DataLoader(TensorDataset(torch.ones(10, 3), torch.ones(10)), batch_size=4)  # batches of 4, 4 and 2


def make_trainer(folder: Path, speed: Throughput, **settings: Any) -> Trainer:
    return quiet_trainer(
        log_every_n_steps=50,
        logger=RunCSVLogger(folder),
        callbacks=[speed],
        **{"enable_checkpointing": True, **settings},
    )


def test_counts_and_times_of_a_fit(tmp_path: Path) -> None:
    speed = Throughput()
    started = time.perf_counter()
    make_trainer(tmp_path, speed, max_epochs=2, enable_checkpointing=False).fit(Model(), loader(), loader())
    took = time.perf_counter() - started
    assert speed.images == 20
    assert speed.seconds >= 6 * 0.01
    assert speed.validation_seconds >= 6 * 0.02
    # The sanity check's two steps are in neither.
    assert speed.seconds + speed.validation_seconds <= took - 2 * 0.02
    written = json.loads((tmp_path / "throughput.json").read_text())
    assert written["images"] == 20
    assert written["images_per_second"] == pytest.approx(20 / speed.seconds, rel=1e-3)


def test_a_resumed_run_adds_to_what_it_had(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, Throughput(), max_epochs=1, enable_checkpointing=False)
    trainer.fit(Model(), loader(), loader())
    path = tmp_path / "half.ckpt"
    trainer.save_checkpoint(path)
    first = json.loads((tmp_path / "throughput.json").read_text())
    make_trainer(tmp_path, Throughput(), max_epochs=3, enable_checkpointing=False).fit(
        Model(), loader(), loader(), ckpt_path=path, weights_only=True
    )
    whole = json.loads((tmp_path / "throughput.json").read_text())
    assert (first["images"], whole["images"]) == (10, 30)
    assert whole["seconds"] >= first["seconds"] + 6 * 0.01


def test_validation_on_its_own_is_not_timed(tmp_path: Path) -> None:
    speed = Throughput()
    make_trainer(tmp_path, speed).validate(Model(), loader(), verbose=False)
    assert (speed.images, speed.seconds, speed.validation_seconds) == (0, 0.0, 0.0)
    assert speed.images_per_second == 0.0


def test_without_a_logger_it_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    trainer = quiet_trainer(callbacks=[Throughput()], max_epochs=1)
    trainer.fit(Model(), loader(), loader())
    assert list(tmp_path.iterdir()) == []
