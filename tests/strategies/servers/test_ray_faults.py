"""SIGKILL of a worker, a server and worker 0 at random moments: no hang, no orphan, no damaged checkpoint."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException

from lightning_optreg.callbacks import ExactResume
from lightning_optreg.strategies import AsyncElasticAveraging, Downpour
from lightning_optreg.strategies.servers._ray_cluster import ray_for
from lightning_optreg.strategies.servers._ray_crew import ServerDiedError
from tests.strategies.servers.ray_runs import BATCH, SAMPLES, fit, taken

pytestmark = [pytest.mark.slow, pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed")]

TIMES = int(os.environ.get("OPTREG_FAULTS", "20"))
EACH = SAMPLES // BATCH // 2
MARK = "OPTREG_FAULT_TEST"

every_strategy = pytest.mark.parametrize("kind", [Downpour, AsyncElasticAveraging])
SHARDS = {Downpour: "DownpourShard", AsyncElasticAveraging: "ElasticShard"}  # names of processes
of_times = pytest.mark.parametrize("number", range(TIMES))


@pytest.fixture(scope="module")
def marked() -> Iterator[str]:
    """A mark in the environment of all processes that this module starts, so that no other is killed."""
    mark = os.environ[MARK] = uuid.uuid4().hex
    yield mark
    del os.environ[MARK]


@pytest.fixture(scope="module")
def module_ray(marked: str) -> Iterator[Any]:
    with ray_for(2, None, gpus=[], payload=0) as ray:
        yield ray


def processes(mark: str, title: str = "") -> list[int]:
    """Processes with the mark in their environment, and a title."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            environment = (folder / "environ").read_bytes()
            line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        if f"{MARK}={mark}".encode() in environment and title in line and int(folder.name) != os.getpid():
            found.append(int(folder.name))
    return found


def in_a_while(action: Any, folder: Path, worker: int, after: float) -> threading.Thread:
    """Act some seconds after a worker's first batch."""

    def wait() -> None:
        file = folder / f"worker{worker}.txt"
        while not file.exists():
            time.sleep(0.02)
        time.sleep(after)
        action()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def whole(folder: Path) -> None:
    """Every checkpoint can be read."""
    for path in folder.glob("*.ckpt"):
        saved = torch.load(path, weights_only=True)
        (state,) = (saved[kind.key] for kind in (Downpour, AsyncElasticAveraging) if kind.key in saved)
        assert state["updates"] > 0


@every_strategy
@of_times
def test_a_worker_dies(number: int, kind: Any, module_ray: Any, tmp_path: Path) -> None:
    """It goes on, and all steps are made."""

    def kill() -> None:
        os.kill(taken(tmp_path, 1)[-1][0], signal.SIGKILL)

    thread = in_a_while(kill, tmp_path, 1, random.Random(number).uniform(0, 1.5))
    with pytest.warns(UserWarning, match="worker 1 died .* and is started again; it goes on in epoch"):
        trainer = fit(tmp_path, kind(timeout=300), epochs=3, pause=0.03)
    thread.join()
    assert trainer.global_step == 3 * 2 * EACH
    whole(tmp_path)


@every_strategy
@of_times
def test_a_server_dies(number: int, kind: Any, marked: str, module_ray: Any, tmp_path: Path) -> None:
    """The run ends within seconds with a message; the last checkpoint continues it."""
    killed: list[float] = []

    def kill() -> None:
        killed.append(time.monotonic())
        for process in processes(marked, f"ray::{SHARDS[kind]}"):
            os.kill(process, signal.SIGKILL)

    thread = in_a_while(kill, tmp_path, 0, random.Random(number).uniform(0.5, 3))
    with pytest.raises(ServerDiedError, match="a server died, and its parameters with it; continue from"):
        fit(tmp_path, kind(timeout=300), epochs=100, pause=0.03)
    thread.join()
    print(f"ended after {time.monotonic() - killed[0]:.1f} s")  # for pytest -s
    assert time.monotonic() - killed[0] < 30
    whole(tmp_path)
    saved = sorted(tmp_path.glob("*.ckpt"), key=lambda path: path.stat().st_mtime)
    if saved and number == 0:
        before = torch.load(saved[-1], weights_only=True)
        trainer = fit(
            tmp_path, kind(timeout=300), epochs=before["epoch"] + 2, ckpt_path=saved[-1], pause=0.03
        )
        # Each worker makes up for what it had not done.
        assert trainer.global_step == (before["epoch"] + 2) * 2 * EACH


@every_strategy
@of_times
def test_worker_0_dies(number: int, kind: Any, tmp_path: Path) -> None:
    """With it ends all that it has started, Ray too: at odd numbers while worker 1 trains."""
    mark = uuid.uuid4().hex
    program = [sys.executable, "-m", "tests.strategies.servers.ray_runs"]
    command = [*program, str(tmp_path), kind.__name__, "1000"]
    with (tmp_path / "log").open("w") as log:
        run = subprocess.Popen(command, env={**os.environ, MARK: mark}, stdout=log, stderr=log)
    end = time.monotonic() + 300
    while not (tmp_path / f"worker{number % 2}.txt").exists():
        assert run.poll() is None, (tmp_path / "log").read_text()
        assert time.monotonic() < end
        time.sleep(0.05)
    time.sleep(random.Random(number).uniform(0, 5))
    run.kill()
    run.wait()
    killed = time.monotonic()
    while processes(mark):
        assert time.monotonic() - killed < 30, processes(mark)
        time.sleep(0.1)
    print(f"ended after {time.monotonic() - killed:.1f} s")  # for pytest -s
    whole(tmp_path)


def test_sigterm_to_the_process_group(tmp_path: Path) -> None:
    """As from `timeout`: the servers live until worker 0 has saved what they have."""
    mark = uuid.uuid4().hex
    command = [sys.executable, "-m", "tests.strategies.servers.ray_runs", str(tmp_path), "Downpour", "1000"]
    with (tmp_path / "log").open("w") as log:
        run = subprocess.Popen(
            command, env={**os.environ, MARK: mark}, stdout=log, stderr=log, start_new_session=True
        )
    while not (tmp_path / "worker1.txt").exists():
        assert run.poll() is None, (tmp_path / "log").read_text()
        time.sleep(0.05)
    time.sleep(1.0)
    told = time.monotonic()
    os.killpg(run.pid, signal.SIGTERM)
    assert run.wait(60) == 128 + signal.SIGTERM, (tmp_path / "log").read_text()
    while processes(mark):
        assert time.monotonic() - told < 60, processes(mark)
        time.sleep(0.1)
    print(f"ended after {time.monotonic() - told:.1f} s")  # for pytest -s
    message = (tmp_path / "log").read_text()
    assert "ExactResume: stopped by SIGTERM; continue with" in message
    assert "died" not in message
    # ExactResume saves where the first ModelCheckpoint does
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    # the servers may get a few steps more of worker 1 before they tell what they have
    more = sum(saved["optreg_downpour"]["ledger"]["steps"].values()) - saved["global_step"]
    assert 0 <= more < EACH


class Told(Callback):
    """SIGTERM comes in worker 0's last batch of all, once worker 1 has begun, which takes its time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        if trainer.global_rank == 1:
            time.sleep(1.5)
        last = trainer.current_epoch + 1 == trainer.max_epochs and trainer.is_last_batch
        if trainer.global_rank == 0 and last:
            while not (self.folder / "worker1.txt").exists() or len(taken(self.folder, 1)) < 3:
                time.sleep(0.05)
            self.at = time.monotonic()
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.filterwarnings(
    "ignore:You're resuming from a checkpoint", "ignore:You defined a `validation_step`"
)
@pytest.mark.parametrize("validated", [True, False])
def test_sigterm_while_worker_0_waits_for_the_others_last_steps(
    validated: bool, module_ray: Any, tmp_path: Path
) -> None:
    """It waits no longer, and a resumed run makes their steps."""
    told = Told(tmp_path)
    options: dict[str, Any] = {"epochs": 1, "validated": validated}
    with pytest.raises(SIGTERMException):
        fit(tmp_path, Downpour(timeout=300), callbacks=[told, ExactResume()], pause=0.2, **options)
    assert time.monotonic() - told.at < 15.0
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)["optreg_downpour"]["ledger"]["steps"]
    assert saved[0] == EACH
    assert saved.get(1, 0) < EACH
    again = fit(
        tmp_path,
        Downpour(timeout=300),
        callbacks=[ExactResume()],
        ckpt_path=tmp_path / "last.ckpt",
        **options,
    )
    assert again.global_step == 2 * EACH
    assert {batch for _, _, batch, _ in taken(tmp_path, 1)} == set(range(EACH))
    assert len(taken(tmp_path, 0)) == EACH
    assert ("val_loss" in again.callback_metrics) == validated
