"""Images dealt into folds: by class, in any order, or by groups that stay whole."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_optreg.randomness.draws import mix

__all__ = ["deal", "deal_groups"]


def deal(labels: Tensor, folds: int, seed: int, *, stratified: bool = True) -> Tensor:
    """Deal positions into folds whose sizes differ by at most one, and so do their numbers of each class.

    The positions of each class are shuffled, laid behind those of the class before, and dealt one by one, as
    cards to players.

    Args:
        labels: int64 (N,), classes counted from 0.
        folds: Number of folds, in [1, N].
        seed: Seed of the deal, any integer.
        stratified: Whether classes count; without, all images are shuffled together.

    Returns:
        int64 (N,), the fold of each position.

    Raises:
        ValueError: If there are more folds than positions.

    Example:
        >>> labels = torch.tensor([0, 0, 0, 0, 1, 1])
        >>> labels[deal(labels, folds=2, seed=0) == 0]
        tensor([0, 0, 1])
    """
    if folds > len(labels):
        raise ValueError(f"folds must be <= {len(labels)}, the number of images, got {folds}")
    generator = torch.Generator().manual_seed(mix(seed))
    order = torch.randperm(len(labels), generator=generator)
    if stratified:
        order = order[labels[order].argsort(stable=True)]
    places = torch.randperm(folds, generator=generator)  # so that the larger folds are any
    dealt = torch.empty_like(labels)
    dealt[order] = places[torch.arange(len(labels)) % folds]
    return dealt


def deal_groups(groups: Tensor, labels: Tensor, shares: Sequence[float], seed: int) -> Tensor:
    """Deal whole groups into parts that have about the given shares of the images, and of each class.

    Groups are dealt from the largest to the smallest, equal ones in random order, each to the part f with
    the least `sum_c (2 n_fc g_c + g_c^2) / (N_c^2 w_f)`: n_fc images of class c are in it, g_c in the group,
    N_c in all, and w_f is its share. That is what keeps `sum_fc (n_fc / N_c - w_f)^2 / w_f` smallest, group
    by group. With equal shares and at least as many groups as parts, none is empty.

    Args:
        groups: int64 (N,), the group of each position, counted from 0.
        labels: int64 (N,), classes counted from 0; all 0 to count images only.
        shares: The share of each part, above 0.
        seed: Seed of the order among groups of equal size, any integer.

    Returns:
        int64 (N,), the part of each position.

    Raises:
        ValueError: If there are fewer groups than parts.

    Example:
        >>> groups = torch.tensor([0, 0, 1, 2, 2, 2])
        >>> parts = deal_groups(groups, torch.zeros_like(groups), [0.5, 0.5], seed=0)
        >>> sorted(parts.bincount().tolist())
        [3, 3]
    """
    _, groups = torch.unique(groups, return_inverse=True)
    count = int(groups.max()) + 1
    if len(shares) > count:
        raise ValueError(f"folds must be <= {count}, the number of groups, got {len(shares)}")
    classes = int(labels.max()) + 1
    inside = torch.zeros(count, classes, dtype=torch.float64)
    inside.index_put_((groups, labels), torch.ones(len(labels), dtype=torch.float64), accumulate=True)
    scale = 1.0 / inside.sum(0).clamp(min=1.0).square()  # (classes,)
    weights = torch.tensor(shares, dtype=torch.float64)
    generator = torch.Generator().manual_seed(mix(seed))
    order = torch.randperm(count, generator=generator)
    order = order[inside.sum(1)[order].argsort(descending=True, stable=True)]
    filled = torch.zeros(len(shares), classes, dtype=torch.float64)
    part_of = torch.empty(count, dtype=torch.int64)
    for group in order.tolist():
        added = inside[group]
        cost = ((2.0 * filled * added + added.square()) * scale).sum(1) / weights
        # Of equal ones, the one with the fewest images: a part without this group's classes may be full.
        level = filled.sum(1) / weights
        best = cost <= cost.min() * (1 + 1e-12)
        part = int(torch.where(best, level, torch.inf).argmin())
        part_of[group] = part
        filled[part] += added
    return part_of[groups]
