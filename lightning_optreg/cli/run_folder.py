"""Where a run keeps what it writes: `<root>/version_N/`, with configuration, metrics, checkpoints, pictures.

The root is `trainer.default_root_dir`. Every fit gets a version of its own; `--ckpt_path last` continues in
the newest version that has a last checkpoint.
"""

import os
from collections.abc import Iterator
from pathlib import Path

__all__ = ["DEFAULT_ROOT", "find_checkpoint", "folder_of", "new_version", "versions"]

DEFAULT_ROOT = "runs"

# Processes that Lightning starts as copies of this one must not each take a folder of their own.
_VARIABLE = "LIGHTNING_OPTREG_RUN_FOLDER"


def versions(root: Path) -> list[Path]:
    """List the version folders under a root, the newest first.

    Example:
        >>> import tempfile
        >>> root = Path(tempfile.mkdtemp())
        >>> for name in ("version_2", "version_10", "notes"):
        ...     (root / name).mkdir()
        >>> [folder.name for folder in versions(root)]
        ['version_10', 'version_2']
    """

    def numbered() -> Iterator[tuple[int, Path]]:
        for folder in root.glob("version_*"):
            number = folder.name.removeprefix("version_")
            if number.isdecimal() and folder.is_dir():
                yield int(number), folder

    return [folder for _, folder in sorted(numbered(), reverse=True)]


def new_version(root: Path) -> Path:
    """Name the next version's folder; it is made when something is written to it."""
    if int(os.environ.get("LOCAL_RANK", 0)) > 0 and _VARIABLE in os.environ:
        return Path(os.environ[_VARIABLE])
    newest = versions(root)
    number = int(newest[0].name.removeprefix("version_")) + 1 if newest else 0
    folder = root / f"version_{number}"
    os.environ[_VARIABLE] = str(folder)
    return folder


def find_checkpoint(root: Path, ckpt_path: str) -> Path:
    """Find the checkpoint that a user names.

    Args:
        root: The root of the runs.
        ckpt_path: "last" or "best", of the newest version that has one; or a file.

    Raises:
        FileNotFoundError: If there is none, with what there is.
    """
    if ckpt_path not in ("last", "best"):
        path = Path(ckpt_path)
        if not path.is_file():
            raise FileNotFoundError(f"ckpt_path: there is no file {ckpt_path!r}; give a file, last or best")
        return path
    for folder in versions(root):
        path = folder / "checkpoints" / f"{ckpt_path}.ckpt"
        if path.is_file():
            return path
    found = sorted(str(path) for path in root.rglob("*.ckpt"))
    what = f"there are {', '.join(found)}" if found else "no run has left a checkpoint there"
    raise FileNotFoundError(
        f"ckpt_path={ckpt_path}: no version_N/checkpoints/{ckpt_path}.ckpt under {str(root)!r} "
        f"(trainer.default_root_dir); {what}"
    )


def folder_of(checkpoint: Path, root: Path) -> Path:
    """Return the run's folder that a checkpoint lies in, or the root if it lies elsewhere."""
    inside = checkpoint.parent.name == "checkpoints"
    return checkpoint.parent.parent if inside else root
