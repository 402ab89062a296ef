"""A search whose processes are killed at random moments does every trial once, from its last checkpoint."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from lightning_optreg.studies.plan import Run
from lightning_optreg.studies.run_queue import Queue
from lightning_optreg.studies.runner import do_run
from lightning_optreg.studies.search import Search
from lightning_optreg.studies.search_file import read_search
from tests.studies.servers import NO_POSTGRESQL, postgresql
from tests.studies.test_kills import alive, children, wait_for
from tests.studies.tools import softmax_regression

optuna = pytest.importorskip("optuna", reason="the extra 'tune' is not installed")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are looked up in /proc"),
]

KILLS = int(os.environ.get("OPTREG_FAULTS", "20"))
EPOCHS = 30


class Tuning:
    """A search by two processes, which gets more trials as long as it is disturbed."""

    def __init__(self, data: Path, folder: Path, storage: str) -> None:
        self.path, self.storage, self.folder = folder / "study.yaml", storage, folder
        self.out = folder / "out"
        self.study = {
            "name": "small",
            "base": [{**softmax_regression(data, batch_size=16), "optimizer": {"class_path": "SGD"}}],
            "epochs": EPOCHS,
            "metric": "val/loss",
            "search": {"optimizer.init_args.lr": {"low": 0.001, "high": 0.1, "log": True}},
            "pruner": "none",
            "trials": 0,
        }
        self.process: subprocess.Popen[bytes] | None = None
        self.queues: list[Queue[Search]] = []
        self.add_trials()

    def add_trials(self) -> None:
        self.study["trials"] = int(str(self.study["trials"])) + 8
        self.path.write_text(yaml.safe_dump(self.study, sort_keys=False))

    def start(self) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", "lightning_optreg", "tune", "--config", str(self.path)]
        command += ["--output", str(self.out), "--storage", self.storage]
        command += ["--workers", "2", "--oversubscribe"]
        with open(self.folder / "said.txt", "ab") as said:
            self.process = subprocess.Popen(command, stdout=said, stderr=said)
        return self.process

    def wait_for_workers(self) -> None:
        process = self.process
        assert process is not None
        wait_for(lambda: children(process.pid) or process.poll() is not None)

    def wait_for_a_trial(self) -> None:
        """Wait until a worker of the command has begun one: on a busy machine their imports take long."""
        process, queue = self.process, self.queue()
        assert process is not None

        def begun() -> bool:
            running = [trial for trial in queue._trials() if trial.state.name == "RUNNING"]
            owners = {trial.user_attrs.get("worker", {}).get("pid") for trial in running}
            return process.poll() is not None or not owners.isdisjoint(children(process.pid))

        wait_for(begun)

    def queue(self) -> Queue[Search]:
        self.queues.append(Queue(read_search(self.path), self.storage))
        return self.queues[-1]

    def close(self) -> None:
        """Cut connections to a server before it ends."""
        for queue in self.queues:
            backend = getattr(queue._study._storage, "_backend", None)
            if isinstance(backend, optuna.storages.RDBStorage):
                backend.engine.dispose()


@pytest.fixture(params=["sqlite", "journal", "postgresql"])
def tuning(request: pytest.FixtureRequest, fashion_mnist_dir: Path, tmp_path: Path) -> Iterator[Tuning]:
    if request.param == "postgresql":
        if NO_POSTGRESQL:
            pytest.skip(NO_POSTGRESQL)
        with postgresql() as storage:
            yield from _ended(Tuning(fashion_mnist_dir, tmp_path, storage))
        return
    path = tmp_path / "study"
    yield from _ended(Tuning(fashion_mnist_dir, tmp_path, f"{request.param}:///{path}"))


def _ended(it: Tuning) -> Iterator[Tuning]:
    yield it
    it.close()
    if it.process is not None:
        for pid in [*children(it.process.pid), it.process.pid]:
            if alive(pid):
                os.kill(pid, signal.SIGKILL)
        it.process.wait()


def wait_for_the_end(processes: list[int]) -> None:
    wait_for(lambda: not any(map(alive, processes)))


def test_no_trial_is_lost_or_counted_twice(tuning: Tuning, tmp_path: Path) -> None:
    moments = random.Random(0)
    process, kills = tuning.start(), 0
    while kills < KILLS:
        tuning.wait_for_workers()
        if kills % 4:  # else at any moment, also before the first trial
            tuning.wait_for_a_trial()
        time.sleep(moments.uniform(0.0, 6.0))
        workers = children(process.pid)
        if process.poll() is None and workers:
            victim = moments.choice([process.pid, *workers])
            os.kill(victim, signal.SIGKILL)
            kills += 1
            if victim != process.pid and moments.random() < 0.5:
                continue  # the others go on
            process.kill()
        process.wait()
        wait_for_the_end(workers)  # they end when their parent does
        if not tuning.queue().unfinished():
            tuning.add_trials()
        process = tuning.start()
    deadline = time.monotonic() + 600
    while process.wait() != 0:  # a killed worker ends the command with 1 even if the rest is done
        assert time.monotonic() < deadline
        process = tuning.start()
    queue = tuning.queue()
    records = queue.records()
    trials = queue.plan.size
    assert trials is not None
    assert [record.value for record in records] == list(range(trials))
    assert {record.status for record in records} == {"complete"}
    for record in records:
        assert [point.epoch for point in record.points] == [epoch + 1.0 for epoch in range(EPOCHS)]
    states = [trial.state.name for trial in queue._trials()]
    assert states.count("COMPLETE") == trials
    assert set(states) <= {"COMPLETE", "FAIL"}
    assert "FAIL" in states
    check_resumed(queue, tmp_path)


def check_resumed(queue: Queue[Search], folder: Path) -> None:
    """A trial that was done in pieces has the metrics of one that was not."""
    attempts = [trial.user_attrs["run"][1] for trial in queue._trials() if "run" in trial.user_attrs]
    broken = max(set(attempts), key=attempts.count)
    assert attempts.count(broken) > 1
    run, plan = Run("trial", broken, 0), queue.plan
    trial = queue.results()[run]
    straight = do_run(plan, run, plan.settings(trial.params), folder / "straight")
    (record,) = [record for record in queue.records() if record.value == broken]
    assert [point.metrics for point in record.points] == [point.metrics for point in straight.points]
    assert record.test == straight.test
