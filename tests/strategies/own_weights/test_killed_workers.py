"""Processes that march together and are killed: the run ends at once, says who died, and resumes exactly."""

import os
import random
import signal
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.multiprocessing import ProcessExitedException, ProcessRaisedException
from torch.optim import SGD

from lightning_optreg.callbacks import ExactResume
from tests.processes import needs_gloo
from tests.resume_tools import StatefulLoader, assert_identical
from tests.small_runs import quiet_trainer
from tests.strategies.own_weights._marching import Net, elastic, local

pytestmark = needs_gloo

ENDS_WITHIN = 45.0  # seconds after a SIGKILL, with ExactResume: it waits up to 25 s for answers
EPOCHS = 8
STARTS = {"ElasticAveraging": partial(elastic, period=4), "LocalSGD": partial(local, period=4)}


class Vectors(StatefulLoader):
    """Its samples without their targets, in float64, each rank's own."""

    def __iter__(self) -> Any:
        rank = int(os.environ.get("LOCAL_RANK", 0))
        for x, _ in super().__iter__():
            yield x[:, :3].double() + rank


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


def fit(strategy: str, folder: Path, *, slowly: bool, resumes: bool) -> dict[str, Any]:
    seed_everything(1, verbose=False)
    save = ModelCheckpoint(folder, "last", every_n_train_steps=3, enable_version_counter=False)
    trainer = quiet_trainer(
        strategy=STARTS[strategy](start_method="fork"),
        devices=2,
        max_epochs=EPOCHS,
        callbacks=[ExactResume(), save, Pids(folder, 0.02 if slowly else 0.0)],
        enable_checkpointing=True,
        default_root_dir=folder,
    )
    module = Net(partial(SGD, lr=0.01, momentum=0.9))
    trainer.fit(module, Vectors(), ckpt_path=folder / "last.ckpt" if resumes else None)
    return dict(module.state_dict())


def is_alive(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status")
    try:
        return "\nState:\tZ" not in status.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def kill_later(folder: Path, rank: int, after: float | None, killed: dict[str, Any]) -> None:
    """Kill a process some time after both have begun to train; None: after the first checkpoint."""
    files = [folder / f"pid{each}" for each in range(2)]
    deadline = time.monotonic() + 120.0
    awaited = [*files, folder / "last.ckpt"] if after is None else files
    while not all(file.exists() for file in awaited):
        if time.monotonic() > deadline:
            return
        time.sleep(0.01)
    killed["pids"] = [int(file.read_text()) for file in files]
    time.sleep(after or 0.0)
    if is_alive(killed["pids"][rank]):
        os.kill(killed["pids"][rank], signal.SIGKILL)
        killed["at"] = time.monotonic()


def fit_and_kill(strategy: str, folder: Path, rank: int, after: float | None, *, resumes: bool) -> bool:
    """Whether the process was killed before the run was over; checks time, message and orphans."""
    for file in folder.glob("pid*"):
        file.unlink()
    killed: dict[str, Any] = {}
    killer = threading.Thread(target=kill_later, args=(folder, rank, after, killed))
    killer.start()
    try:
        fit(strategy, folder, slowly=True, resumes=resumes)
        message = ""
    except (ProcessExitedException, ProcessRaisedException) as error:
        message = str(error)
    finally:
        killer.join()
    if "at" not in killed:
        assert not message
        return False
    # the other one, which has lost its connection, may be heard first
    assert f"process {rank} terminated with signal SIGKILL" in message or "Connection" in message, message
    assert time.monotonic() - killed["at"] < ENDS_WITHIN
    assert not any(is_alive(pid) for pid in killed["pids"])
    return True


@pytest.mark.filterwarnings("ignore")  # the launcher's: what it terminates
@pytest.mark.parametrize(("strategy", "rank"), [("ElasticAveraging", 1), ("LocalSGD", 0)])
def test_a_killed_process_ends_the_run_which_resumes_exactly(
    strategy: str, rank: int, tmp_path: Path
) -> None:
    folders = [tmp_path / "straight", tmp_path / "killed"]
    for folder in folders:
        folder.mkdir()
    straight = fit(strategy, folders[0], slowly=False, resumes=False)
    assert fit_and_kill(strategy, folders[1], rank, None, resumes=False)
    assert torch.load(folders[1] / "last.ckpt", weights_only=True)["workers"]["count"] == 2
    assert_identical(straight, fit(strategy, folders[1], slowly=False, resumes=True))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("strategy", STARTS)
def test_twenty_kills_at_random_moments(strategy: str, tmp_path: Path) -> None:
    """Each run goes on from the checkpoint of the one before; the last ends as one that never stopped."""
    folders = [tmp_path / "straight", tmp_path / "killed"]
    for folder in folders:
        folder.mkdir()
    straight = fit(strategy, folders[0], slowly=False, resumes=False)
    draws, kills = random.Random(1), 0
    while kills < 20:
        there = (folders[1] / "last.ckpt").exists()
        if not fit_and_kill(strategy, folders[1], draws.randrange(2), draws.uniform(0, 0.4), resumes=there):
            (folders[1] / "last.ckpt").unlink()  # it was over before: from the start
            continue
        kills += 1
        if (folders[1] / "last.ckpt").exists():
            assert torch.load(folders[1] / "last.ckpt", weights_only=True)["workers"]["count"] == 2
    there = (folders[1] / "last.ckpt").exists()
    assert_identical(straight, fit(strategy, folders[1], slowly=False, resumes=there))
