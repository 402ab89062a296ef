"""Which process does a run, and whether it has certainly ended.

A process number alone is not enough: numbers are reused, and in every container the first process has
number 1. A process is identified by its machine, its number there and its start time. Only a process that
shares the owner's process table can look it up; for all others, on other hosts or in other containers, the
owner lives as long as it gives signs of life (`run_lease.py` here, `run_queue.py` in `studies`).
"""

import os
import platform
import subprocess
import uuid
from typing import Any, NamedTuple

__all__ = ["LEASE", "SIGN_EVERY", "Owner", "this_process"]

LEASE = 60.0
"""Seconds without a sign of life after which a process that can't be looked up is taken for dead."""
SIGN_EVERY = 10.0
"""Seconds between two signs of life."""


class Owner(NamedTuple):
    """A process, identified uniquely over time and machines.

    Attributes:
        host: Name of its machine, for messages: machines and containers may share one.
        system: Identifies the process table that its number belongs to; empty if unknown.
        pid: Its number there.
        began: Its start time, as the system reports it; empty if unknown.
    """

    host: str
    system: str
    pid: int
    began: str

    @classmethod
    def from_dict(cls, plain: Any) -> "Owner":
        """Read what `_asdict` returned, also from earlier versions, without `system` and `began`.

        Raises:
            ValueError: If it is something else.
        """
        if not isinstance(plain, dict):
            raise ValueError(f"{plain!r} is not a process")
        host, pid = plain.get("host"), plain.get("pid")
        system, began = plain.get("system", ""), plain.get("began", "")
        texts = all(isinstance(text, str) for text in (host, system, began))
        if not texts or not isinstance(pid, int) or not 0 < pid < 2**31:
            raise ValueError(f"{plain!r} is not a process")
        return cls(str(host), system, pid, began)

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"

    def has_ended(self) -> bool:
        """Return whether the process is known to have ended; False also if it is not known."""
        if not self.system or not self.began or self.system != _system():
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:  # another user's process has the number: it may be this one
            pass
        began = _began(self.pid)
        return began is not None and began != self.began


def this_process() -> Owner:
    """Return the calling process.

    Example:
        >>> this_process().pid == os.getpid(), this_process().has_ended()
        (True, False)
    """
    return Owner(platform.node(), _system(), os.getpid(), _began(os.getpid()) or "")


def _system() -> str:
    """Return an identifier of this process's process table, the same for all that share it."""
    if os.name != "posix":
        return ""
    try:
        if os.readlink("/proc/self") != str(os.getpid()):
            return ""  # a container that sees its host's /proc, where the numbers differ
        with open("/proc/sys/kernel/random/boot_id") as file:
            boot = file.read().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # not Linux: macOS and the BSDs have no containers with numbers of their own
        return f"{uuid.getnode():x}"


def _began(pid: int) -> str | None:
    """Return a process's start time, "ended" for a zombie, None if unknown."""
    # psutil would know too, but torch and Lightning don't depend on it, and this is all that is needed.
    try:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()  # the name before it may hold anything
    except OSError:
        if os.path.exists("/proc/self/stat"):
            return None
        command = ["ps", "-o", "lstart=", "-p", str(pid)]
        try:
            said = subprocess.run(
                command, capture_output=True, text=True, check=False, env={**os.environ, "LC_ALL": "C"}
            )
        except OSError:
            return None
        return " ".join(said.stdout.split()) or None
    return "ended" if fields[0] in "ZX" else fields[19]
