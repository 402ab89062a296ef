"""A validation split with the same share of every class."""

import torch
from torch import Tensor

from lightning_optreg._checks import check_range
from lightning_optreg.randomness.draws import mix

__all__ = ["stratified_split"]


def stratified_split(labels: Tensor, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Split positions into two parts, the second with a share `fraction` of the whole and of each class.

    The second part gets n = round(fraction N) positions. Class c's share is fraction N_c, rounded down; the
    remaining positions go one each to the classes with the largest remainders (Hamilton's method), the lower
    class first among equals. The positions within a class are drawn with a separate generator.

    Args:
        labels: int64 (N,), classes counted from 0.
        fraction: Share of the second part, in [0, 1). 0 leaves it empty.
        seed: Seed of the draw, any integer.

    Returns:
        Positions of the first and of the second part, int64, ascending.

    Raises:
        ValueError: If fraction is out of its range, so small that the second part of N labels is empty, or
            so large that a class is missing from the first part.

    Example:
        >>> first, second = stratified_split(torch.tensor([0, 0, 0, 0, 1, 1]), fraction=0.5, seed=0)
        >>> len(first), len(second), (second >= 4).sum().item()
        (3, 3, 1)
    """
    check_range("stratified_split", "[0, 1)", fraction=fraction)
    if fraction == 0.0:
        return torch.arange(len(labels)), torch.arange(0)
    total = round(fraction * len(labels))
    if not total >= 1:
        raise ValueError(
            f"stratified_split: fraction must be 0 or give >= 1 image, got {fraction} of {len(labels)} images"
        )
    counts = labels.bincount()
    quota = counts.double() * fraction
    # 0.1 * 30 must not become 2.9999: a share within rounding error of an integer is that integer.
    taken = (quota + 1e-9).floor().long()
    by_remainder = (taken - quota).argsort(stable=True)
    taken[by_remainder[: total - int(taken.sum())]] += 1
    missing = ((taken >= counts) & (counts > 0)).nonzero()
    if len(missing) > 0:
        raise ValueError(
            f"stratified_split: fraction {fraction} leaves no image of class {int(missing[0])} to train on"
        )
    generator = torch.Generator().manual_seed(mix(seed))
    second = torch.zeros(len(labels), dtype=torch.bool)
    for label, count in enumerate(taken.tolist()):
        members = (labels == label).nonzero()[:, 0]
        second[members[torch.randperm(len(members), generator=generator)[:count]]] = True
    return (~second).nonzero()[:, 0], second.nonzero()[:, 0]
