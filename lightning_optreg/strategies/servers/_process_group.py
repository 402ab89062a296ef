"""A process group for Ray's processes, which ends with the process that has started them."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

__all__ = ["forks_join", "group_that_ends"]

# A process of its own group, which kills the group as soon as its parent has ended, however that happens.
_WATCHER = """
import os, signal, time
parent = os.getppid()
os.setpgid(0, 0)
os.write(1, b"+")
while os.getppid() == parent:
    time.sleep(0.5)
os.killpg(0, signal.SIGKILL)
"""

_joined: int | None = None


def _join() -> None:
    if _joined is not None:
        os.setpgid(0, _joined)


# Ray runs a Python function between fork and exec, so that this is called in its processes.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_join)


@contextmanager
def group_that_ends() -> Iterator[int | None]:
    """Provide a process group, which is killed afterwards, or a second after this process was killed.

    The kernel kills what Ray has started when this process is killed; but Ray's agents, which are started by
    those, look for them for a minute and more.

    Yields:
        The group, or None where there are no process groups.
    """
    if not hasattr(os, "register_at_fork"):
        yield None
        return
    watcher = subprocess.Popen([sys.executable, "-ISc", _WATCHER], stdout=subprocess.PIPE)
    assert watcher.stdout is not None
    try:
        watcher.stdout.read(1)  # it has its group now
        yield watcher.pid
    finally:
        with suppress(ProcessLookupError):  # all have ended
            os.killpg(watcher.pid, signal.SIGKILL)
        watcher.wait()
        watcher.stdout.close()


@contextmanager
def forks_join(group: int | None) -> Iterator[None]:
    """Let processes that are forked within join a group.

    Outside of this process's own group they don't get the SIGTERM that `timeout` and `kill -- -PID` send to
    all of it, and which would end the servers before worker 0 has saved what they have.

    Args:
        group: The group, or None to do nothing.
    """
    global _joined  # what is called after a fork stays registered
    _joined = group
    try:
        yield
    finally:
        _joined = None
