"""Signals that reach two processes at any moment: both stop and resume exactly, or end with a sentence."""

import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer

from tests.processes import needs_gloo
from tests.resume_tools import assert_identical
from tests.signal_tools import Begun, Processes, free_port, results, start, torchrun_variables
from tests.signal_tools import fit as fit_process

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked to spare their start-up"),
    needs_gloo,
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
    """Send both processes SIGTERM, some milliseconds apart, at a random moment; return if it was in time."""
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


@pytest.mark.slow
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


@pytest.mark.parametrize(
    ("hook", "call", "rank"),
    [
        ("on_train_batch_start", 4, 0),
        ("on_validation_batch_start", 6, 1),
        pytest.param("on_train_batch_start", 4, 1, marks=pytest.mark.slow),
        pytest.param("on_validation_batch_start", 6, 0, marks=pytest.mark.slow),
        pytest.param("on_save_checkpoint", 1, 0, marks=pytest.mark.slow),
        pytest.param("on_save_checkpoint", 1, 1, marks=pytest.mark.slow),
    ],
)
def test_a_signal_to_one_process_stops_both(
    hook: str, call: int, rank: int, tmp_path: Path, straight: list[Any]
) -> None:
    processes = start(
        tmp_path, "cut", callbacks=(SignalAt(hook, call=call, rank=rank),), enable_checkpointing=True
    )
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


@pytest.mark.slow
def test_signals_before_training_after_it_and_twice(tmp_path: Path, straight: list[Any]) -> None:
    moments = {
        "sanity": [SignalAt("on_sanity_check_start", rank=1)],
        "twice": [SignalAt("on_train_batch_end", call=2), SignalAt("on_train_batch_start", call=3, rank=1)],
        "epoch_end": [SignalAt("on_train_epoch_end", call=2, rank=1)],
    }
    started = {
        name: start(tmp_path / name, "cut", callbacks=tuple(callbacks)) for name, callbacks in moments.items()
    }
    for name, processes in started.items():
        assert processes.wait() == [143, 143], (name, processes.messages())
        resume(tmp_path / name, straight, tmp_path / name / "last.ckpt")
    for hook, call in (("on_train_end", 1), ("on_train_epoch_end", 3)):
        after = start(tmp_path / hook, "cut", callbacks=(SignalAt(hook, call=call, rank=1),))
        assert after.wait() == [0, 0], "a run that is through is not stopped"
        assert_identical(straight, results(tmp_path / hook, "cut"))


def test_validations_of_different_lengths_are_finished_first(tmp_path: Path) -> None:
    port = free_port()

    def target(rank: int) -> None:
        fit_process(
            rank,
            tmp_path,
            "uneven",
            variables=torchrun_variables(rank, 2, port),
            callbacks=(SignalAt("on_validation_batch_start", call=4, rank=1),),
            val_batches=3 + 2 * rank,
            devices=2,
            strategy="ddp",
            num_sanity_val_steps=1,
            module={"buffers": False},
        )

    assert Processes(tmp_path / "processes", target).wait() == [143, 143]
    progress = torch.load(tmp_path / "last.ckpt", weights_only=True)["loops"]["fit_loop"]
    assert progress["epoch_loop.val_loop.batch_progress"]["current"]["completed"] == 3


def test_an_interrupt_of_both_ends_both(tmp_path: Path) -> None:
    # long batches, lest the run be over before a busy machine has sent both signals
    processes = start(tmp_path, "interrupted", pause=20 * PAUSE, callbacks=(Begun(tmp_path),))
    processes.until(lambda: all((tmp_path / f"begun-{rank}").exists() for rank in range(2)))
    for rank in range(2):
        processes.send(rank, signal.SIGINT)
    statuses = processes.wait(BOUND)
    assert 0 not in statuses, processes.messages()


@pytest.mark.parametrize("count", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_slurms_requeue_saves_at_a_batchs_end(count: int, tmp_path: Path) -> None:
    def begin(name: str, **options: Any) -> Processes:
        return start(tmp_path, name, count=count, **options)

    assert begin("straight").wait() == [0] * count
    callbacks = tuple(
        SignalAt("on_before_zero_grad", signal.SIGUSR1, call=3 + rank, rank=rank) for rank in range(count)
    )
    processes = begin("requeued", slurm=True, callbacks=callbacks)
    assert processes.wait() == [0] * count, processes.messages()
    calls = (tmp_path / "programs" / "calls.txt").read_text().splitlines()
    checkpoints = sorted(tmp_path.glob("hpc_ckpt_*.ckpt"))
    assert calls == ["requeue 4711"] * len(checkpoints)
    assert 1 <= len(checkpoints) <= count
    assert not any("no exact resume" in message for message in processes.messages())
    straight = results(tmp_path, "straight", count)
    assert_identical(straight, results(tmp_path, "requeued", count))
    for number, path in enumerate(checkpoints):
        assert begin(f"from-{number}", ckpt_path=path).wait() == [0] * count
        assert_identical(straight, results(tmp_path, f"from-{number}", count))
