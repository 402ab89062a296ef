"""A note in an object store reserves a run as a lock does on a disk, as far as it can."""

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from lightning_optreg.places import UrlPath
from lightning_optreg.runs import run_lease
from lightning_optreg.runs.ownership import this_process
from lightning_optreg.runs.run_folder import claim_version, versions
from lightning_optreg.runs.run_lease import RunLease
from lightning_optreg.runs.run_lock import RunInUseError
from tests.places.tools import memory


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (("LEASE", 0.5), ("SIGN_EVERY", 0.1), ("_LOOK_EVERY", 0.05), ("_SETTLE", 0.2)):
        monkeypatch.setattr(run_lease, name, seconds)


def note(folder: UrlPath, **changes: object) -> UrlPath:
    """Leave a note of another process."""
    path = UrlPath(f"{folder}/run.lock")
    content = {**this_process()._asdict(), "purpose": "fit", "word": "another", "signs": 1, **changes}
    path.write_bytes(json.dumps(content).encode())
    return path


def test_every_process_gets_a_version_of_its_own() -> None:
    root = memory()
    with ThreadPoolExecutor(8) as pool:
        claimed = {str(folder) for folder in pool.map(lambda _: claim_version(root), range(8))}
    assert claimed == {str(root / f"version_{number}") for number in range(8)}
    assert [folder.name for folder in versions(root)][:2] == ["version_7", "version_6"]


def test_who_made_the_folder_gets_the_lease_and_nobody_else() -> None:
    folder = claim_version(memory())
    assert isinstance(folder, UrlPath)
    lease = RunLease(folder, "fit")
    lease.acquire()
    with pytest.raises(RunInUseError, match=rf"{folder} is in use by process \d+ on .* \(fit\)"):
        RunLease(folder, "test").acquire()
    lease.release()
    assert not folder.exists()
    RunLease(folder, "test").acquire()


def test_a_dead_process_of_this_machine_blocks_nobody() -> None:
    folder = memory()
    note(folder, began="1")  # its number is a living one's, as always in containers
    begin = time.monotonic()
    lease = RunLease(folder, "fit")
    lease.acquire()
    assert time.monotonic() - begin < run_lease.LEASE
    lease.release()


def test_another_machine_s_note_counts_as_long_as_it_is_renewed() -> None:
    folder, end = memory(), threading.Event()

    def renew() -> None:
        number = 1
        while not end.wait(0.1):
            note(folder, system="another", host="far", pid=12, signs=(number := number + 1))

    note(folder, system="another", host="far", pid=12)
    other = threading.Thread(target=renew)
    other.start()
    try:
        with pytest.raises(RunInUseError, match=r"process 12 on far \(fit\)"):
            RunLease(folder, "fit").acquire()
    finally:
        end.set()
        other.join()
    begin = time.monotonic()
    lease = RunLease(folder, "fit")
    lease.acquire()  # it has died
    assert time.monotonic() - begin >= run_lease.LEASE
    lease.release()


def test_the_holder_renews_its_note_and_notices_that_it_lost_it() -> None:
    folder = memory()
    lease = RunLease(folder, "fit")
    lease.acquire()
    first = lease.path.read_bytes()
    time.sleep(0.3)
    assert lease.path.read_bytes() != first
    note(folder)
    with pytest.warns(UserWarning, match=r"is now that of process .*: this process should be stopped"):
        time.sleep(0.3)
    lease.release()
    assert b"another" in lease.path.read_bytes(), "the note of the other one stays"


def test_a_damaged_note_is_somebody_s_until_the_lease_is_over() -> None:
    folder = memory()
    UrlPath(f"{folder}/run.lock").write_bytes(b"{")
    lease = RunLease(folder, "fit")
    lease.acquire()
    lease.release()
