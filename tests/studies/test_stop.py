"""Processes that were started for a study end with it, in order if they can."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lightning_optreg.studies.stop import Stopped, StopRequest, stop_with_parent

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")

CHILD = """
import os, signal, sys, time
from pathlib import Path
from lightning_optreg.studies.stop import stop_with_parent
folder, stubborn = Path(sys.argv[1]), sys.argv[2] == "stubborn"
def end(number, frame):
    (folder / f"told{os.getpid()}").touch()
    if not stubborn:
        sys.exit(128 + number)
signal.signal(signal.SIGTERM, end)
stop_with_parent()
(folder / f"child{os.getpid()}").touch()
time.sleep(60)
time.sleep(60)
"""
PARENT = """
import os, sys
from lightning_optreg.studies.stop import StopRequest, run_processes
with StopRequest() as stop:
    run_processes([sys.executable, "-c", *sys.argv[1:]], 2, os.environ, stop)
"""


@pytest.fixture
def started(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator["subprocess.Popen[bytes]"]:
    command = [sys.executable, "-c", PARENT, CHILD, str(tmp_path), request.param]
    process = subprocess.Popen(command)
    wait_for(lambda: len(list(tmp_path.glob("child*"))) == 2)
    yield process
    process.kill()
    process.wait()
    for pid in pids(tmp_path, "child"):
        if alive(pid):
            os.kill(pid, signal.SIGKILL)


def pids(folder: Path, prefix: str) -> list[int]:
    return sorted(int(path.name.removeprefix(prefix)) for path in folder.glob(f"{prefix}*"))


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def wait_for(what: "object", seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not what():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize("started", ["obedient"], indirect=True)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_is_passed_on_and_waited_for(
    started: "subprocess.Popen[bytes]", number: signal.Signals, tmp_path: Path
) -> None:
    started.send_signal(number)
    assert started.wait(60) == 128 + number
    assert pids(tmp_path, "told") == pids(tmp_path, "child")
    assert not any(map(alive, pids(tmp_path, "child")))


@pytest.mark.parametrize("started", ["stubborn"], indirect=True)
def test_a_second_signal_kills(started: "subprocess.Popen[bytes]", tmp_path: Path) -> None:
    started.terminate()
    wait_for(lambda: len(pids(tmp_path, "told")) == 2)
    assert started.poll() is None
    started.terminate()
    assert started.wait(60) == 143
    assert not any(map(alive, pids(tmp_path, "child")))


@pytest.mark.parametrize("started", ["obedient"], indirect=True)
def test_a_parent_that_is_killed_takes_its_processes_along(
    started: "subprocess.Popen[bytes]", tmp_path: Path
) -> None:
    started.kill()
    started.wait()
    wait_for(lambda: not any(map(alive, pids(tmp_path, "child"))))
    assert pids(tmp_path, "told") == pids(tmp_path, "child")


def test_what_may_not_be_broken_off_is_not() -> None:
    with StopRequest() as stop:
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(Stopped) as caught:
            stop.check()
    assert (caught.value.code, caught.value.number) == (143, signal.SIGTERM)
    with StopRequest() as stop, stop.breaking_off(), pytest.raises(Stopped):
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) == signal.default_int_handler


def test_a_trainer_answers_to_all_signals() -> None:
    told = []
    with StopRequest() as stop, stop.breaking_off():
        ours = signal.signal(signal.SIGTERM, lambda number, frame: told.append(number))
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
        signal.signal(signal.SIGTERM, ours)
        assert told == [signal.SIGTERM, signal.SIGTERM]
        assert stop.number == signal.SIGINT


def test_a_second_signal_does_what_was_said() -> None:
    told = []
    with StopRequest() as stop:
        stop.second = lambda: told.append("again")
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.raise_signal(number)
    assert told == ["again"]
    assert stop.number == signal.SIGINT


def test_an_ignored_signal_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with StopRequest() as stop:
            signal.raise_signal(signal.SIGHUP)
            stop.check()
    finally:
        signal.signal(signal.SIGHUP, before)


LATE = """
import sys, time
from pathlib import Path
folder = Path(sys.argv[1])
(folder / "importing").touch()
while not (folder / "killed").exists():
    time.sleep(0.02)
from lightning_optreg.studies.stop import stop_with_parent
stop_with_parent()
time.sleep(40)
"""


def test_a_parent_that_is_killed_while_its_processes_import_takes_them_along(tmp_path: Path) -> None:
    """When they come to look for their parent, it has gone already."""
    command = [sys.executable, "-c", PARENT, LATE, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        wait_for((tmp_path / "importing").exists)
        process.kill()
        process.wait()
        (tmp_path / "killed").touch()
        ended = threading.Thread(target=process.stdout.read)  # its processes hold the pipe until they end
        ended.start()
        ended.join(20)
        in_time = not ended.is_alive()
        ended.join()
    assert in_time


def test_a_process_that_nobody_started_for_a_study_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LIGHTNING_OPTREG_STUDY_PARENT", raising=False)
    with pytest.raises(ValueError, match=r"^--worker: only compare itself starts worker processes"):
        stop_with_parent()
