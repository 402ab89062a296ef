"""Workers that die: no hang, no process left over, whole checkpoints, and an error that says who."""

import multiprocessing
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_optreg.strategies import Hogwild
from tests.strategies.shared_memory.hogwild_tools import Regression, trainer_of

pytestmark = [
    pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers"),
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="it looks for processes in /proc"),
]
SECONDS = 20.0  # until an error, on a busy machine
FAULTS = int(os.environ.get("OPTREG_FAULTS", "20"))  # kills in a slow test


class Fails(Callback):
    """Worker 1 raises an error in its third batch."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_rank == 1 and batch_idx == 2:
            raise KeyError("the third batch of worker 1")


class Dies(Callback):
    """Worker 1 is killed `after` seconds after it has begun, and has noted when."""

    def __init__(self, after: float, note: Path) -> None:
        self.after, self.note = after, note
        self.at = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        self.at = time.monotonic() + self.after

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        if trainer.global_rank == 1 and time.monotonic() > self.at:
            self.note.write_text(str(time.monotonic()))  # the same clock in all processes
            os.kill(os.getpid(), signal.SIGKILL)


def test_an_error_in_a_worker_ends_the_run_with_its_traceback(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"Hogwild: worker 1 .* has failed") as caught:
        trainer_of(tmp_path, callbacks=[Fails()]).fit(Regression())
    assert "on_train_batch_start" in str(caught.value)
    assert "the third batch of worker 1" in str(caught.value)
    assert multiprocessing.active_children() == []


def test_a_killed_worker_ends_the_run(tmp_path: Path) -> None:
    kill_a_worker(tmp_path, 0.0)


def kill_a_worker(folder: Path, after: float, start_method: Any = "fork") -> None:
    saving = ModelCheckpoint(folder, "{step}", every_n_train_steps=4, save_top_k=-1)
    note = folder / "killed"
    trainer = trainer_of(
        folder,
        strategy=Hogwild(start_method=start_method, timeout=300.0),
        callbacks=[Dies(after, note), saving],
        max_epochs=100_000,
        enable_checkpointing=True,
    )
    with pytest.raises(RuntimeError, match=r"Hogwild: worker 1 \(process \d+\) was killed by SIGKILL"):
        trainer.fit(Regression())
    seconds = time.monotonic() - float(note.read_text())
    assert seconds < SECONDS
    print(f"ended after {seconds:.1f} s")  # for pytest -s
    assert multiprocessing.active_children() == []
    check_files(folder)


def check_files(folder: Path) -> None:
    for path in folder.glob("*.ckpt"):
        saved = torch.load(path, weights_only=True)
        assert saved["global_step"] == sum(saved["Hogwild"]["steps"])
        assert len(saved["Hogwild"]["others"]) == 1


def test_workers_end_when_worker_0_is_killed(tmp_path: Path) -> None:
    kill_worker_0(tmp_path, 0.0)


def kill_worker_0(folder: Path, after: float, start_method: str = "fork") -> None:
    # forked, as a new process would import everything again
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=_train, args=(folder, theirs, start_method))
    process.start()
    try:
        assert ours.poll(300.0)
        child = ours.recv()
        time.sleep(after)
    finally:
        process.kill()
        process.join()
    killed = time.monotonic()
    while Path(f"/proc/{child}").exists() and _state(child) != "Z":
        assert time.monotonic() - killed < SECONDS, "worker 1 is left over"
        time.sleep(0.02)
    print(f"ended after {time.monotonic() - killed:.1f} s")  # for pytest -s
    check_files(folder)


def _train(folder: Path, connection: Any, start_method: Any) -> None:
    saving = ModelCheckpoint(
        folder, "{step}", every_n_train_steps=4, save_top_k=2, monitor="step", mode="max"
    )
    trainer = trainer_of(
        folder,
        strategy=Hogwild(start_method=start_method, timeout=300.0),
        callbacks=[Tells(connection), saving],
        max_epochs=100_000,
        enable_checkpointing=True,
    )
    trainer.fit(Regression())


def _state(process: int) -> str:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return "Z"


class Tells(Callback):
    """Worker 1 sends its process."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection

    def on_train_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        if trainer.global_rank == 1 and trainer.current_epoch == 0:
            self.connection.send(os.getpid())


@pytest.mark.slow  # many runs
@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_killed_workers_at_random_moments(tmp_path: Path, start_method: str) -> None:
    moments = random.Random(0)
    for number in range(FAULTS):
        folder = tmp_path / str(number)
        folder.mkdir()
        kill_a_worker(folder, moments.uniform(0.0, 1.5), start_method)


@pytest.mark.slow  # likewise
@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_killed_worker_0_at_random_moments(tmp_path: Path, start_method: str) -> None:
    moments = random.Random(1)
    for number in range(FAULTS):
        folder = tmp_path / str(number)
        folder.mkdir()
        kill_worker_0(folder, moments.uniform(0.0, 1.5), start_method)
