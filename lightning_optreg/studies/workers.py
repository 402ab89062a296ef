"""The processes on this machine that share the runs of a study."""

import os
import sys
from collections.abc import Sequence
from typing import NamedTuple

from lightning_optreg.studies.stop import StopRequest, run_processes

__all__ = ["STORAGE", "UNAVAILABLE", "Broken", "default_workers", "run_workers"]

STORAGE = "LIGHTNING_OPTREG_STORAGE"
"""Environment variable with the database's URL: others can read a command line, but not this."""
UNAVAILABLE = 69
"""Exit status of a worker that gave up waiting for the database: EX_UNAVAILABLE of sysexits.h."""


class Broken(NamedTuple):
    """How worker processes ended early.

    Attributes:
        how: How many of them ended, and how.
        status: Exit status of the command.
    """

    how: str
    status: int


def run_workers(
    name: str, options: Sequence[str], storage: str, wait: float, count: int, stop: StopRequest
) -> Broken | None:
    """Run a study in several processes.

    Args:
        name: Name of the command that runs it.
        options: The command's options for all of them.
        storage: URL of the database.
        wait: Seconds that each waits for a database that does not answer.
        count: Number of processes.
        stop: Says when to stop.

    Returns:
        How processes ended early; None if none did.

    Raises:
        Stopped: When told to stop, after they have ended.
    """
    from lightning_optreg.cli.processes import count_cores  # imports Lightning

    threads = max(1, count_cores() // count)
    command = [sys.executable, "-m", "lightning_optreg", name, "--worker"]
    command += [*options, "--storage_wait", str(wait)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), STORAGE: storage}
    statuses = run_processes(command, count, environment, stop)
    broken = [status for status in statuses if status != 0]
    if not broken:
        return None
    if broken[0] == UNAVAILABLE:
        how = f"because the database had not answered for {wait:g} s"
    else:
        how = f"with signal {-broken[0]}" if broken[0] < 0 else f"with status {broken[0]}"
    return Broken(f"{len(broken)} of {count} processes ended {how}", 2 if 2 in broken else 1)


def default_workers() -> int:
    """Return how many processes share a study by default: one per core, or one if there is a GPU."""
    import torch

    from lightning_optreg.cli.processes import count_cores

    return 1 if torch.cuda.is_available() else count_cores()
