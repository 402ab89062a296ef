"""Runs of two processes that march together, one of which is killed; for tests of several strategies.

Also a program, as processes of the start method popen are: each is one more call of the same command.

python -m tests.strategies.killed_runs FOLDER STRATEGY [CHECKPOINT]
"""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.multiprocessing import ProcessExitedException, ProcessRaisedException
from torch.optim import SGD

from lightning_optreg.callbacks import ExactResume
from lightning_optreg.strategies import PipelineParallel
from tests.resume_tools import StatefulLoader, assert_identical
from tests.small_runs import quiet_trainer
from tests.strategies.own_weights._marching import Net, elastic, local
from tests.strategies.split.split_runs import Noisy

__all__ = ["FAULTS", "check_kills", "check_one_kill", "check_popen_kills"]

FAULTS = int(os.environ.get("OPTREG_FAULTS", "20"))
"""Number of kills in a slow test."""

STARTS_WITHIN = timedelta(minutes=5)  # the second process of a command, on a busy machine
ENDS_WITHIN = 45.0  # seconds after a SIGKILL, with ExactResume: it waits up to 25 s for answers
EPOCHS = 8


class Vectors(StatefulLoader):
    """Its samples without their targets, in float64, each rank's own."""

    def __iter__(self) -> Any:
        rank = int(os.environ.get("LOCAL_RANK", 0))
        for x, _ in super().__iter__():
            yield x[:, :3].double() + rank


@dataclass(frozen=True)
class Marching:
    """A strategy, and what it trains on what."""

    strategy: Callable[..., Any]
    module: Callable[[], LightningModule]
    loader: Callable[[], StatefulLoader]


_AVERAGED = (lambda: Net(partial(SGD, lr=0.01, momentum=0.9)), Vectors)
STRATEGIES = {
    "ElasticAveraging": Marching(partial(elastic, period=4), *_AVERAGED),
    "LocalSGD": Marching(partial(local, period=4), *_AVERAGED),
    "PipelineParallel": Marching(
        partial(PipelineParallel, microbatches=2, process_group_backend="gloo"),
        Noisy,
        StatefulLoader,
    ),
}


class Pids(Callback):
    """Writes the numbers of the processes, and takes its time."""

    def __init__(self, folder: Path, seconds: float) -> None:
        self.folder, self.seconds = folder, seconds

    def on_train_start(self, trainer: Trainer, *args: Any) -> None:
        file = self.folder / f"pid{trainer.global_rank}"
        file.with_suffix(".part").write_text(str(os.getpid()))
        file.with_suffix(".part").rename(file)

    def on_train_batch_start(self, *args: Any) -> None:
        time.sleep(self.seconds)


def fit(
    name: str, folder: Path, *, slowly: bool, resumes: bool, start_method: str = "fork"
) -> dict[str, Any]:
    """Fit in two processes, and return the weights."""
    seed_everything(1, verbose=False)
    parts = STRATEGIES[name]
    save = ModelCheckpoint(folder, "last", every_n_train_steps=3, enable_version_counter=False)
    trainer = quiet_trainer(
        strategy=parts.strategy(start_method=start_method, timeout=STARTS_WITHIN),
        devices=2,
        max_epochs=EPOCHS,
        callbacks=[ExactResume(), save, Pids(folder, 0.02 if slowly else 0.0)],
        enable_checkpointing=True,
        num_sanity_val_steps=0,
        default_root_dir=folder,
    )
    module = parts.module()
    trainer.fit(module, parts.loader(), ckpt_path=folder / "last.ckpt" if resumes else None)
    return dict(module.state_dict())


def is_alive(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status")
    try:
        return "\nState:\tZ" not in status.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


class Killer(threading.Thread):
    """Kills a process some time after both have begun to train; None: after the first checkpoint."""

    def __init__(self, folder: Path, rank: int, after: float | None) -> None:
        super().__init__(daemon=True)
        self.folder, self.rank, self.after = folder, rank, after
        self.pids: list[int] = []
        self.at: float | None = None
        self._over = threading.Event()
        for file in folder.glob("pid*"):
            file.unlink()

    def run(self) -> None:
        files = [self.folder / f"pid{each}" for each in range(2)]
        awaited = [*files, self.folder / "last.ckpt"] if self.after is None else files
        while not all(file.exists() for file in awaited):
            if self._over.wait(0.01):
                return
        self.pids = [int(file.read_text()) for file in files]
        time.sleep(self.after or 0.0)
        if is_alive(self.pids[self.rank]):
            os.kill(self.pids[self.rank], signal.SIGKILL)
            self.at = time.monotonic()

    def check(self) -> bool:
        """Return whether there was something to kill, and see that all has ended in time."""
        self._over.set()
        self.join()
        if self.at is None:
            return False
        while any(is_alive(pid) for pid in self.pids):
            assert time.monotonic() - self.at < ENDS_WITHIN, "a process is left over"
            time.sleep(0.02)
        seconds = time.monotonic() - self.at
        assert seconds < ENDS_WITHIN
        print(f"ended after {seconds:.1f} s")  # for pytest -s
        return True


def fit_and_kill(name: str, folder: Path, rank: int, after: float | None, *, resumes: bool) -> bool:
    """Whether a forked process was killed before the run was over; checks time, message and orphans."""
    killer, message = Killer(folder, rank, after), ""
    killer.start()
    try:
        fit(name, folder, slowly=True, resumes=resumes)
    except (ProcessExitedException, ProcessRaisedException) as error:
        message = str(error)
    if not killer.check():
        assert not message
        return False
    # the other one, which has lost its connection, may be heard first
    assert f"process {rank} terminated with signal SIGKILL" in message or "Connection" in message, message
    return True


def command_and_kill(name: str, folder: Path, rank: int, after: float, *, resumes: bool) -> bool:
    """The same of a command that starts its second process itself."""
    killer = Killer(folder, rank, after)
    killer.start()
    checkpoint = [str(folder / "last.ckpt")] if resumes else []
    command = [sys.executable, "-m", "tests.strategies.killed_runs", str(folder), name, *checkpoint]
    with (folder / "log").open("w") as log:
        status = subprocess.run(command, stdout=log, stderr=log, timeout=600).returncode
    was_killed = killer.check()
    message = (folder / "log").read_text()  # of the process that is left, too
    if not was_killed:
        assert status == 0, message
        return False
    assert status != 0
    # Of rank 1 Lightning tells, unless rank 0 has missed it before; of rank 0, rank 1 and the shell.
    told = f"Child process with PID {killer.pids[1]} terminated with code -9" if rank else "Connection"
    assert told in message or "Connection" in message, message
    return True


def check_one_kill(name: str, rank: int, root: Path) -> None:
    """Kill a process after the first checkpoint, and resume."""
    straight, folder = _straight(name, root)
    assert fit_and_kill(name, folder, rank, None, resumes=False)
    _check_file(name, folder / "last.ckpt")
    assert_identical(straight, fit(name, folder, slowly=False, resumes=True))


def check_kills(name: str, number: int, root: Path, *, kill: Callable[..., bool] = fit_and_kill) -> None:
    """Kill at random moments; each run goes on from the checkpoint of the one before, the last to the end."""
    straight, folder = _straight(name, root)
    draws, kills, file = random.Random(1), 0, folder / "last.ckpt"
    while kills < number:
        if not kill(name, folder, kills % 2, draws.uniform(0, 0.4), resumes=file.exists()):
            file.unlink()  # it was over before: from the start
            continue
        kills += 1
        if file.exists():
            _check_file(name, file)
    assert_identical(straight, fit(name, folder, slowly=False, resumes=file.exists()))


def check_popen_kills(name: str, number: int, root: Path) -> None:
    """The same with the start method popen."""
    check_kills(name, number, root, kill=command_and_kill)


def _straight(name: str, root: Path) -> tuple[dict[str, Any], Path]:
    folders = [root / "straight", root / "killed"]
    for folder in folders:
        folder.mkdir()
    return fit(name, folders[0], slowly=False, resumes=False), folders[1]


def _check_file(name: str, file: Path) -> None:
    saved = torch.load(file, weights_only=True)
    if name == "PipelineParallel":
        assert set(saved["state_dict"]) == set(Noisy().state_dict())  # of both stages
    else:
        assert saved["workers"]["count"] == 2


if __name__ == "__main__":
    torch.set_num_threads(1)
    fit(sys.argv[2], Path(sys.argv[1]), slowly=True, resumes=len(sys.argv) > 3, start_method="popen")
