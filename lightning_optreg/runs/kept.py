"""The checkpoints of a run: which one is the newest, and which are intact."""

import pickle
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch

from lightning_optreg.places import Place, local_copy
from lightning_optreg.trust.torch_files import DamagedFileError, damage, is_archive, reading

__all__ = ["Progress", "advised", "checkpoints_in", "newest_first", "newest_whole", "progress", "run_of"]


class Progress(NamedTuple):
    """How far a checkpoint has come.

    Attributes:
        step: Optimizer steps done.
        resumable: Whether it contains the optimizers and the loops, not only the weights.
    """

    step: int
    resumable: bool


def progress(path: Place) -> Progress | None:
    """Read how far a checkpoint has come, without its tensors; None if that can't be read.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> path = Path(tempfile.mkdtemp(), "a.ckpt")
        >>> torch.save({"global_step": 30, "state_dict": {}}, path)
        >>> progress(path)
        Progress(step=30, resumable=False)
    """
    file = local_copy(path)
    if not is_archive(file):
        return None
    try:
        with reading(path), zipfile.ZipFile(file) as archive:
            for record in archive.infolist():
                if record.filename.endswith("/data.pkl"):
                    archive.read(record)  # verifies its checksum
            content = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        return Progress(int(content["global_step"]), "loops" in content and "optimizer_states" in content)
    except (DamagedFileError, zipfile.BadZipFile, pickle.UnpicklingError, LookupError, ValueError, TypeError):
        return None
    except (OSError, RuntimeError):  # raised for damaged fields of the archive
        return None


def run_of(checkpoint: Place) -> Place:
    """Return the folder of the run that a checkpoint belongs to."""
    return checkpoint.parent.parent if checkpoint.parent.name == "checkpoints" else checkpoint.parent


def checkpoints_in(folder: Place) -> list[Place]:
    """List a run's checkpoints: in `checkpoints`, and in its folder, where SLURM's requeue saves them."""
    found = (*folder.glob("checkpoints/*.ckpt"), *folder.glob("*.ckpt"))
    return [path for path in found if path.is_file() and not path.name.startswith(".")]


def newest_first(paths: Iterable[Place]) -> list[Place]:
    """Sort checkpoints of one run by their steps, most first; equal ones by the time of the file.

    If the times are equal too, as in object stores, which count whole seconds, `last.ckpt` comes first. If
    the steps of one can't be read, all are sorted by the time of the file.
    """
    found = [(progress(path), path.stat().st_mtime_ns, path) for path in paths]
    by_step = all(how_far is not None for how_far, _, _ in found)
    found.sort(
        key=lambda one: (
            one[0].step if by_step and one[0] is not None else 0,
            one[1],
            one[2].name == "last.ckpt",
        ),
        reverse=True,
    )
    return [path for _, _, path in found]


def newest_whole(paths: Iterable[Place]) -> Place | None:
    """Return the newest checkpoint that is intact and can be resumed from; None if there is none."""
    resumable = [path for path in paths if (how_far := progress(path)) is not None and how_far.resumable]
    return next((path for path in newest_first(resumable) if damage(path) is None), None)


@contextmanager
def advised(path: Place) -> Iterator[None]:
    """Add the newest intact checkpoint of the run to the error for a damaged one.

    Raises:
        DamagedFileError: The same error, with this advice.
    """
    try:
        yield
    except DamagedFileError as error:
        other = newest_whole(found for found in checkpoints_in(run_of(path)) if found != path)
        advice = f"newest intact checkpoint: {other}" if other is not None else "the run has no intact one"
        raise DamagedFileError(f"{error}; {advice}") from error
