"""A run that is killed at any moment and resumed ends with the weights of one that was left alone."""

import os
import random
import signal
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.cli.kill_tools import finish, options, outcome, start
from tests.resume_tools import assert_identical

pytestmark = [
    pytest.mark.usefixtures("blank_curves"),
    pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked to spare their start-up"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork.*:DeprecationWarning"),
]

KILLS = 1  # test_many_kills.py has 200


class LeftAlone(NamedTuple):
    """What a run that nobody disturbed ended with, and how long it took."""

    outcome: dict[str, object]
    duration: float


@pytest.fixture(scope="module")
def left_alone(fashion_mnist_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> LeftAlone:
    root = tmp_path_factory.mktemp("left_alone")
    begin = time.monotonic()
    finish(start(options(fashion_mnist_dir, root)))
    return LeftAlone(outcome(root), time.monotonic() - begin)


def disturb(data: Path, root: Path, sign: signal.Signals, wait: float) -> tuple[int | None, bool]:
    """Send a run a signal, finish it from its last checkpoint; return its exit code and if there was one."""
    process = start(options(data, root))
    time.sleep(wait)
    if process.pid is not None and process.is_alive():
        os.kill(process.pid, sign)
    process.join()
    has_checkpoint = bool(list(root.glob("version_*/checkpoints/last.ckpt")))
    finish(start([*options(data, root), *(["--ckpt_path=last"] if has_checkpoint else [])]))
    return process.exitcode, has_checkpoint


def test_sigkill_at_a_random_moment(fashion_mnist_dir: Path, tmp_path: Path, left_alone: LeftAlone) -> None:
    seed = random.randrange(2**32)
    moments = random.Random(seed)
    resumed = 0
    for number in range(KILLS):
        root = tmp_path / f"killed_{number}"
        wait = moments.uniform(0.4, 1.0) * left_alone.duration
        _, has_checkpoint = disturb(fashion_mnist_dir, root, signal.SIGKILL, wait)
        resumed += has_checkpoint
        assert_identical(left_alone.outcome, outcome(root), f"kill {number}, seed {seed}: ")
        assert not list(root.rglob("*.tmp*")), "nothing half-written is left behind"
    assert resumed > 0


@pytest.mark.slow
def test_sigterm_leaves_a_resumable_checkpoint(
    fashion_mnist_dir: Path, tmp_path: Path, left_alone: LeftAlone
) -> None:
    codes = set()
    for number, share in enumerate((0.7,)):
        root = tmp_path / f"stopped_{number}"
        code, has_checkpoint = disturb(fashion_mnist_dir, root, signal.SIGTERM, share * left_alone.duration)
        codes.add(code)
        assert has_checkpoint or code in (0, -signal.SIGTERM)  # too late, or before Lightning listens
        assert_identical(left_alone.outcome, outcome(root), f"after {share} of the time: ")
    assert codes <= {0, 143, -signal.SIGTERM}
