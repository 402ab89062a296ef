"""SLURM's requeue: a job that is started again continues in the folder where it was stopped.

Lightning answers SLURM's signal with `hpc_ckpt_N.ckpt` in the run's folder and asks for the job's requeue;
the job's script then starts again with the same command line. The run's folder has the job's number
in `slurm_job.txt`, by which the second start finds its run.
"""

import os
from collections.abc import Callable

from lightning_optreg.files import replacing
from lightning_optreg.places import Place
from lightning_optreg.runs.run_folder import versions

__all__ = ["JOB_FILE", "job", "note_job", "run_of_job"]

JOB_FILE = "slurm_job.txt"


def job() -> str | None:
    """Return the number of the SLURM job that this process belongs to; None outside SLURM and in a session.

    Example:
        >>> job()
    """
    if os.environ.get("SLURM_JOB_NAME") in ("bash", "interactive"):  # as Lightning recognises a session
        return None
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    if array is not None:
        return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    return os.environ.get("SLURM_JOB_ID")


def note_job(folder: Place) -> None:
    """Write the job's number to the run's folder."""
    number = job()
    if number is not None:
        with replacing(folder / JOB_FILE) as temporary:
            temporary.write_text(f"{number}\n")


def run_of_job(root: Place, is_same_run: Callable[[Place], bool]) -> Place | None:
    """Find the run that this job began before it was requeued.

    Args:
        root: The root of the runs.
        is_same_run: Returns whether the run in a folder has the same configuration as this one; a job may
            have several runs.

    Returns:
        Its folder; None if this is not a requeued job, or has no such run.
    """
    number = job()
    if number is None:
        return None
    requeued = int(os.environ.get("SLURM_RESTART_COUNT", "0")) > 0
    for folder in versions(root):
        note = folder / JOB_FILE
        if note.is_file() and note.read_text(errors="replace").strip() == number and is_same_run(folder):
            return folder if requeued or any(folder.glob("hpc_ckpt_*.ckpt")) else None
    return None
