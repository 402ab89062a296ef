"""A study whose processes are killed, stopped and told to end goes on where it was."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import yaml

from lightning_optreg.studies import signs_of_life
from lightning_optreg.studies.plan import Run, StudyPlan
from lightning_optreg.studies.plan_file import read_plan
from lightning_optreg.studies.run_queue import Queue
from tests.studies.tools import claimed, record, softmax_regression

pytest.importorskip("optuna", reason="the extra 'tune' is not installed")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are looked up in /proc"),
]

ERROR = "error: stopped by {}; the same command goes on where it stopped\n"


class Study:
    """Two runs that take longer than any test."""

    def __init__(self, data: Path, folder: Path) -> None:
        self.path, self.out = folder / "study.yaml", folder / "out"
        study = {
            "name": "small",
            "base": [softmax_regression(data)],
            "epochs": 100_000,
            "seeds": [0],
            "values": [0.01, 0.1],
            "methods": {"SGD": {"optimizer": {"class_path": "SGD"}}},
        }
        self.path.write_text(yaml.safe_dump(study))
        self.processes: list[subprocess.Popen[str]] = []

    def start(self, workers: int) -> "subprocess.Popen[str]":
        command = [sys.executable, "-m", "lightning_optreg", "compare", "--config", str(self.path)]
        command += ["--output", str(self.out), "--workers", str(workers), "--oversubscribe"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.processes.append(process)
        return process

    def checkpoints(self) -> list[Path]:
        return sorted(self.out.rglob("last.ckpt"))

    def steps(self) -> list[int]:
        return [torch.load(path, weights_only=True)["global_step"] for path in self.checkpoints()]

    def queue(self) -> Queue[StudyPlan]:
        return Queue(read_plan(self.path), f"sqlite:///{self.out / 'study.db'}")

    def states(self) -> list[str]:
        return [trial.state.name for trial in self.queue()._trials()]


@pytest.fixture
def study(fashion_mnist_dir: Path, tmp_path: Path) -> Iterator[Study]:
    it = Study(fashion_mnist_dir, tmp_path)
    yield it
    for process in it.processes:
        for pid in [*children(process.pid), process.pid]:
            if alive(pid):
                os.kill(pid, signal.SIGKILL)
        process.communicate()


def children(pid: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[1]) == pid:
            found.append(int(stat.parent.name))
    return found


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def wait_for(what: Callable[[], object], seconds: float = 600.0) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_killed_process_leaves_its_run_to_the_next(study: Study) -> None:
    process = study.start(workers=1)
    wait_for(study.checkpoints)
    process.kill()
    process.wait()
    queue = study.queue()
    assert [claimed(queue).run.value for _ in range(2)] == [0.1, 0.01]  # what was left behind comes last
    assert study.states() == ["FAIL", "RUNNING", "RUNNING"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_to_the_first_process_ends_all_in_order(study: Study, number: signal.Signals) -> None:
    process = study.start(workers=2)
    wait_for(lambda: len(study.checkpoints()) == 2)
    workers = children(process.pid)
    assert len(workers) == 2
    process.send_signal(number)
    _, said = process.communicate(timeout=600)
    assert process.returncode == 128 + number
    assert said == ERROR.format(number.name)
    assert not any(map(alive, workers))
    assert study.states() == ["FAIL", "FAIL"]  # given back
    before = study.steps()
    # The next start goes on from there.
    process = study.start(workers=2)
    wait_for(lambda: study.steps() > before)
    assert min(study.steps()) >= min(before)
    assert len(list(study.out.rglob("version_*"))) == 2
    process.send_signal(number)
    process.communicate(timeout=600)


def test_a_signal_to_the_only_process_ends_its_run_in_order(study: Study) -> None:
    process = study.start(workers=1)
    wait_for(study.checkpoints)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=600)
    assert (process.returncode, said) == (130, ERROR.format("SIGINT"))
    assert study.states() == ["FAIL", "WAITING"]


def test_processes_end_in_order_when_the_first_is_killed(study: Study) -> None:
    process = study.start(workers=2)
    wait_for(lambda: len(study.checkpoints()) == 2)
    workers = children(process.pid)
    process.kill()
    process.wait()
    wait_for(lambda: not any(map(alive, workers)))
    assert study.states() == ["FAIL", "FAIL"]


def test_a_process_that_was_stopped_comes_back_to_a_run_that_was_taken_over(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = study.start(workers=1)
    wait_for(study.checkpoints)
    process.send_signal(signal.SIGSTOP)
    now = 0.0
    monkeypatch.setattr(signs_of_life, "_now", lambda: now)
    queue = study.queue()
    other = claimed(queue)
    queue.finish(other, record(other.run))
    while (taken := queue.claim()) is None and now < 100.0:
        now += 10.0
    assert taken is not None
    assert taken.run == Run("SGD", 0.01, 0)
    queue.finish(taken, record(taken.run))
    step = study.steps()
    process.send_signal(signal.SIGCONT)
    _, said = process.communicate(timeout=600)  # it finds nothing left to do, and makes the report
    assert process.returncode == 0
    assert said == (
        "SGD, learning rate 0.01, seed 0: given to another process, because this one had shown no sign "
        "of life; left to that process\n"
    )
    assert [r.points[0].metrics["val/accuracy"] for r in study.queue().records()] == [0.5, 0.5]
    assert study.steps() >= step
