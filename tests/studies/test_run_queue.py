"""Runs change hands when their process is gone, and never have two that write."""

import sqlite3
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from lightning_optreg.studies import run_queue, signs_of_life
from lightning_optreg.studies.access import StorageUnavailableError
from lightning_optreg.studies.signs_of_life import RunLostError, Sight
from tests.studies.tools import claimed, die, queue, record

pytest.importorskip("optuna", reason="the extra 'tune' is not installed")


def states(path: Path) -> list[str]:
    with sqlite3.connect(path / "study.db") as database:
        return [state for (state,) in database.execute("select state from trials order by number")]


class Clock:
    """The clock by which a process waits for signs of life."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.time = 0.0
        monkeypatch.setattr(signs_of_life, "_now", lambda: self.time)


def test_a_run_whose_process_has_ended_is_given_to_the_next(tmp_path: Path) -> None:
    first, second = queue(tmp_path), queue(tmp_path)
    first.fill()
    lost = claimed(first)
    die(lost)
    assert [run.state for run in second.unfinished()] == ["waiting", "waiting"]
    runs = []
    while (claim := second.claim()) is not None:
        runs.append(claim.run)
        second.finish(claim, record(claim.run))
    assert sorted(runs) == sorted(second.plan.runs)  # no new start was needed
    assert second.unfinished() == []
    # It was not dead after all, and comes back:
    assert not first.sign_of_life(lost)
    with pytest.raises(RunLostError):
        first.finish(lost, record(lost.run, accuracy=0.9))
    assert [r.points[0].metrics["val/accuracy"] for r in second.records()] == [0.5, 0.5]


def test_a_process_killed_before_its_first_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    first, second = queue(tmp_path), queue(tmp_path)
    first.fill()
    first._study.ask()
    assert claimed(second).run == second.plan.runs[1]
    assert second.claim() is None
    assert second.unproven() == ["an unknown process"]
    assert [run.state for run in second.unfinished()] == ["running", "running"]
    while (claim := second.claim()) is None and clock.time < 100.0:
        clock.time += 10.0
    assert claim is not None
    assert claim.run == second.plan.runs[0]
    assert 60.0 < clock.time < 90.0


def test_a_process_killed_between_its_result_and_the_end_of_its_trial(tmp_path: Path) -> None:
    first, second = queue(tmp_path), queue(tmp_path)
    first.fill()
    claim = claimed(first)
    claim.trial.set_user_attr("record", record(claim.run).to_dict())
    die(claim)
    second.fill()
    assert states(tmp_path) == ["COMPLETE", "WAITING"]
    assert [r.value for r in second.records()] == [claim.run.value]
    first.finish(claim, record(claim.run))  # as it is put down already


def test_a_silent_process_loses_its_run_and_what_it_says_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that was stopped for longer than its lease, or whose machine has no way to the database."""
    clock = Clock(monkeypatch)
    first, second = queue(tmp_path), queue(tmp_path)
    first.fill()
    lost, other = claimed(first), claimed(first)
    while (claim := second.claim()) is None and clock.time < 100.0:
        assert first.sign_of_life(other)  # by the same process: only silence counts
        clock.time += 10.0
    assert claim is not None
    assert claim.run == lost.run
    assert second.claim() is None
    assert not first.sign_of_life(lost)
    second.finish(claim, record(claim.run, accuracy=0.25))
    with pytest.raises(RunLostError):
        first.finish(lost, record(lost.run, accuracy=0.75))
    first.give_back(lost)
    assert [r.points[0].metrics["val/accuracy"] for r in second.records()] == [0.25]
    assert states(tmp_path) == ["FAIL", "RUNNING", "COMPLETE"]


def test_a_run_is_handed_out_after_two_looks_at_all_trials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look takes the longer the more runs are waiting: one before the run is asked for, one after."""
    it = queue(tmp_path)
    it.fill()
    look, looks = it._trials, 0

    def counted() -> Any:
        nonlocal looks
        looks += 1
        return look()

    monkeypatch.setattr(it, "_trials", counted)
    claim = claimed(it)
    assert looks == 2
    it.finish(claim, record(claim.run))
    assert len(it.records()) == 1
    assert looks == 3


def test_signs_of_life_may_bear_any_time(tmp_path: Path) -> None:
    """The clocks of two machines may differ by years, and be set back."""
    first, second = queue(tmp_path), queue(tmp_path)
    first.fill()
    claim = claimed(first)
    claim.trial.set_user_attr("alive", 2e9)
    assert claimed(second).run != claim.run
    assert second.claim() is None
    assert len(second.unproven()) == 1
    claim.trial.set_user_attr("alive", 1.0)
    assert second.claim() is None
    assert second.unproven() == []


def test_only_looks_that_follow_closely_count(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    sight = Sight(1.0)
    # At 100 s the database was away, or this process stopped: so may the other one have been.
    for clock.time in (10.0, 20.0, 30.0, 100.0, 110.0, 120.0, 130.0, 140.0, 150.0, 160.0):
        assert not sight.is_silent(1.0)
    clock.time = 161.0
    assert sight.is_silent(1.0)
    assert not sight.is_silent(2.0)
    assert sight.has_changed
    clock.time = 3600.0  # after an hour of work of its own it has to look anew
    assert not sight.is_silent(2.0)
    assert not sight.has_changed


class Outage:
    """Lets the database refuse every statement for some seconds."""

    def __init__(self, queue: run_queue.Queue, seconds: float) -> None:
        from sqlalchemy import event

        self.end = time.monotonic() + seconds
        self.refused = 0
        event.listen(queue._study._storage._backend.engine, "before_cursor_execute", self)  # type: ignore[attr-defined]

    def __call__(self, *_: Any) -> None:
        if time.monotonic() < self.end:
            self.refused += 1
            raise sqlite3.OperationalError("server closed the connection unexpectedly")


def test_a_data_base_that_restarts_is_waited_for(tmp_path: Path) -> None:
    it = queue(tmp_path)
    outage = Outage(it, 0.5)
    it.fill()
    assert outage.refused > 0
    claim = claimed(it)
    outage.end = time.monotonic() + 0.5
    assert it.sign_of_life(claim)  # not known: training goes on
    it.finish(claim, record(claim.run))
    assert len(it.records()) == 1
    assert states(tmp_path) == ["COMPLETE", "WAITING"]


def test_the_wait_for_a_data_base_ends(tmp_path: Path) -> None:
    it = queue(tmp_path, wait=0.3)
    it.fill()
    claim = claimed(it)
    Outage(it, 60.0)
    start = time.monotonic()
    with pytest.raises(StorageUnavailableError) as caught:
        it.finish(claim, record(claim.run))
    assert 0.3 <= time.monotonic() - start < 10.0
    message = str(caught.value)
    assert message.endswith("has not answered for 0.3 s (server closed the connection unexpectedly)")
    assert "\n" not in message
    it.give_back(claim)  # without a word, and without a wait


def test_a_locked_file_is_waited_for(tmp_path: Path) -> None:
    it = queue(tmp_path)
    other = sqlite3.connect(tmp_path / "study.db", check_same_thread=False)
    other.execute("begin exclusive")
    threading.Timer(0.5, other.rollback).start()
    it.fill()
    assert states(tmp_path) == ["WAITING", "WAITING"]
    other.close()


def test_an_answer_that_was_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The database has done what it was asked, and is gone before it says so."""
    from sqlalchemy.exc import OperationalError

    it = queue(tmp_path)
    it.fill()
    claim = claimed(it)
    tell = it._study.tell
    calls = []

    def told_and_gone(*args: Any, **kwargs: Any) -> Any:
        ended = tell(*args, **kwargs)
        calls.append(ended.state)
        if len(calls) == 1:
            raise OperationalError("commit", None, Exception("gone"))
        return ended

    monkeypatch.setattr(it._study, "tell", told_and_gone)
    it.finish(claim, record(claim.run))
    assert len(calls) == 2
    assert len(it.records()) == 1


def test_the_lock_of_the_file_dies_with_its_process(tmp_path: Path) -> None:
    it = queue(tmp_path)
    with it._locked():
        pass
    (tmp_path / "study.db.lock").touch()  # left behind
    it.fill()
    assert states(tmp_path) == ["WAITING", "WAITING"]


def test_tables_of_another_version_of_optuna(tmp_path: Path) -> None:
    queue(tmp_path)
    with sqlite3.connect(tmp_path / "study.db") as database:
        database.execute("update alembic_version set version_num = 'v9.9.9'")
    with pytest.raises(
        ValueError, match=r"^storage: sqlite:///\S+ can't be used: The runtime optuna version"
    ):
        queue(tmp_path)
