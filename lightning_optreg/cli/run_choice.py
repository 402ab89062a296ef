"""Choose the checkpoint that a command starts from and its folder, by the rules in docs/resume.md."""

from collections.abc import Callable
from typing import NamedTuple

from lightning_optreg.cli import slurm
from lightning_optreg.places import Place
from lightning_optreg.runs.kept import checkpoints_in, newest_whole, progress
from lightning_optreg.runs.run_folder import claim_version, find_checkpoint, folder_of, versions
from lightning_optreg.trust.torch_files import damage

__all__ = ["Choice", "choose"]


class Choice(NamedTuple):
    """What a command starts from.

    Attributes:
        folder: The run's folder.
        checkpoint: What a fit continues, or what is measured. None: a new run, or the untrained network.
        goes_on: Whether a run continues in its folder.
        remarks: What to tell the user, a sentence each.
    """

    folder: Place
    checkpoint: Place | None = None
    goes_on: bool = False
    remarks: tuple[str, ...] = ()


def choose(
    command: str,
    root: Place,
    ckpt_path: str | None,
    is_same_run: Callable[[Place], bool],
    *,
    dry: bool = False,
) -> Choice:
    """Choose checkpoint and folder, and create the folder of a new run.

    Args:
        command: "fit", "validate", "test" or "predict".
        root: The root of the runs.
        ckpt_path: As the user gave it: None, "auto", "last", "best" or a file.
        is_same_run: Returns whether the run in a folder has the same configuration as this one.
        dry: Whether nothing is to be written; then no folder is made.

    Raises:
        FileNotFoundError: If there is no such checkpoint.
        ValueError: If "auto" finds only damaged checkpoints, or is used with a command other than fit.
    """
    if command != "fit":
        if ckpt_path is None:
            return Choice(root)
        if ckpt_path == "auto":
            raise ValueError(f"ckpt_path=auto works only with fit; use best, last or a file with {command}")
        checkpoint = find_checkpoint(root, ckpt_path)
        return Choice(folder_of(checkpoint, root), checkpoint)
    requeued = slurm.run_of_job(root, is_same_run)
    if requeued is not None and checkpoints_in(requeued):
        return _go_on(requeued, f"SLURM job {slurm.job()} was requeued")
    if ckpt_path == "auto":
        for folder in versions(root):
            if checkpoints_in(folder):
                return _go_on(folder, "ckpt_path=auto")
        remark = f"ckpt_path=auto: no run under {root} has a checkpoint yet; a new run begins"
        return Choice(claim_version(root, make=not dry), remarks=(remark,))
    given = None if ckpt_path is None else find_checkpoint(root, ckpt_path)
    if given is not None and ckpt_path == "last":
        return Choice(folder_of(given, root), given, goes_on=True)
    return Choice(claim_version(root, make=not dry), given)


def _go_on(folder: Place, why: str) -> Choice:
    """Take the newest intact checkpoint of a run, and report newer ones that are damaged."""
    found = checkpoints_in(folder)
    taken = newest_whole(found)
    if taken is None:
        damages = "; ".join(f"{path} {damage(path) or 'holds no training state'}" for path in sorted(found))
        raise ValueError(
            f"{why}: no checkpoint of {folder} can be resumed from ({damages}); to begin a new run, "
            "remove them or leave ckpt_path out"
        )
    time = taken.stat().st_mtime_ns
    later = [path for path in found if path != taken and path.stat().st_mtime_ns >= time]
    wrong = [f"{path} {damage(path)}" for path in sorted(later) if damage(path) is not None]
    how_far = progress(taken)
    step = f" (step {how_far.step})" if how_far is not None else ""
    remarks = [f"{why}: left out is {one}" for one in wrong]
    return Choice(folder, taken, True, (*remarks, f"{why}: goes on from {taken}{step}"))
