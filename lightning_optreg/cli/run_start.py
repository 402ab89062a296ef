"""Start and end of a command: checkpoint and folder are chosen once for all processes, the folder locked."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from lightning_optreg.cli import slurm
from lightning_optreg.cli.run_choice import Choice, choose
from lightning_optreg.cli.together import Together, place_in
from lightning_optreg.files import is_writable, remove_leftovers
from lightning_optreg.places import Place, UrlPath, check_place, is_url, place_of
from lightning_optreg.runs.run_folder import missing_parents, versions
from lightning_optreg.runs.run_lease import RunLease
from lightning_optreg.runs.run_lock import LOCK_FILE, RunInUseError, RunLock
from lightning_optreg.trust.torch_files import DamagedFileError, digest

__all__ = ["RunStart"]

# Passes the choice on to processes that Lightning starts as copies of this one.
_VARIABLE = "LIGHTNING_OPTREG_RUN"


class RunStart:
    """The checkpoint and the folder of a command, from its start to its end.

    Args:
        command: "fit", "validate", "test" or "predict".
        settings: Its settings.
        is_same_run: Returns whether the run in a folder has the same configuration as this one.

    Raises:
        FileNotFoundError: If there is no such checkpoint.
        RunInUseError: If another process works on the run.
        MisconfigurationException: If several nodes don't find the same checkpoint.
        ValueError: If "auto" can't know where checkpoints are saved, or finds only damaged ones.
    """

    def __init__(self, command: str, settings: Namespace, is_same_run: Callable[[Place], bool]) -> None:
        self.command = command
        self.trainer = settings.trainer
        self.root = place_of(self.trainer.default_root_dir)
        check_place(self.root, "trainer.default_root_dir")
        self.made: list[Place] = []  # the folder and its parents, if they are new
        self.keeps_figures = True  # unless a fit is writing to the folder, or it is read-only
        self.is_read_only = False
        self._lock: RunLock | RunLease | None = None
        dry = bool(self.trainer.fast_dev_run)
        wanted = settings.get("ckpt_path")
        if wanted == "auto":
            _check_auto(self.trainer)

        def choice() -> Choice:
            chosen = choose(command, self.root, None if wanted is None else str(wanted), is_same_run, dry=dry)
            if not dry:
                self._take(chosen)
            return chosen

        if _is_copy():
            self.choice = _from_json(json.loads(os.environ[_VARIABLE]), self.root)
            return
        around = missing_parents(self.root)
        try:
            self.choice = self._agree(choice)
        except BaseException:
            self.made += around
            self.end()
            raise
        self.made += around
        os.environ[_VARIABLE] = json.dumps(_to_json(self.choice, self.root))
        for remark in self.choice.remarks:
            (rank_zero_warn if "left out" in remark else rank_zero_info)(remark)

    def _take(self, chosen: Choice) -> None:
        """Lock the folder if the command writes to it, and note the SLURM job."""
        folder = chosen.folder
        if self.command == "fit":
            if not any(path.name != LOCK_FILE for path in folder.iterdir()):
                self.made = [folder]
            self._lock = _lock_of(folder, "fit")
            self._lock.acquire()
            slurm.note_job(folder)
            for one in versions(self.root):  # also of runs without a checkpoint, which are never resumed
                for place in (one, one / "checkpoints"):
                    if isinstance(place, Path) and place.is_dir():  # by URL nothing is written in between
                        remove_leftovers(place)
        elif self.command == "predict":
            self.is_read_only = not is_writable(folder)
        elif chosen.checkpoint is not None and folder.is_dir() and self.trainer.logger is not False:
            self._take_for_figures(folder)

    def _take_for_figures(self, folder: Place) -> None:
        """Lock the folder while figures are added to its table; if that fails, do without the table."""
        if not is_writable(folder):
            self.keeps_figures = False
            rank_zero_warn(
                f"{folder} can't be written to: the figures of this {self.command} are only printed"
            )
            return
        lock = _lock_of(folder, self.command)
        try:
            lock.acquire()
        except RunInUseError as error:
            self.keeps_figures = False
            rank_zero_warn(f"{error}: the figures of this {self.command} are not added to its table")
        else:
            self._lock = lock

    def _agree(self, choice: Callable[[], Choice]) -> Choice:
        """Let the first process choose, and check that all processes find what it chose."""
        together = Together(place_in(self.trainer))
        if together.place is None:
            return choice()
        self._together = together  # keeps the store for the whole run: Lightning will use its port
        chosen: Choice | None = None
        said: dict[str, Any] | None = None
        if together.rank == 0:
            try:
                chosen = choice()
                said = _to_json(chosen, self.root)
            except Exception as error:  # the others are waiting for an answer
                together.gather({"error": f"{together.name()}: {error}"})
                raise
        said = together.gather(said)[0]
        if "error" in said:
            raise MisconfigurationException(said["error"])
        chosen = chosen or _from_json(said, self.root)
        if chosen.checkpoint is not None:
            _compare(together, chosen.checkpoint)
        return chosen

    def end(self) -> None:
        """Release the folder; remove it if nothing was written to it."""
        if self._lock is not None:
            self._lock.release()
        for folder in self.made:
            if folder.is_dir() and not [path for path in folder.iterdir() if path.name != slurm.JOB_FILE]:
                (folder / slurm.JOB_FILE).unlink(missing_ok=True)
                folder.rmdir()


def _lock_of(folder: Place, purpose: str) -> RunLock | RunLease:
    return RunLease(folder, purpose) if isinstance(folder, UrlPath) else RunLock(folder, purpose)


def _check_auto(trainer: Namespace) -> None:
    callbacks = trainer.callbacks if isinstance(trainer.callbacks, list) else [trainer.callbacks]
    savers = [one for one in callbacks if one is not None and one.class_path.endswith("ModelCheckpoint")]
    places = [saver.init_args.get("dirpath") for saver in savers]
    if places and None not in places:
        raise ValueError(
            "ckpt_path=auto: it looks in the folders of the runs, but every ModelCheckpoint has its own "
            f"dirpath ({places[0]}); leave dirpath out"
        )


def _is_copy() -> bool:
    return (
        int(os.environ.get("LOCAL_RANK", 0)) > 0
        and _VARIABLE in os.environ
        and not TorchElasticEnvironment.detect()  # its agent starts all processes, none from another
    )


def _compare(together: Together, checkpoint: Place) -> None:
    """Raise an error unless every process finds the same file as the checkpoint."""
    if not checkpoint.is_file():
        found = f"there is no file {checkpoint}"
    else:
        try:
            found = digest(checkpoint)
        except DamagedFileError as error:
            found = str(error)
    everyone = together.gather({"name": together.name(), "found": found})
    first = everyone[0]
    for other in everyone[1:]:
        if other["found"] != first["found"]:
            missing = other if other["found"].startswith("there is no file") else first
            what = missing["found"]
            if not what.startswith("there is no file"):
                what = f"{checkpoint} differs from the file on {other['name']}"
            raise MisconfigurationException(
                f"ckpt_path: on {missing['name']} {what}: the nodes must share the folder of the runs "
                "(trainer.default_root_dir), or each have a copy of the checkpoint"
            )
    if first["found"].startswith("there is no file"):
        raise MisconfigurationException(f"ckpt_path: {first['found']} on any node")


def _to_json(choice: Choice, root: Place) -> dict[str, Any]:
    """A choice with paths relative to the root, which may lie elsewhere for other processes."""
    return {
        "folder": _below(choice.folder, root),
        "checkpoint": None if choice.checkpoint is None else _below(choice.checkpoint, root),
        "goes_on": choice.goes_on,
    }


def _from_json(said: dict[str, Any], root: Place) -> Choice:
    checkpoint = None if said["checkpoint"] is None else _joined(root, said["checkpoint"])
    return Choice(_joined(root, said["folder"]), checkpoint, said["goes_on"])


def _joined(root: Place, path: str) -> Place:
    return place_of(path) if is_url(path) else root / path


def _below(path: Place, root: Place) -> str:
    if isinstance(path, UrlPath) and isinstance(root, UrlPath) and path.is_relative_to(root):
        return str(path.relative_to(root))
    if isinstance(path, Path) and isinstance(root, Path) and path.is_relative_to(root):
        return str(path.relative_to(root))
    return str(path.absolute())
