"""A lock that reserves a run's folder for one process as long as that process lives."""

import errno
import json
import os
import platform
import sys
from contextlib import suppress
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_warn

from lightning_optreg.files import try_lock

__all__ = ["LOCK_FILE", "RunInUseError", "RunLock"]

LOCK_FILE = "run.lock"


class RunInUseError(RuntimeError):
    """Another process is using the run's folder."""


class RunLock:
    """A lock on a run's folder, so that no two processes write to its tables and checkpoints.

    It is a lock of the operating system (`flock`; `msvcrt.locking` on Windows) on the file `run.lock`, not
    the file itself: it ends with the process that took it, even after SIGKILL or a power failure, and a file
    left behind blocks nobody. Forked processes, such as a loader's workers, don't hold it, nor do programs
    that this process starts. A process of `ddp_fork` that outlives its parent doesn't keep the run from being
    resumed.

    On NFS the lock works between machines if the server's locking is mounted (not with `nolock` or
    `local_lock`). On a file system without locks the run continues without one, with a warning.

    Args:
        folder: The run's folder, which must exist.
        purpose: What the process does there, such as "fit", for the error in other processes.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> lock = RunLock(folder, "fit")
        >>> lock.acquire()
        >>> (folder / "run.lock").exists()
        True
        >>> lock.release()
        >>> list(folder.iterdir())
        []
    """

    def __init__(self, folder: Path, purpose: str) -> None:
        self.path = folder / LOCK_FILE
        self.purpose = purpose
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            RunInUseError: If another process holds it; names the process and its machine.
            OSError: If the file can't be written.
        """
        while self._descriptor is None:
            descriptor = _open(self.path)
            try:
                if not try_lock(descriptor):
                    holder = os.read(descriptor, 4096).decode(errors="replace")
                    os.close(descriptor)
                    raise RunInUseError(f"the run {self.path.parent} is in use by {_describe(holder)}")
            except OSError as error:
                os.close(descriptor)
                rank_zero_warn(
                    f"{self.path}: this file system has no locks ({error.strerror}): another process could "
                    "use this run at the same time"
                )
                return
            if _is_at(descriptor, self.path):
                self._descriptor = descriptor
            else:  # its last holder has just removed it
                os.close(descriptor)
        holder = json.dumps({"pid": os.getpid(), "host": platform.node(), "purpose": self.purpose})
        os.ftruncate(self._descriptor, 0)
        os.write(self._descriptor, holder.encode())
        _held.add(self)

    def release(self) -> None:
        """Release the lock and remove its file; does nothing if it isn't held."""
        if self._descriptor is not None:
            if sys.platform == "win32":  # an open file can't be removed there
                self.forget()
            with suppress(PermissionError):  # on Windows, if another process has opened it already
                self.path.unlink(missing_ok=True)
            self.forget()

    def forget(self) -> None:
        """Only close the file: the lock stays with the process that forked this one."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
        _held.discard(self)


def _open(path: Path) -> int:
    """Open or create the file, but not through a link, which would empty another file."""
    if path.is_symlink():
        raise OSError(errno.ELOOP, "is a link, not the lock of a run; remove it", str(path))
    no_link = getattr(os, "O_NOFOLLOW", 0)  # not on Windows, where only administrators create links
    return os.open(path, os.O_RDWR | os.O_CREAT | no_link, 0o666)


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _describe(holder: str) -> str:
    try:
        noted = json.loads(holder)
        return f"process {noted['pid']} on {noted['host']} ({noted['purpose']})"
    except (ValueError, LookupError, TypeError):  # not written yet
        return "another process"


_held: set[RunLock] = set()


def _forget_all() -> None:
    for lock in list(_held):
        lock.forget()


if hasattr(os, "register_at_fork"):
    # Otherwise a loader's worker would keep the lock of a process that was killed.
    os.register_at_fork(after_in_child=_forget_all)
