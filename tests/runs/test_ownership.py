"""A process is told apart from a later one of its number, and from those of other machines and containers."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lightning_optreg.runs import ownership
from lightning_optreg.runs.ownership import Owner, this_process

pytestmark = pytest.mark.skipif(os.name != "posix", reason="elsewhere no process can be looked up")


def owner_of(pid: int) -> Owner:
    return this_process()._replace(pid=pid, began=ownership._began(pid) or "")


def test_a_number_that_is_alive_again_is_another_process() -> None:
    me = this_process()
    assert not me.has_ended()
    assert me._replace(began="1").has_ended()
    assert Owner.from_dict(me._asdict()) == me


def test_a_number_of_another_table_says_nothing() -> None:
    """A container, a machine of the same name, the same machine before it was started anew."""
    me = this_process()
    for other in (me._replace(system="elsewhere"), me._replace(system=""), me._replace(began="")):
        assert not other._replace(pid=2**30).has_ended()
    assert me._replace(pid=2**30).has_ended()
    assert me._replace(host="renamed", began="1").has_ended()


def test_stopped_killed_and_not_yet_noticed() -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        owner = owner_of(child.pid)
        child.send_signal(signal.SIGSTOP)
        assert not owner.has_ended()
    finally:
        child.kill()
    end = time.monotonic() + 20
    while not owner.has_ended() and time.monotonic() < end:  # a zombie, as nobody has waited for it
        time.sleep(0.01)
    assert child.returncode is None
    assert owner.has_ended()
    child.wait()
    assert owner.has_ended()


def test_what_cannot_be_seen_has_not_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    me = this_process()

    def refuse(pid: int, number: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "kill", refuse)
    monkeypatch.setattr(ownership, "_began", lambda pid: None)  # /proc mounted with hidepid
    assert not me._replace(began="1").has_ended()


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="there is no /proc to be misled by")
def test_the_proc_of_another_container_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    me = this_process()
    monkeypatch.setattr(os, "readlink", lambda path: "1")
    assert this_process().system == ""
    assert not me._replace(began="1").has_ended()


def test_without_proc_the_program_ps_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(path: str) -> None:
        raise FileNotFoundError(path)

    monkeypatch.setattr(ownership, "open", missing, raising=False)
    monkeypatch.setattr(os.path, "exists", lambda path: False)
    monkeypatch.setattr(os, "readlink", missing)
    me = this_process()
    if not me.began:
        pytest.skip("there is no ps either")
    assert me.system == this_process().system != ""
    assert not me.has_ended()
    assert me._replace(began="Thu Jan 1 00:00:00 1970").has_ended()


@pytest.mark.parametrize(
    "plain", [3, {}, {"host": "a", "pid": 0}, {"host": 1, "pid": 1}, {"host": "a", "pid": 1, "began": 2}]
)
def test_what_is_no_process_is_refused(plain: object) -> None:
    with pytest.raises(ValueError, match="is not a process"):
        Owner.from_dict(plain)


def test_what_earlier_versions_wrote_is_read() -> None:
    assert Owner.from_dict({"host": "a", "pid": 1}) == Owner("a", "", 1, "")
