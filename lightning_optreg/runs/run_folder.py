"""The folder of a run, `<root>/version_N/`, with its configuration, metrics, checkpoints and pictures.

The root is `trainer.default_root_dir`. Every fit gets its own version; `--ckpt_path last` continues in the
newest version that has a last checkpoint.
"""

from collections.abc import Iterator

from lightning_optreg._nearest import nearest
from lightning_optreg.places import Place, UrlPath, check_place, folders_in, place_of
from lightning_optreg.runs.kept import newest_first, run_of
from lightning_optreg.runs.run_lease import claim

__all__ = ["DEFAULT_ROOT", "claim_version", "find_checkpoint", "folder_of", "missing_parents", "versions"]

DEFAULT_ROOT = "runs"


def versions(root: Place) -> list[Place]:
    """List the version folders of a root, newest first.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> root = Path(tempfile.mkdtemp())
        >>> for name in ("version_2", "version_10", "notes"):
        ...     (root / name).mkdir()
        >>> [folder.name for folder in versions(root)]
        ['version_10', 'version_2']
    """

    def numbered() -> Iterator[tuple[int, Place]]:
        for folder in folders_in(root, "version_*"):
            if _is_version(folder):
                yield int(folder.name.removeprefix("version_")), folder

    return [folder for _, folder in sorted(numbered(), reverse=True)]


def _is_version(folder: Place) -> bool:
    return folder.name.startswith("version_") and folder.name.removeprefix("version_").isdecimal()


def claim_version(root: Place, *, make: bool = True) -> Place:
    """Create the folder of the next version; processes that do this at the same time get different ones.

    Args:
        root: The root of the runs, created if missing.
        make: Whether to create the folder; if not, only its path is returned.

    Raises:
        NotADirectoryError: If the root is a file.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> root = Path(tempfile.mkdtemp())
        >>> [claim_version(root).name for _ in range(3)]
        ['version_0', 'version_1', 'version_2']
    """
    if root.exists() and not root.is_dir():
        raise NotADirectoryError(f"trainer.default_root_dir: {str(root)!r} is a file, not a folder")
    newest = versions(root)
    number = int(newest[0].name.removeprefix("version_")) + 1 if newest else 0
    if not make:
        return root / f"version_{number}"
    root.mkdir(parents=True, exist_ok=True)
    while True:
        folder = root / f"version_{number}"
        try:
            if isinstance(folder, UrlPath):
                claim(folder)
            else:
                folder.mkdir()
        except FileExistsError:  # another process was first
            number += 1
        else:
            return folder


def missing_parents(folder: Place) -> list[Place]:
    """List a folder and its parents, innermost first, as far as they don't exist yet.

    By URL there are none: an object store has only files, and others keep the folders.
    """
    if isinstance(folder, UrlPath):
        return []
    return [path for path in (folder, *folder.parents) if not path.exists()]


def find_checkpoint(root: Place, ckpt_path: str) -> Place:
    """Find the checkpoint that a user names.

    Args:
        root: The root of the runs.
        ckpt_path: "last" or "best", of the newest version that has one; or a file, also by URL. The last one
            is `last.ckpt` or that of SLURM's requeue (`hpc_ckpt_N.ckpt`), whichever has more steps.

    Raises:
        FileNotFoundError: If there is none; lists those that exist.
    """
    if ckpt_path not in ("last", "best"):
        path = place_of(ckpt_path)
        check_place(path, "ckpt_path")
        if not path.is_file():
            hint = nearest(ckpt_path, ("best", "last", "auto"), few=0) or "; pass a file, last or best"
            what = f"{ckpt_path!r} is a folder" if path.is_dir() else f"there is no file {ckpt_path!r}"
            raise FileNotFoundError(f"ckpt_path: {what}{hint}")
        return path
    for folder in versions(root):
        named = [folder / "checkpoints" / f"{ckpt_path}.ckpt"]
        if ckpt_path == "last":
            named += [folder / "last.ckpt", *folder.glob("hpc_ckpt_*.ckpt")]
        there = [path for path in named if path.is_file()]
        if len(there) == 1:
            return there[0]
        if there:
            return newest_first(there)[0]
    found = sorted(str(path) for path in root.rglob("*.ckpt"))
    what = f"found {', '.join(found)}" if found else "found no checkpoint there"
    raise FileNotFoundError(
        f"ckpt_path={ckpt_path}: no version_N/checkpoints/{ckpt_path}.ckpt under {str(root)!r} "
        f"(trainer.default_root_dir); {what}"
    )


def folder_of(checkpoint: Place, root: Place) -> Place:
    """Return the folder of the run that a checkpoint belongs to, or the root if it is elsewhere."""
    folder = run_of(checkpoint)
    return folder if checkpoint.parent != folder or _is_version(folder) else root
