"""200 kills in training, validation and the writing of checkpoints: nothing is lost by any of them."""

import multiprocessing
import os
import random
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from lightning_optreg.trust.torch_files import damage
from tests.cli.kill_tools import finish, options, outcome, start
from tests.resume_tools import assert_identical

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked to spare their start-up"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork.*:DeprecationWarning"),
]

KILLS = 200
SHARED_MEMORY = Path("/dev/shm")


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Path]:
    """A folder for temporary files on another file system than the runs."""
    if not SHARED_MEMORY.is_dir() or SHARED_MEMORY.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("/dev/shm is not a file system of its own here")
    with tempfile.TemporaryDirectory(dir=SHARED_MEMORY) as folder:
        yield Path(folder)


def large(data: Path, root: Path) -> list[str]:
    """Few steps of a network with a checkpoint of 20 MB, so that much of the time goes to writing it."""
    return [
        *options(data, root),
        "--model.net.hidden=[1000, 1000]",
        "--trainer.max_epochs=1",
        "--trainer.limit_train_batches=8",
        "--trainer.limit_val_batches=1",
        "--trainer.callbacks.every_n_train_steps=2",
        "--ckpt_path=auto",
    ]


def is_being_written(root: Path) -> bool:
    return any(root.glob("version_*/checkpoints/.*.tmp"))


def kill_in(root: Path, process: multiprocessing.Process, aim: str, wait: float) -> bool:
    """Kill a run within a write, or between two; tell whether it was within one."""
    end = time.monotonic() + 300
    while process.is_alive() and time.monotonic() < end:
        if is_being_written(root) if aim == "write" else any(root.glob("version_*/config*.yaml")):
            time.sleep(wait)
            break
        time.sleep(0.0005)
    while aim == "between" and process.is_alive() and is_being_written(root):
        time.sleep(0.0005)
    within = is_being_written(root)
    process.kill()
    process.join()
    return within


def test_nothing_is_lost(fashion_mnist_dir: Path, tmp_path: Path, elsewhere: Path) -> None:
    finish(start(large(fashion_mnist_dir, tmp_path / "left_alone")))
    wanted = outcome(tmp_path / "left_alone")
    seed = random.randrange(2**32)
    moments = random.Random(seed)
    met: Counter[str] = Counter()
    kills, run = 0, 0
    while kills < KILLS:
        root = tmp_path / f"run_{run}"
        run += 1
        had = 0
        for _ in range(moments.randint(3, 12)):  # kills of one run
            aim = moments.choice(["write", "between"])
            process = start(large(fashion_mnist_dir, root), elsewhere)
            within = kill_in(root, process, aim, moments.uniform(0, 0.04 if aim == "write" else 2.0))
            if process.exitcode == 0:
                break  # it was quicker
            assert process.exitcode == -signal.SIGKILL, f"kill {kills}, seed {seed}: {process.exitcode}"
            kills += 1
            met["within a write" if within else "elsewhere"] += 1
            found = list(root.glob("version_*/checkpoints/*.ckpt"))
            assert len(found) >= had, f"kill {kills}, seed {seed}: a checkpoint is gone"
            had = len(found)
            wrong = {path: damage(path) for path in found if damage(path) is not None}
            assert not wrong, f"kill {kills}, seed {seed}: {wrong}"
        print(f"{kills} kills: {dict(met)}", flush=True)  # seen with -s
        finish(start(large(fashion_mnist_dir, root), elsewhere))
        assert_identical(wanted, outcome(root), f"run {run}, seed {seed}: ")
        assert not list(root.rglob("*.tmp*")), "nothing half-written is left behind"
        folders = {path.parent for path in root.glob("version_*/checkpoints/*.ckpt")}
        assert len(folders) == 1, "once it had a checkpoint it went on in its folder"
    assert min(met["within a write"], met["elsewhere"]) >= KILLS / 5, met
    assert not list(elsewhere.iterdir())
