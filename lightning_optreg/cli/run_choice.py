"""Which checkpoint a start takes and which folder it writes to, by the rules that docs/resume.md states."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from lightning_optreg.cli import slurm
from lightning_optreg.runs.kept import checkpoints_in, newest_whole, progress
from lightning_optreg.runs.run_folder import claim_version, find_checkpoint, folder_of, versions
from lightning_optreg.trust.torch_files import damage

__all__ = ["Choice", "choose"]


class Choice(NamedTuple):
    """What a start does.

    Attributes:
        folder: The run's folder.
        checkpoint: Where it goes on, or what is measured. None: the untrained network is measured.
        goes_on: Whether it is a run that goes on in its folder.
        remarks: What the user should know of it, a sentence each.
    """

    folder: Path
    checkpoint: Path | None = None
    goes_on: bool = False
    remarks: tuple[str, ...] = ()


def choose(
    command: str,
    root: Path,
    ckpt_path: str | None,
    is_same_run: Callable[[Path], bool],
    *,
    dry: bool = False,
) -> Choice:
    """Choose checkpoint and folder. The folder of a new run is made.

    Args:
        command: "fit", "validate", "test" or "predict".
        root: The root of the runs.
        ckpt_path: As the user gave it: None, "auto", "last", "best" or a file.
        is_same_run: Whether a folder's run is configured as this one.
        dry: Whether nothing is to be written; then no folder is made.

    Raises:
        FileNotFoundError: If there is no such checkpoint.
        ValueError: If "auto" finds damaged checkpoints only, or is given to another command than fit.
    """
    if command != "fit":
        if ckpt_path is None:
            return Choice(root)
        if ckpt_path == "auto":
            raise ValueError(f"ckpt_path=auto is for fit; give {command} best, last or a file")
        checkpoint = find_checkpoint(root, ckpt_path)
        return Choice(folder_of(checkpoint, root), checkpoint)
    requeued = slurm.run_of_job(root, is_same_run)
    if requeued is not None and checkpoints_in(requeued):
        return _go_on(requeued, f"SLURM job {slurm.job()} was requeued")
    if ckpt_path == "auto":
        for folder in versions(root):
            if checkpoints_in(folder):
                return _go_on(folder, "ckpt_path=auto")
        remark = f"ckpt_path=auto: no run under {root} has a checkpoint yet; one begins"
        return Choice(claim_version(root, make=not dry), remarks=(remark,))
    given = None if ckpt_path is None else find_checkpoint(root, ckpt_path)
    if given is not None and ckpt_path == "last":
        return Choice(folder_of(given, root), given, goes_on=True)
    return Choice(claim_version(root, make=not dry), given)


def _go_on(folder: Path, why: str) -> Choice:
    """Take the newest whole checkpoint of a run, and say which newer ones are left out."""
    found = checkpoints_in(folder)
    taken = newest_whole(found)
    if taken is None:
        damages = "; ".join(f"{path} {damage(path) or 'holds no training state'}" for path in sorted(found))
        raise ValueError(
            f"{why}: no checkpoint of {folder} can be resumed from ({damages}); remove them, or leave "
            "ckpt_path out, to begin anew"
        )
    time = taken.stat().st_mtime_ns
    later = [path for path in found if path != taken and path.stat().st_mtime_ns >= time]
    wrong = [f"{path} {damage(path)}" for path in sorted(later) if damage(path) is not None]
    how_far = progress(taken)
    step = f" (step {how_far.step})" if how_far is not None else ""
    remarks = [f"{why}: left out is {one}" for one in wrong]
    return Choice(folder, taken, True, (*remarks, f"{why}: goes on from {taken}{step}"))
