"""Loss and accuracy of a network with given weights, on a fixed set of images."""

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

from lightning_optreg.analysis.directions import along
from lightning_optreg.layers.modes import evaluating

__all__ = ["evaluate", "loss_grid"]

Batches = Sequence[tuple[Tensor, Tensor]]


def evaluate(
    net: nn.Module, loss: nn.Module, batches: Batches, weights: Mapping[str, Tensor]
) -> tuple[float, float]:
    """Return the mean loss and the accuracy of a network with other weights, in evaluation mode.

    Args:
        net: The network; its own weights stay as they are.
        loss: Maps scores (n, K) and labels (n,) to their mean loss.
        batches: Images (n, C, H, W) and labels (n,), on the weights' device.
        weights: Parameters by name, and buffers if they differ too.
    """
    total, right, images = 0.0, 0, 0
    with evaluating(net), torch.no_grad():
        for x, y in batches:
            scores = functional_call(net, dict(weights), (x,))
            total += float(loss(scores, y)) * len(y)
            right += int((scores.argmax(1) == y).sum())
            images += len(y)
    return total / images, right / images


def loss_grid(
    net: nn.Module,
    loss: nn.Module,
    batches: Batches,
    weights: Mapping[str, Tensor],
    directions: Sequence[Mapping[str, Tensor]],
    axes: Sequence[Tensor],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Tensor, Tensor]:
    """Evaluate a network at theta + a d_1 (+ b d_2) for all a (and b).

    Args:
        net: The network.
        loss: As in `evaluate`.
        batches: As in `evaluate`.
        weights: theta, by name.
        directions: d_1, or d_1 and d_2.
        axes: For each direction the distances, increasing.
        progress: Called with the number of places done and of all.

    Returns:
        Losses and accuracies, float64, of shape (len(a),) or (len(a), len(b)).

    Example:
        >>> net, images, labels = nn.Linear(1, 2, bias=False), torch.ones(1, 1), torch.tensor([1])
        >>> weights, direction = {"weight": torch.zeros(2, 1)}, {"weight": torch.tensor([[0.0], [1.0]])}
        >>> a = torch.tensor([-1.0, 0.0, 1.0])
        >>> losses, accuracies = loss_grid(
        ...     net, nn.CrossEntropyLoss(), [(images, labels)], weights, [direction], [a]
        ... )
        >>> losses
        tensor([1.3133, 0.6931, 0.3133], dtype=torch.float64)
        >>> accuracies
        tensor([0., 0., 1.], dtype=torch.float64)
    """
    shape = tuple(len(axis) for axis in axes)
    places = list(_places(axes))
    found = []
    for place in places:
        found.append(evaluate(net, loss, batches, along(weights, directions, place)))
        progress(len(found), len(places))
    losses, accuracies = torch.tensor(found, dtype=torch.float64).unbind(1)
    return losses.view(shape), accuracies.view(shape)


def _places(axes: Sequence[Tensor]) -> Iterator[list[float]]:
    for place in torch.cartesian_prod(*axes).view(-1, len(axes)):
        yield place.tolist()
