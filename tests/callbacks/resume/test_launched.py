"""Signals to processes that Lightning forks or spawns: all save, end in time, and resume exactly."""

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule, Trainer, seed_everything
from torch.multiprocessing.spawn import ProcessExitedException

from lightning_optreg.callbacks import ExactResume
from lightning_optreg.callbacks.resume.signals.launched import pass_on_sigterm
from tests.processes import needs_gloo
from tests.resume_tools import StatefulLoader, assert_identical
from tests.signal_tools import Processes, Slow, WriteResult, results
from tests.small_runs import Diary, quiet_trainer

pytestmark = [
    # To be run alone, too: the processes are forked, and a process that has run other tests may have called
    # on CUDA, which a fork of it cannot.
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked to spare their start-up"),
    needs_gloo,
]
needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="Linux tells children that a parent died")

BOUND = 40.0  # seconds from the signal to the end, on a busy machine; a few tenths are usual


class OwnSamples(LightningDataModule):
    """Each process has samples of its own, which are made in it."""

    def train_dataloader(self) -> StatefulLoader:
        return StatefulLoader(rank=self.trainer.global_rank)

    def val_dataloader(self) -> StatefulLoader:
        return StatefulLoader(3, rank=self.trainer.global_rank)


class Tell(Callback):
    """Leave this process's number when its third batch begins."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_batch_start(self, trainer: Trainer, *args: Any) -> None:
        if trainer.global_step == 2:
            unfinished = self.folder / f"unfinished-{trainer.global_rank}"
            unfinished.write_text(str(os.getpid()))
            unfinished.rename(self.folder / f"pid-{trainer.global_rank}")


class Finalized(Diary):
    """A logger that leaves a file when it is told that the run has failed."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def finalize(self, status: str) -> None:
        (self.folder / f"{status}-{os.getpid()}").touch()


class SignalItself(Callback):
    """Send this process SIGTERM at a call of a hook."""

    def __init__(self, hook: str, call: int) -> None:
        self.hook, self.call, self.calls = hook, call, 0

    def _send(self, hook: str) -> None:
        if hook == self.hook:
            self.calls += 1
            if self.calls == self.call:
                os.kill(os.getpid(), signal.SIGTERM)

    def on_train_batch_end(self, *args: Any) -> None:
        self._send("on_train_batch_end")

    def on_validation_batch_start(self, *args: Any) -> None:
        self._send("on_validation_batch_start")

    def on_validation_end(self, *args: Any) -> None:
        self._send("on_validation_end")

    def on_train_epoch_end(self, *args: Any) -> None:
        self._send("on_train_epoch_end")


def fit(
    folder: Path,
    name: str,
    *,
    strategy: str = "ddp_fork",
    devices: int = 2,
    pause: float = 0.0,
    ckpt_path: Path | None = None,
    callbacks: tuple[Callback, ...] = (),
    keeps_waiting: bool = False,
    **options: Any,
) -> None:
    torch.set_num_threads(1)
    seed_everything(1 if ckpt_path is None else 77, verbose=False)
    trainer = quiet_trainer(
        max_epochs=3,
        strategy=strategy,
        devices=devices,
        logger=Finalized(folder),
        val_check_interval=0.5,
        default_root_dir=folder,
        callbacks=[ExactResume(**options), WriteResult(folder, name), Tell(folder), *callbacks],
    )
    module = Slow(pause, schedule="plateau_step")
    if keeps_waiting:
        with pass_on_sigterm(trainer, BOUND):
            trainer.fit(module, datamodule=OwnSamples(), ckpt_path=ckpt_path)
    else:
        trainer.fit(module, datamodule=OwnSamples(), ckpt_path=ckpt_path)


def start(folder: Path, name: str, **options: Any) -> Processes:
    """Start the launching process, in a group of its own."""

    def target(rank: int) -> None:
        os.setsid()
        try:
            fit(folder, name, **options)
        except ProcessExitedException as error:
            print(f"told: {error}", file=sys.stderr)
            raise SystemExit(error.exit_code) from error

    return Processes(folder / f"launching-{name}", target, 1)


def launched(folder: Path, processes: Processes, count: int = 2) -> list[int]:
    """Wait until all are in training, and return their numbers."""
    paths = [folder / f"pid-{rank}" for rank in range(count)]
    processes.until(lambda: all(path.exists() for path in paths))
    return [int(path.read_text()) for path in paths]


def runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"  # nobody may be there who takes note of its end


def all_end(pids: list[int]) -> None:
    end = time.monotonic() + BOUND
    while any(runs(pid) for pid in pids):
        if time.monotonic() > end:
            for pid in filter(runs, pids):
                os.kill(pid, signal.SIGKILL)
            pytest.fail(f"launched processes did not end in {BOUND:g} s")
        time.sleep(0.05)


def resume(folder: Path, straight: list[Any], **options: Any) -> None:
    processes = start(folder, "resumed", ckpt_path=folder / "last.ckpt", **options)
    assert processes.wait() == [0], processes.messages()
    assert_identical(straight, results(folder, "resumed", len(straight)))


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """What each process ends with if nobody disturbs them."""
    folder = tmp_path_factory.mktemp("straight")
    assert start(folder, "straight").wait() == [0]
    return results(folder, "straight")


Send = Callable[[Processes, list[int]], None]


def to_one(processes: Processes, pids: list[int]) -> None:
    os.kill(pids[1], signal.SIGTERM)


def to_the_first(processes: Processes, pids: list[int]) -> None:
    os.kill(pids[0], signal.SIGTERM)


def to_the_launching(processes: Processes, pids: list[int]) -> None:
    processes.send(0, signal.SIGTERM)


def to_the_group(processes: Processes, pids: list[int]) -> None:
    os.killpg(processes.pids[0], signal.SIGTERM)


def one_after_the_other(processes: Processes, pids: list[int]) -> None:
    for pid in reversed([*processes.pids, *pids]):
        os.kill(pid, signal.SIGTERM)
        time.sleep(0.03)


def killing_the_launching(processes: Processes, pids: list[int]) -> None:
    processes.send(0, signal.SIGKILL)


def stop(folder: Path, send: Send, status: int, **options: Any) -> None:
    """Send a signal, and see that all end as they should with a checkpoint."""
    processes = start(folder, "cut", pause=0.05, **options)
    pids = launched(folder, processes)
    send(processes, pids)
    assert processes.wait(BOUND) == [status], processes.messages()
    all_end(pids)
    (message,) = processes.messages()
    assert (folder / "last.ckpt").exists(), message
    assert len(list(folder.glob("failed-*"))) >= 2, "loggers are told"


@needs_linux
@pytest.mark.parametrize(
    ("send", "status", "keeps_waiting"),
    [
        (to_one, 143, False),
        (to_the_launching, -signal.SIGTERM, False),
        (to_the_launching, 143, True),
        (to_the_group, 143, True),
        (killing_the_launching, -signal.SIGKILL, False),
    ],
)
def test_forked_processes_stop_and_resume_exactly(
    send: Send, status: int, keeps_waiting: bool, tmp_path: Path, straight: list[Any]
) -> None:
    stop(tmp_path, send, status, keeps_waiting=keeps_waiting)
    resume(tmp_path, straight)


@needs_linux
@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp_fork", "ddp_spawn", "ddp_notebook"])
@pytest.mark.parametrize("keeps_waiting", [False, True])
@pytest.mark.parametrize(
    "send",
    [to_one, to_the_first, to_the_launching, to_the_group, one_after_the_other, killing_the_launching],
)
def test_all_launchers_stop_and_resume_exactly(
    send: Send, keeps_waiting: bool, strategy: str, tmp_path: Path, straight: list[Any]
) -> None:
    status = 143
    if send is killing_the_launching:
        status = -signal.SIGKILL
    elif not keeps_waiting and send not in (to_one, to_the_first):
        status = -signal.SIGTERM
    stop(tmp_path, send, status, keeps_waiting=keeps_waiting, strategy=strategy)
    resume(tmp_path, straight)


@pytest.mark.parametrize(
    ("hook", "call"),
    [
        ("on_train_batch_end", 2),
        ("on_train_batch_end", 3),
        ("on_validation_batch_start", 6),
        ("on_validation_end", 2),
        ("on_train_epoch_end", 1),
    ],
)
def test_a_process_launched_alone_stops_at_any_moment(hook: str, call: int, tmp_path: Path) -> None:
    """And the launching one does not wait for what it would have returned."""
    alone = {"devices": 1}
    straight = start(tmp_path, "straight", **alone)
    processes = start(tmp_path / "cut", "cut", callbacks=(SignalItself(hook, call),), **alone)
    assert straight.wait() == [0]
    assert processes.wait(BOUND) == [143], processes.messages()
    assert "told: process 0 terminated with exit code 143" in processes.messages()[0]
    resume(tmp_path / "cut", results(tmp_path, "straight", 1), **alone)


@needs_linux
def test_a_launched_process_that_hangs_is_ended(tmp_path: Path) -> None:
    """It is stopped with SIGSTOP, and hears nothing."""
    processes = start(tmp_path, "hangs", pause=0.05, answer_within=1.0)
    pids = launched(tmp_path, processes)
    os.kill(pids[1], signal.SIGSTOP)
    os.kill(pids[0], signal.SIGTERM)
    end = time.monotonic() + BOUND
    while runs(pids[0]) and time.monotonic() < end:
        time.sleep(0.05)
    assert not runs(pids[0])
    assert "process 0 has no answer from the others and ends 1 s after SIGTERM" in processes.messages()[0]
    os.kill(pids[1], signal.SIGCONT)  # torch would wait 30 s before it kills it
    assert processes.wait(BOUND) == [143]
    all_end(pids)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_launched_process_that_dies_ends_the_others(number: int, tmp_path: Path) -> None:
    processes = start(tmp_path, "dies", pause=0.05)
    pids = launched(tmp_path, processes)
    os.kill(pids[1], number)
    (status,) = processes.wait(BOUND)
    assert status != 0, processes.messages()
    all_end(pids)
