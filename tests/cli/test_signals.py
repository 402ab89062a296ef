"""A fit in two processes that gets a signal from outside: it ends in time, and `auto` goes on exactly."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.cli.kill_tools import options, outcome
from tests.resume_tools import assert_identical

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="finds the processes of a run in /proc"),
    pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="this build of torch has no gloo"),
]

BOUND = 60.0  # seconds from the signal to the end of all, on a busy machine; one or two are usual
PATIENCE = 180.0  # seconds until training begins, or a run is through


class Run:
    """A fit in two processes, as from a shell, in a process group of its own."""

    def __init__(self, data: Path, root: Path, strategy: str, *more: str) -> None:
        self.root = root
        root.mkdir(exist_ok=True)
        command = [sys.executable, "-m", "lightning_optreg", "fit", *options(data, root)]
        command += [
            f"--trainer.strategy={strategy}",
            "--trainer.devices=2",
            "--oversubscribe=true",
            "--trainer.accelerator=cpu",
        ]
        command += ["--data.batch_size=16", *more]
        self.messages = root.parent / f"{root.name}-messages.txt"
        with self.messages.open("a") as messages:
            self.process = subprocess.Popen(command, stderr=messages, stdout=messages, start_new_session=True)
        self.pid = self.process.pid

    def until_it_trains(self) -> int:
        """Wait for the first checkpoint, and return the number of a process that Lightning has started."""
        end = time.monotonic() + PATIENCE
        while not list(self.root.rglob("last.ckpt")):
            assert time.monotonic() < end, self.messages.read_text()
            assert self.process.poll() is None, self.messages.read_text()
            time.sleep(0.01)
        return max(pid for pid in self.alive() if pid != self.pid)

    def alive(self) -> list[int]:
        """The processes of the group."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue  # it has just ended
            if fields[0] != "Z" and int(fields[2]) == self.pid:  # state and process group
                found.append(int(folder.name))
        return found

    def end(self, bound: float = BOUND) -> int:
        """Return the exit status when all have ended; kill those that don't, and fail."""
        try:
            status = self.process.wait(bound)
            end = time.monotonic() + bound
            while (left := self.alive()) and time.monotonic() < end:
                time.sleep(0.05)
        except subprocess.TimeoutExpired:
            status, left = 0, self.alive()
        if left:
            os.killpg(self.pid, signal.SIGKILL)
            self.process.wait()
            pytest.fail(f"{len(left)} processes did not end in {bound:g} s: {self.messages.read_text()}")
        return status


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory, fashion_mnist_dir: Path) -> dict[str, Any]:
    """What a run comes to that nobody disturbs."""
    run = Run(fashion_mnist_dir, tmp_path_factory.mktemp("straight") / "runs", "ddp_fork")
    assert run.end(PATIENCE) == 0, run.messages.read_text()
    return outcome(run.root)


Send = Callable[[int, int], None]


def to_the_parent(parent: int, child: int) -> None:
    os.kill(parent, signal.SIGTERM)


def to_a_child(parent: int, child: int) -> None:
    os.kill(child, signal.SIGTERM)


def to_all(parent: int, child: int) -> None:
    os.killpg(parent, signal.SIGTERM)


def to_all_twice(parent: int, child: int) -> None:
    os.killpg(parent, signal.SIGTERM)
    time.sleep(0.05)
    os.killpg(parent, signal.SIGTERM)


def killing_the_parent(parent: int, child: int) -> None:
    os.kill(parent, signal.SIGKILL)


def killing_a_child(parent: int, child: int) -> None:
    os.kill(child, signal.SIGKILL)


def check(strategy: str, send: Send, folder: Path, data: Path, straight: dict[str, Any]) -> None:
    run = Run(data, folder / "runs", strategy)
    send(run.pid, run.until_it_trains())
    status = run.end()
    text = run.messages.read_text()
    if send is killing_the_parent:
        assert status == -signal.SIGKILL
    elif send is killing_a_child:
        assert status != 0
    else:
        assert status == 143, text
        assert text.count("error: stopped by SIGTERM\n") == 1, text
        assert text.count("continue with ckpt_path=") == 1, text
        assert "Traceback" not in text
    saved = torch.load(folder / "runs/version_0/checkpoints/last.ckpt", weights_only=True)
    assert saved["global_step"] < 4 * 17, "it was stopped in time"
    again = Run(data, folder / "runs", strategy, "--ckpt_path=auto")
    assert again.end(PATIENCE) == 0, again.messages.read_text()
    assert [path.name for path in run.root.iterdir()] == ["version_0"]
    assert_identical(straight, outcome(run.root))


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "send"), [("ddp", to_a_child), ("ddp_fork", to_the_parent)])
def test_a_signal_to_one_process_stops_the_run(
    strategy: str, send: Send, tmp_path: Path, fashion_mnist_dir: Path, straight: dict[str, Any]
) -> None:
    check(strategy, send, tmp_path, fashion_mnist_dir, straight)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "ddp_fork"])
@pytest.mark.parametrize(
    "send", [to_the_parent, to_a_child, to_all, to_all_twice, killing_the_parent, killing_a_child]
)
def test_any_signal_stops_the_run(
    strategy: str, send: Send, tmp_path: Path, fashion_mnist_dir: Path, straight: dict[str, Any]
) -> None:
    check(strategy, send, tmp_path, fashion_mnist_dir, straight)
