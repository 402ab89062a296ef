"""A process group that ends with the process that has made it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lightning_optreg.strategies.servers import _process_group
from lightning_optreg.strategies.servers._process_group import forks_join, group_that_ends

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/stat").exists(), reason="it looks for processes in /proc"
)

MAKES_ONE = """
import subprocess, sys, time
sys.path.insert(0, sys.argv[1])  # without the packages around it, which take seconds to import
from _process_group import forks_join, group_that_ends
with group_that_ends() as group:
    with forks_join(group):
        # As Ray does: a child that starts one of its own, which nobody ends.
        made = subprocess.Popen(["sh", "-c", "sleep 100 & echo $!; wait"], preexec_fn=lambda: None)
    time.sleep(100)
"""


def lives(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_it_ends_when_its_maker_is_killed() -> None:
    command = [sys.executable, "-c", MAKES_ONE, str(Path(_process_group.__file__).parent)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as maker:
        assert maker.stdout is not None
        grandchild = int(maker.stdout.readline())
        assert os.getpgid(grandchild) not in (os.getpgid(maker.pid), os.getpgid(0))
        maker.kill()
    deadline = time.monotonic() + 10.0
    while lives(grandchild):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_it_ends_with_its_context_and_others_are_left_alone() -> None:
    with group_that_ends() as group, subprocess.Popen(["sleep", "100"], preexec_fn=int) as other:
        with forks_join(group):
            joined = subprocess.Popen(["sleep", "100"], preexec_fn=int)
        assert os.getpgid(joined.pid) == group
        assert os.getpgid(other.pid) == os.getpgid(0)
        os.killpg(os.getpgid(joined.pid), 0)
        other.kill()
    assert joined.wait(10.0) == -signal.SIGKILL
