"""Where a dataset lies: looking for it in one place after the other, downloading it, saying how to get it."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from torch import Tensor

from lightning_optreg.data._packed import PackedImages

__all__ = ["ImageSet", "Part", "Source", "check_labels", "check_md5", "folder", "locate"]

Part = Literal["train", "val", "test"]


class ImageSet(NamedTuple):
    """Images and their labels."""

    images: Tensor | PackedImages
    """uint8 (N, C, H, W), or images of different sizes."""
    labels: Tensor
    """int64 (N,)."""


@dataclass(frozen=True)
class Source:
    """A dataset that was found: the files of each part, and how they are read.

    Example:
        >>> import torch
        >>> zeros = ImageSet(torch.zeros(4, 1, 8, 8, dtype=torch.uint8), torch.arange(4))
        >>> Source("zeros", {"train": []}, lambda part: zeros).read("train").labels
        tensor([0, 1, 2, 3])
    """

    name: str
    """For people and for the names of cached files."""
    files: Mapping[Part, Sequence[Path]]
    """What each part is read from; a part that the dataset hasn't got is missing. A part without files is
    not cached."""
    read: Callable[[Part], ImageSet]
    """Reads and checks a part."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """What else the result depends on, as JSON values."""
    names: Mapping[Part, Sequence[str]] = field(default_factory=dict)
    """A name of each image, in the order of `read`, for tables of predictions; where images have names."""


def folder(path: str | Path, name: str, *, exists: bool = True) -> Path:
    """Return a folder's path, with the home folder in place of `~`.

    Args:
        path: Its path.
        name: What it is, for the errors.
        exists: Whether it must exist.

    Raises:
        FileNotFoundError: If it must exist and does not.
        NotADirectoryError: If it is a file.
    """
    result = Path(path).expanduser()
    if result.exists() and not result.is_dir():
        raise NotADirectoryError(f"{name} must be a folder, {path} is a file")
    if exists and not result.exists():
        raise FileNotFoundError(f"{name} must be a folder, {path} does not exist")
    return result


def locate(
    name: str,
    places: Sequence[tuple[str, Path]],
    look: Callable[[Path], Source | str],
    download: Callable[[], Path] | None,
    remedy: str,
) -> Source:
    """Return the first source found, downloading it if it is nowhere.

    Args:
        name: The dataset's name.
        places: What each place is, and its path, in the order of looking.
        look: Returns what a place holds, or says why it is not the dataset.
        download: Gets the dataset and returns the place where it then is; None if that is not allowed now.
        remedy: How a person can get the data.

    Raises:
        FileNotFoundError: If it is nowhere. Lists all that was tried.
    """
    tried = []
    for kind, place in places:
        found = look(place)
        if isinstance(found, Source):
            return found
        tried.append(f"{kind} {place}: {found}")
    if download is None:
        tried.append("download: only prepare_data() downloads, and a Trainer calls it")
    else:
        try:
            place = download()
        except (
            OSError,
            RuntimeError,
        ) as error:  # what torchvision raises: no network, wrong checksum, no room
            tried.append("download: " + " ".join(str(error).split()))  # torchvision's have several lines
        else:
            found = look(place)
            if isinstance(found, Source):
                return found
            tried.append(f"download into {place}: {found}")
    raise FileNotFoundError("\n  - ".join([f"{name} was not found. Tried:", *tried]) + f"\n{remedy}")


def check_md5(content: bytes, expected: str, path: Path) -> None:
    """Raise ValueError if content does not have the md5 sum `expected`."""
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if found != expected:
        raise ValueError(
            f"{path}: md5 of the content is {found}, expected {expected}; the file is damaged or another "
            "dataset (verify_checksum=False reads other data of the same format)"
        )


def check_labels(labels: Tensor, num_classes: int, path: Path) -> None:
    """Raise ValueError if a label lies outside 0, ..., num_classes - 1."""
    wrong = (labels < 0) | (labels >= num_classes)
    if wrong.any():
        position = int(wrong.nonzero()[0])
        raise ValueError(
            f"{path}: label {int(labels[position])} of image {position}, expected 0 to {num_classes - 1}"
        )
