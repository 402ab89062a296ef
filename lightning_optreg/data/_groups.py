"""Groups of images, such as all those of one patient, read from a file."""

import csv
import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

__all__ = ["digest_of", "groups_file", "read_groups"]


def groups_file(path: str, owner: str) -> Path:
    """Return the path of a file of groups.

    Args:
        path: The file; `~` is the home folder.
        owner: Name of the data module, for the error message.

    Raises:
        FileNotFoundError: If it does not exist.
        ValueError: If it is neither a .csv nor a .npy file.
    """
    file = Path(path).expanduser()
    if file.suffix not in (".csv", ".npy"):
        raise ValueError(f"{owner}: groups must be a .csv or .npy file, got {path!r}")
    if not file.is_file():
        raise FileNotFoundError(f"{owner}: groups must be a file, {path} does not exist")
    return file


def digest_of(path: Path) -> str:
    """Return a short digest of a file's content."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def read_groups(path: Path, count: int, names: Sequence[str] | None) -> Tensor:
    r"""Read the group of each image.

    Args:
        path: A .npy file with one whole number per image; or a .csv file with the header `group` and one name
            per line, or `file,group` for images that have names. Without names of files, the order is that of
            the training images.
        count: Number of images.
        names: The names of the images, if they have any.

    Returns:
        int64 (count,), groups counted from 0.

    Raises:
        ValueError: If the file is of another form, or an image has no group.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp(), "groups.csv")
        >>> _ = file.write_text("group\nann\nbob\nann\n")
        >>> read_groups(file, 3, None)
        tensor([0, 1, 0])
    """
    if path.suffix == ".npy":
        return _numbered(_from_npy(path), count, path)
    with path.open(newline="", encoding="utf-8") as file:
        header, *rows = [row for row in csv.reader(file) if row] or [[]]
    if header == ["group"]:
        return _numbered([row[0] for row in rows], count, path)
    if header != ["file", "group"]:
        raise ValueError(
            f"groups: the first line of {path} must be 'group' or 'file,group', got {','.join(header)!r}"
        )
    if names is None:
        raise ValueError(f"groups: {path} names files, but the images of this dataset have no names")
    if wrong := next((row for row in rows if len(row) != 2), None):
        raise ValueError(f"groups: lines of {path} must be 'file,group', got {','.join(wrong)!r}")
    group_of = dict(rows)
    if len(group_of) < len(rows):
        raise ValueError(f"groups: {path} has several lines for one file")
    missing = [name for name in names if name not in group_of]
    if missing:
        raise ValueError(
            f"groups: {path} has no line for {missing[0]!r}, nor for {len(missing) - 1} more images"
            if len(missing) > 1
            else f"groups: {path} has no line for {missing[0]!r}"
        )
    return _numbered([group_of[name] for name in names], count, path)


def _from_npy(path: Path) -> list[int]:
    try:
        values = np.load(path, allow_pickle=False)
    except (ValueError, TypeError, EOFError):
        # Without its cause: numpy's message for an array of objects advises to unpickle it.
        raise ValueError(f"groups: {path} must be an array of whole numbers") from None
    if values.ndim != 1 or not np.issubdtype(values.dtype, np.integer):
        raise ValueError(f"groups: {path} must have one dimension of whole numbers, got {values.dtype}")
    found: list[int] = values.tolist()
    return found


def _numbered(groups: Sequence[object], count: int, path: Path) -> Tensor:
    if len(groups) != count:
        raise ValueError(f"groups: {path} has {len(groups)} groups, expected {count}, one per training image")
    numbers = {group: number for number, group in enumerate(dict.fromkeys(groups))}
    return torch.tensor([numbers[group] for group in groups])
