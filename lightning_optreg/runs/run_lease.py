"""A lease on a run's folder in an object store, where there are no locks: a note that its holder renews."""

import json
import os
import threading
import time
import uuid
from typing import Any

from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from lightning_optreg.places import UrlPath
from lightning_optreg.runs.ownership import LEASE, SIGN_EVERY, Owner, this_process
from lightning_optreg.runs.run_lock import LOCK_FILE, RunInUseError

__all__ = ["RunLease", "claim"]

_LOOK_EVERY = 2.0
_SETTLE = 3.0  # seconds in which another process that takes the same note over would have written

_claimed: dict[str, str] = {}  # the words of folders that this process has made, and not leased yet


def claim(folder: UrlPath) -> None:
    """Make a run's folder by putting a note into it; of several processes one succeeds.

    Args:
        folder: The folder.

    Raises:
        FileExistsError: If another process has made it.
        OSError: If it can't be written to.
    """
    word = uuid.uuid4().hex
    (folder / LOCK_FILE).write_bytes(_note(word, "claim", 0), new=True)
    _claimed[str(folder)] = word


class RunLease:
    """What `RunLock` is on a disk: reserves a run's folder for one process as long as that lives.

    The note `run.lock` names its process, which renews it every 10 s. A process that finds the note of
    another one on the same machine can tell at once whether that lives. The note of another machine is
    watched: if it is renewed, the run is in use; if it stays as it is for 60 s, its process is taken for
    dead, and the note for left behind. Each process counts these seconds by itself, so clocks may differ.

    That is less than a lock. A process that was suspended for longer than that, or cut off from the store,
    and comes back finds that its note is another's: it warns, and should be stopped. If two processes find
    the same note of a dead one at the same moment, the later one gets the run.

    Args:
        folder: The run's folder.
        purpose: What the process does there, such as "fit", for the error in other processes.

    Example:
        >>> lease = RunLease(UrlPath("memory://docs/version_0"), "fit")
        >>> lease.acquire()
        >>> RunLease(UrlPath("memory://docs/version_0"), "fit").path.exists()
        True
        >>> lease.release()
        >>> lease.path.exists()
        False
    """

    def __init__(self, folder: UrlPath, purpose: str) -> None:
        self.folder, self.purpose = folder, purpose
        self.path = UrlPath(f"{folder}/{LOCK_FILE}")
        self._word = uuid.uuid4().hex
        self._signs = 0
        self._pid: int | None = None  # of the process that holds it
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="run-lease", daemon=True)

    def acquire(self) -> None:
        """Take the lease; waits up to a minute if another machine's process may still live.

        Raises:
            RunInUseError: If another process holds it; names the process and its machine.
            OSError: If the store can't be reached or written to.
        """
        while not self._take():
            pass
        self._pid = os.getpid()
        self._thread.start()

    def _take(self) -> bool:
        """Write the note if it is free; False if it has just changed."""
        found = self._read()
        if found is None:
            try:
                self._write(new=True)
            except FileExistsError:
                return False
            return True
        if _word_of(found) == _claimed.get(str(self.folder), ""):
            del _claimed[str(self.folder)]
            self._write()
            return True
        owner = _owner_of(found)
        if owner is None or not owner.has_ended():
            here = this_process().system
            lives = owner is not None and here != "" and owner.system == here
            if lives or (changed := self._watch(found)):
                raise RunInUseError(f"the run {self.folder} is in use by {_describe(found)}")
            if changed is None:
                return False
        self._write()
        time.sleep(_SETTLE)
        taken = self._read()
        if taken is None or _word_of(taken) != self._word:
            raise RunInUseError(f"the run {self.folder} is in use by {_describe(taken or b'')}")
        return True

    def _watch(self, found: bytes) -> bool | None:
        """Whether a note is renewed within the lease; None if it is removed."""
        rank_zero_info(
            f"{self.path} is a note of {_describe(found)}: waiting up to {LEASE:.0f} s for a sign of life"
        )
        end = time.monotonic() + LEASE
        while time.monotonic() < end:
            time.sleep(_LOOK_EVERY)
            now = self._read()
            if now is None:
                return None
            if now != found:
                return True
        return False

    def _read(self) -> bytes | None:
        try:
            return self.path.read_bytes()
        except FileNotFoundError:
            return None

    def _write(self, *, new: bool = False) -> None:
        self._signs += 1
        self.path.write_bytes(_note(self._word, self.purpose, self._signs), new=new)

    def _renew(self) -> None:
        while not self._end.wait(SIGN_EVERY):
            try:
                found = self._read()
                if found is None or _word_of(found) != self._word:
                    who = "was removed" if found is None else f"is now that of {_describe(found)}"
                    rank_zero_warn(
                        f"{self.path} {who}: this process should be stopped, as two may write to the run"
                    )
                    return
                self._write()
            except OSError:  # training goes on without the store, and the next sign may get through
                continue

    def release(self) -> None:
        """Remove the note; does nothing if this process doesn't hold the lease."""
        if self._pid != os.getpid():
            return
        self._pid = None
        self._end.set()
        self._thread.join()  # else it might write the note again
        found = self._read()
        if found is not None and _word_of(found) == self._word:
            self.path.unlink(missing_ok=True)


def _note(word: str, purpose: str, signs: int) -> bytes:
    owner = this_process()._asdict()
    return json.dumps({**owner, "purpose": purpose, "word": word, "signs": signs}).encode()


def _content(note: bytes) -> dict[str, Any]:
    try:
        content = json.loads(note)
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def _word_of(note: bytes) -> object:
    return _content(note).get("word")


def _owner_of(note: bytes) -> Owner | None:
    try:
        return Owner.from_dict(_content(note))
    except ValueError:
        return None


def _describe(note: bytes) -> str:
    owner = _owner_of(note)
    return "another process" if owner is None else f"{owner} ({_content(note).get('purpose')})"
