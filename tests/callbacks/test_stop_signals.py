"""Signals that reach two processes at any moment: they stop together and resume exactly, or end with a word."""

import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer

from tests.resume_tools import assert_identical
from tests.signal_tools import Begun, Processes, free_port, results, start, torchrun_variables
from tests.signal_tools import fit as fit_process

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked to spare their start-up"),
    pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="this build of torch has no gloo"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork.*:DeprecationWarning"),
]

PAUSE = 0.02  # seconds a batch takes
BOUND = 15.0  # seconds from the last signal to the end, on a busy machine; a few tenths are usual


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """What each process ends with if nobody disturbs them."""
    folder = tmp_path_factory.mktemp("straight")
    assert start(folder, "straight").wait() == [0, 0]
    return results(folder, "straight")


class SignalAt(Callback):
    """Send this process a signal at a call of a hook."""

    def __init__(self, hook: str, number: int = signal.SIGTERM, call: int = 1, rank: int = 0) -> None:
        self.calls, self.call, self.number, self.rank = 0, call, number, rank
        setattr(self, hook, self._send)

    def _send(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        self.calls += 1
        if self.calls == self.call and trainer.global_rank == self.rank:
            os.kill(os.getpid(), self.number)


class Hang(Callback):
    """Sleep in a training batch of one process."""

    def __init__(self, folder: Path, rank: int = 1) -> None:
        self.folder, self.rank = folder, rank

    def on_train_batch_start(self, trainer: Trainer, *args: Any) -> None:
        if trainer.global_rank == self.rank and trainer.global_step == 2:
            (self.folder / "hangs").touch()
            while True:
                time.sleep(0.1)


def resume(folder: Path, straight: list[Any], path: Path) -> None:
    assert start(folder, "resumed", ckpt_path=path).wait() == [0, 0]
    assert_identical(straight, results(folder, "resumed"))


def disturb(folder: Path, seed: int) -> bool:
    """Send both processes SIGTERM, some milliseconds apart, at a random moment; return if they had time for it."""
    moments = random.Random(seed)
    processes = start(folder, "cut", pause=PAUSE, callbacks=(Begun(folder),))
    processes.until(lambda: all((folder / f"begun-{rank}").exists() for rank in range(2)))
    time.sleep(moments.uniform(0.0, 1.0))
    order = moments.sample([0, 1], 2)
    processes.send(order[0], signal.SIGTERM)
    time.sleep(moments.choice([0.0, 0.001, 0.005, 0.02, 0.1]))
    processes.send(order[1], signal.SIGTERM)
    statuses = processes.wait(BOUND)
    if statuses == [0, 0]:
        return False
    assert set(statuses) <= {143, -signal.SIGTERM}, processes.messages()  # the second may come after the end
    assert (folder / "last.ckpt").exists(), processes.messages()
    return True


def test_skewed_signals_stop_two_processes_together(tmp_path: Path, straight: list[Any]) -> None:
    seed = random.randrange(2**32)
    for number in range(3):
        folder = tmp_path / str(number)
        if disturb(folder, seed + number):
            resume(folder, straight, folder / "last.ckpt")


@pytest.mark.slow
def test_skewed_signals_at_twenty_moments(tmp_path: Path, straight: list[Any]) -> None:
    seed = random.randrange(2**32)
    stopped = 0
    for number in range(20):
        folder = tmp_path / str(number)
        if disturb(folder, seed + number):
            stopped += 1
            resume(folder, straight, folder / "last.ckpt")
    assert stopped >= 10, seed


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize(
    ("hook", "call"),
    [("on_train_batch_start", 4), ("on_validation_batch_start", 6), ("on_save_checkpoint", 1)],
)
def test_a_signal_to_one_process_stops_both(
    hook: str, call: int, rank: int, tmp_path: Path, straight: list[Any]
) -> None:
    processes = start(tmp_path, "cut", callbacks=(SignalAt(hook, call=call, rank=rank),), enable_checkpointing=True)
    assert processes.wait() == [143, 143], processes.messages()
    (path,) = tmp_path.rglob("last.ckpt")
    resume(tmp_path, straight, path)


def test_a_process_that_hangs_does_not_hold_the_others(tmp_path: Path) -> None:
    processes = start(tmp_path, "hangs", callbacks=(Hang(tmp_path),), answer_within=1.0)
    processes.until((tmp_path / "hangs").exists)
    time.sleep(0.5)
    for rank in range(2):
        processes.send(rank, signal.SIGTERM)
    assert processes.wait(BOUND) == [143, 143], processes.messages()
    for rank, message in enumerate(processes.messages()):
        assert f"process {rank} has no answer from the others and ends 1 s after SIGTERM" in message
    assert not list(tmp_path.rglob("*.ckpt"))


def test_a_process_that_dies_does_not_hold_the_others(tmp_path: Path) -> None:
    callbacks = (SignalAt("on_train_batch_start", signal.SIGKILL, call=3, rank=1),)
    processes = start(tmp_path, "dies", callbacks=callbacks)
    statuses = processes.wait(BOUND)
    assert statuses[1] == -signal.SIGKILL
    assert statuses[0] == 1, processes.messages()
    print(processes.messages()[0])
