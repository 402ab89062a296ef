"""Directions along which to look at the loss around a network's weights.

Li, Xu, Taylor, Studer and Goldstein 2018, "Visualizing the loss landscape of neural nets" (arXiv:1712.09913):
random directions whose filters have the norms of the network's, and the principal directions of a trajectory.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

__all__ = ["Normalization", "along", "principal_directions", "random_direction"]

Weights = Mapping[str, Tensor]
Normalization = Literal["filter", "layer", "none"]


def random_direction(
    weights: Weights, generator: torch.Generator, normalize: Normalization = "filter"
) -> dict[str, Tensor]:
    """Draw a direction d of normal numbers, and scale each filter to the norm of the network's.

    d_ij = d_ij / |d_ij| |theta_ij| for the j-th filter (output unit) of layer i. Parameters of one dimension,
    biases and those of normalisation layers, do not move.

    Args:
        weights: The parameters by name.
        generator: Of the CPU, so that a seed gives the same direction on every device.
        normalize: "filter"; "layer" for one norm for each layer's weights; "none" for the normal numbers.

    Returns:
        Tensors of the same names, shapes and devices.

    Example:
        >>> weights = {"w": torch.tensor([[3.0, 4.0], [0.0, 2.0]]), "b": torch.ones(2)}
        >>> d = random_direction(weights, torch.Generator().manual_seed(0))
        >>> d["w"].norm(dim=1), d["b"]
        (tensor([5., 2.]), tensor([0., 0.]))
    """
    direction = {}
    for name, weight in weights.items():
        if weight.dim() < 2:
            direction[name] = torch.zeros_like(weight)
            continue
        drawn = torch.randn(weight.shape, generator=generator, dtype=weight.dtype).to(weight.device)
        if normalize != "none":
            dims = tuple(range(1 if normalize == "filter" else 0, weight.dim()))
            ratio = _norm(weight, dims) / _norm(drawn, dims)
            drawn = drawn * ratio
        direction[name] = drawn
    return direction


def _norm(tensor: Tensor, dims: tuple[int, ...]) -> Tensor:
    return tensor.square().sum(dims, keepdim=True).sqrt()


def principal_directions(path: Sequence[Weights]) -> tuple[list[dict[str, Tensor]], Tensor, Tensor]:
    """Find the two directions in which a trajectory moves most, seen from its end.

    They are the first principal components of theta_i - theta_n. Random directions are almost orthogonal to
    any trajectory and would not show its movement (section 7 of the paper).

    Args:
        path: Weights theta_0 to theta_n by name, at least 3 points.

    Returns:
        Two orthonormal directions; the coordinates (n + 1, 2) of the trajectory in them; and the share of the
        variance of theta_i - theta_n that each explains.

    Raises:
        ValueError: If there are fewer than 3, or they are all the same.

    Example:
        >>> path = [{"w": torch.tensor(w)} for w in ([4.0, 0.0], [2.0, 1.0], [0.0, 0.0])]
        >>> directions, coordinates, explained = principal_directions(path)
        >>> coordinates.shape
        torch.Size([3, 2])
        >>> explained
        tensor([0.9623, 0.0377], dtype=torch.float64)
    """
    if len(path) < 3:
        raise ValueError(f"principal_directions: path must have at least 3 places, got {len(path)}")
    names = list(path[-1])
    rows = torch.stack(
        [torch.cat([(place[name] - path[-1][name]).flatten().double() for name in names]) for place in path]
    )
    # By the small Gram matrix: rows has few rows and as many columns as the network has weights.
    squares, vectors = torch.linalg.eigh(rows @ rows.T)
    if not squares[-1] > 0:
        raise ValueError("principal_directions: path must move, and all its places are the same")
    order = [-1, -2]
    directions = []
    for index in order:
        direction = vectors[:, index] @ rows
        directions.append(direction / direction.norm().clamp(min=torch.finfo(torch.float64).tiny))
    coordinates = rows @ torch.stack(directions).T
    explained = squares[order].clamp(min=0.0) / squares.clamp(min=0.0).sum()
    return [_unflatten(direction, path[-1]) for direction in directions], coordinates, explained


def _unflatten(vector: Tensor, like: Weights) -> dict[str, Tensor]:
    found, start = {}, 0
    for name, weight in like.items():
        found[name] = vector[start : start + weight.numel()].view(weight.shape).to(weight)
        start += weight.numel()
    return found


def along(weights: Weights, directions: Sequence[Weights], place: Sequence[float]) -> dict[str, Tensor]:
    """Return theta + a d_1 + b d_2.

    Args:
        weights: theta by name.
        directions: d_1, d_2, ...
        place: a, b, ...

    Example:
        >>> theta, d_1 = {"w": torch.tensor([1.0, 2.0])}, {"w": torch.tensor([1.0, 0.0])}
        >>> along(theta, [d_1], [0.5])
        {'w': tensor([1.5000, 2.0000])}
    """
    moved = dict(weights)
    for direction, distance in zip(directions, place, strict=True):
        moved = {name: weight + distance * direction[name] for name, weight in moved.items()}
    return moved
