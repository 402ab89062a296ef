"""Find a dataset: search several folders, download it, or explain how to get it."""

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
    """Images and their labels.

    Example:
        >>> import torch
        >>> len(ImageSet(torch.zeros(4, 1, 8, 8, dtype=torch.uint8), torch.arange(4)).labels)
        4
    """

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
    """Name for messages and for cached files."""
    files: Mapping[Part, Sequence[Path]]
    """The files of each part that the dataset has. A part without files is not cached."""
    read: Callable[[Part], ImageSet]
    """Reads and checks a part."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Everything else that the result depends on, as JSON values."""
    names: Mapping[Part, Sequence[str]] = field(default_factory=dict)
    """Names of the images, in the order of `read`, for tables of predictions; empty if they have none."""


def folder(path: str | Path, name: str, *, exists: bool = True) -> Path:
    """Return a folder's path, with `~` replaced by the home folder.

    Args:
        path: The folder.
        name: Its name in error messages.
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
    """Return the first source found; download it if there is none.

    Args:
        name: The dataset's name.
        places: A description and a path of each place, in the order of the search.
        look: Returns the source in a place, or the reason why it is not there.
        download: Downloads the dataset and returns its place; None if that is not allowed now.
        remedy: How a person can get the data.

    Raises:
        FileNotFoundError: If the dataset is not found. Lists everything that was tried.
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
        ) as error:  # raised by torchvision: no network, wrong checksum, disk full
            tried.append("download: " + " ".join(str(error).split()))  # torchvision's have several lines
        else:
            found = look(place)
            if isinstance(found, Source):
                return found
            tried.append(f"download into {place}: {found}")
    raise FileNotFoundError("\n  - ".join([f"{name} was not found. Tried:", *tried]) + f"\n{remedy}")


def check_md5(content: bytes, expected: str, path: Path) -> None:
    """Raise ValueError if the content's md5 sum is not `expected`."""
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if found != expected:
        raise ValueError(
            f"{path}: md5 of the content is {found}, expected {expected}; the file is damaged or another "
            "dataset's (verify_checksum=False reads other data of the same format)"
        )


def check_labels(labels: Tensor, num_classes: int, path: Path) -> None:
    """Raise ValueError if a label is not in 0, ..., num_classes - 1."""
    wrong = (labels < 0) | (labels >= num_classes)
    if wrong.any():
        position = int(wrong.nonzero()[0])
        raise ValueError(
            f"{path}: label {int(labels[position])} of image {position}, expected 0 to {num_classes - 1}"
        )
