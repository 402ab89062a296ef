"""One process works in a run's folder, and its lock dies with it."""

import multiprocessing
import os
import time
from collections.abc import Callable
from multiprocessing.synchronize import Barrier as BarrierType
from pathlib import Path
from typing import Any

import pytest

from lightning_optreg.runs.run_folder import claim_version
from lightning_optreg.runs.run_lock import RunInUseError, RunLock

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked to spare their start-up"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork.*:DeprecationWarning"),
]

RACES = 20


def in_child(work: Callable[[], object]) -> int:
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return pid


def wait_for(path: Path) -> None:
    end = time.monotonic() + 30
    while not path.exists() and time.monotonic() < end:
        time.sleep(0.01)
    assert path.exists()


def kill(pid: int) -> None:
    os.kill(pid, 9)
    os.waitpid(pid, 0)


def test_the_second_is_told_who_holds_it(tmp_path: Path) -> None:
    lock = RunLock(tmp_path, "fit")
    lock.acquire()
    with pytest.raises(RunInUseError, match=rf"{tmp_path} is in use by process {os.getpid()} on \S+ \(fit\)"):
        RunLock(tmp_path, "test").acquire()
    lock.release()
    other = RunLock(tmp_path, "test")
    other.acquire()
    other.release()
    assert list(tmp_path.iterdir()) == []


def test_a_kill_ends_it(tmp_path: Path) -> None:
    def hold() -> None:
        RunLock(tmp_path, "fit").acquire()
        (tmp_path / "held").touch()
        time.sleep(60)

    pid = in_child(hold)
    try:
        wait_for(tmp_path / "held")
        with pytest.raises(RunInUseError, match=f"process {pid} "):
            RunLock(tmp_path, "fit").acquire()
    finally:
        kill(pid)
    assert (tmp_path / "run.lock").exists()
    lock = RunLock(tmp_path, "fit")
    lock.acquire()
    lock.release()


def test_a_forked_process_does_not_keep_it(tmp_path: Path) -> None:
    def hold() -> None:
        RunLock(tmp_path, "fit").acquire()
        worker = in_child(lambda: time.sleep(60))
        (tmp_path / "held").write_text(str(worker))
        (tmp_path / "ready").touch()
        time.sleep(60)

    pid = in_child(hold)
    wait_for(tmp_path / "ready")
    kill(pid)
    worker = int((tmp_path / "held").read_text())
    os.kill(worker, 0)  # it lives
    try:
        lock = RunLock(tmp_path, "fit")
        lock.acquire()
        lock.release()
    finally:
        os.kill(worker, 9)


def test_a_forked_process_does_not_end_it_either(tmp_path: Path) -> None:
    lock = RunLock(tmp_path, "fit")
    lock.acquire()
    os.waitpid(in_child(lambda: None), 0)
    with pytest.raises(RunInUseError):
        RunLock(tmp_path, "fit").acquire()
    lock.release()


def race(barrier: BarrierType, root: Path, results: Any) -> None:
    for number in range(RACES):
        barrier.wait(60)
        folder = claim_version(root)
        lock = RunLock(root, "fit")
        try:
            lock.acquire()
        except RunInUseError:
            results.put((number, folder.name, False))
            barrier.wait(60)
        else:
            results.put((number, folder.name, True))
            barrier.wait(60)
            lock.release()


def test_two_that_start_at_once_get_a_folder_each_and_one_gets_the_lock(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(2), context.Queue()
    processes = [context.Process(target=race, args=(barrier, tmp_path, results)) for _ in range(2)]
    for process in processes:
        process.start()
    found = [results.get(timeout=60) for _ in range(2 * RACES)]
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert len({folder for _, folder, _ in found}) == 2 * RACES
    for number in range(RACES):
        assert sorted(got for at, _, got in found if at == number) == [False, True], number
