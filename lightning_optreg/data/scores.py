"""Scores of images, one number each, from a file or from a network's outputs."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from lightning_optreg.trust.torch_files import read_plain

__all__ = ["QUANTITIES", "Quantity", "negative_margins", "read_scores"]


def read_scores(path: str | Path, count: int) -> Tensor:
    """Read one number per image.

    Args:
        path: A tensor saved by `torch.save` (.pt), an array saved by `numpy.save` (.npy), or a text file with
            one number per line (.csv).
        count: Required number of scores.

    Returns:
        float64 (count,).

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is of another kind, has another number of values, or one that is not finite.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file of scores")
    match path.suffix:
        case ".pt":
            values = read_plain(path, what="scores")
        case ".npy":
            try:
                values = torch.from_numpy(np.load(path, allow_pickle=False))
            except (ValueError, TypeError, EOFError):
                # Without its cause: numpy's message for an array of objects advises to unpickle it.
                raise ValueError(f"{path}: scores must be an array of numbers") from None
        case ".csv":
            try:
                values = torch.tensor([float(line) for line in path.read_text().split("\n") if line.strip()])
            except ValueError as error:
                raise ValueError(f"{path}: expected one number per line ({error})") from error
        case suffix:
            raise ValueError(f"{path}: scores must be a .pt, .npy or .csv file, got {suffix or 'no suffix'}")
    if not isinstance(values, Tensor):
        raise ValueError(f"{path}: expected a tensor of scores, found {type(values).__name__}")
    if tuple(values.shape) != (count,):
        raise ValueError(
            f"{path}: scores of shape {tuple(values.shape)}, expected ({count},), one number per image of "
            "the training set and of the validation split taken from it, in stored order"
        )
    values = values.double()
    bad = (~values.isfinite()).nonzero()
    if len(bad) > 0:
        where = int(bad[0])
        raise ValueError(f"{path}: scores must be finite, number {where} is {float(values[where])}")
    return values


def cross_entropies(outputs: Tensor, labels: Tensor) -> Tensor:
    """Return the cross entropy of each image, -ln p_y: (N, K) scores and (N,) labels to (N,)."""
    return nn.functional.cross_entropy(outputs, labels, reduction="none")


def negative_margins(outputs: Tensor, labels: Tensor) -> Tensor:
    """Return each image's negative margin: the largest probability of a wrong class minus its own class's.

    Args:
        outputs: (N, K) scores f, K >= 2, with p = softmax(f).
        labels: int64 (N,).

    Returns:
        (N,) in [-1, 1]; above 0 if the image is misclassified, so the higher, the harder.

    Example:
        >>> outputs = torch.tensor([[0.7, 0.2, 0.1], [0.7, 0.2, 0.1]]).log()
        >>> negative_margins(outputs, torch.tensor([0, 1]))
        tensor([-0.5000,  0.5000])
    """
    p = outputs.softmax(1)
    own = labels[:, None]
    return p.scatter(1, own, -1.0).amax(1) - p.gather(1, own)[:, 0]


Quantity = Literal["loss", "margin"]
QUANTITIES: dict[Quantity, Callable[[Tensor, Tensor], Tensor]] = {
    "loss": cross_entropies,
    "margin": negative_margins,
}
"""The difficulty of images, computed from a network's scores and the labels."""
