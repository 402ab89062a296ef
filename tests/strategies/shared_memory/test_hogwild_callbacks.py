"""Callbacks with workers that do not wait for each other: settings of some, signals, and resumed runs."""

import multiprocessing
import os
import signal
import time
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException

from lightning_optreg.callbacks import AdamToSGD, ExactResume
from tests.strategies.shared_memory.hogwild_tools import OurLoader, Regression, Told, told, trainer_of

pytestmark = pytest.mark.filterwarnings(
    "ignore:The '.*_dataloader' does not have many workers", "ignore:Checkpoint directory"
)


class _Adam(Regression):
    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters())


@pytest.mark.parametrize("monitor", [None, "val"])
def test_a_switch_at_a_time_of_its_own_is_refused(tmp_path: Path, monitor: str | None) -> None:
    with pytest.raises(MisconfigurationException) as caught:
        trainer_of(tmp_path, callbacks=[AdamToSGD(monitor=monitor)]).fit(_Adam())
    reason = "so each would switch at a time of its own; set at_step or at_epoch"
    assert str(caught.value) == f"AdamToSGD: the workers of Hogwild do not wait for each other, {reason}"
    assert multiprocessing.active_children() == []


def test_a_switch_at_a_step_is_made_by_all(tmp_path: Path) -> None:
    callbacks = [AdamToSGD(at_step=8, lr=0.25), Told(tmp_path)]
    trainer_of(tmp_path, callbacks=callbacks).fit(_Adam())
    for worker in (0, 1):
        rates = [float(words[2]) for words in told(tmp_path, worker, "batch")]
        assert rates[0] == 0.001
        assert rates[-1] == 0.25


def test_exact_resume_takes_each_worker_as_one_process(tmp_path: Path) -> None:
    saving = ModelCheckpoint(tmp_path / "saved", "{epoch}", save_top_k=-1)
    whole = trainer_of(tmp_path, callbacks=[saving, ExactResume()], enable_checkpointing=True)
    whole.fit(Regression())
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        again = trainer_of(tmp_path, callbacks=[ExactResume(), Told(tmp_path)])
        again.fit(Regression(), ckpt_path=tmp_path / "saved" / "epoch=0.ckpt")
    assert not [one for one in said if "ExactResume" in str(one.message)]
    assert again.global_step == whole.global_step
    shares = [{x for words in told(tmp_path, worker, "batch") for x in words[3:]} for worker in (0, 1)]
    assert len(shares[0]) == len(shares[1]) == 24
    assert not shares[0] & shares[1]


class _Slow(Told):
    """Worker 1 takes a second for a batch; SIGTERM comes once worker 0 has done its share of the epoch."""

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        super().on_train_batch_end(trainer, *args)
        if trainer.global_rank:
            time.sleep(1.0)
        elif trainer.is_last_batch:
            self.signalled = time.monotonic()
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize(
    ("exactly", "epochs"),
    [
        pytest.param(True, 2, id="ExactResume-first epoch"),
        pytest.param(False, 1, id="Lightning-last epoch"),
        pytest.param(True, 1, id="ExactResume-last epoch", marks=pytest.mark.slow),
        pytest.param(False, 2, id="Lightning-first epoch", marks=pytest.mark.slow),
    ],
)
def test_sigterm_ends_the_wait_for_others(tmp_path: Path, exactly: bool, epochs: int) -> None:
    resumes = [ExactResume()] if exactly else []
    slow = _Slow(tmp_path)
    trainer = trainer_of(tmp_path, callbacks=[slow, *resumes], max_epochs=epochs)
    with pytest.raises(SIGTERMException):
        trainer.fit(OurLoader())
    assert time.monotonic() - slow.signalled < 3.0  # worker 1's share takes 6 s, its batch 1 s
    assert multiprocessing.active_children() == []
    if exactly:
        again = trainer_of(tmp_path, callbacks=[Told(tmp_path), ExactResume()], max_epochs=epochs)
        again.fit(OurLoader(), ckpt_path=tmp_path / "last.ckpt")
        assert again.global_step == epochs * 12
        batches = [words for worker in (0, 1) for words in told(tmp_path, worker, "batch")]
        for epoch in range(epochs):
            seen = [x for words in batches if words[0] == str(epoch) for x in words[3:]]
            assert len(seen) == len(set(seen)) == 48  # each image once


class _SlowLast(_Slow):
    """SIGTERM comes in worker 0's fourth step, when worker 1 makes the fifth and last."""

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        Told.on_train_batch_end(self, trainer, *args)
        if trainer.global_rank:
            time.sleep(1.0)
        elif args[-1] == 3:
            self.signalled = time.monotonic()
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize(
    "exactly",
    [
        pytest.param(False, id="Lightning", marks=pytest.mark.slow),
        pytest.param(True, id="ExactResume"),
    ],
)
def test_sigterm_while_others_make_the_last_steps(tmp_path: Path, exactly: bool) -> None:
    """They make them, and the run ends; a resumed one has nothing left to do."""
    resumes = [ExactResume()] if exactly else []
    slow = _SlowLast(tmp_path)
    trainer = trainer_of(tmp_path, callbacks=[slow, *resumes], max_steps=5, max_epochs=-1)
    with pytest.raises(SIGTERMException):
        trainer.fit(OurLoader())
    assert time.monotonic() - slow.signalled < 3.0
    assert multiprocessing.active_children() == []
    assert trainer.global_step == 5
    if exactly:
        again = trainer_of(tmp_path, callbacks=[ExactResume()], max_steps=5, max_epochs=-1)
        again.fit(OurLoader(), ckpt_path=tmp_path / "last.ckpt")
        assert again.global_step == 5
