"""Elastic averaging: springs of strength alpha between each worker's parameters and a centre.

Zhang, Choromanska and LeCun 2015, "Deep learning with Elastic Averaging SGD" (arXiv:1412.6651). x_i are the
parameters of worker i of p, x~ those of the centre, and both sides of a spring use the values of the same
time t, from before the gradient step:

    synchronous:   x_i <- x_i - eta g_i(x_i) - alpha (x_i - x~);   x~ <- (1 - beta) x~ + beta mean_i x_i
    asynchronous:  d = alpha (x_i - x~);   x~ <- x~ + d;   x_i <- x_i - eta g_i(x_i);   x_i <- x_i - d

with beta = p alpha. The lists hold one tensor for each parameter.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["elastic_difference", "move_centre", "pull_centre", "pull_worker"]


@torch.no_grad()
def elastic_difference(worker: Sequence[Tensor], centre: Sequence[Tensor], alpha: float) -> list[Tensor]:
    """Return alpha (x_i - x~), by which a worker and the centre move towards each other.

    Args:
        worker: Parameters x_i of a worker, from before its gradient step.
        centre: Parameters x~ of the centre at the same time.
        alpha: Moving rate, in [0, 1].

    Example:
        >>> elastic_difference([torch.tensor([3.0])], [torch.tensor([1.0])], 0.25)
        [tensor([0.5000])]
    """
    difference = torch._foreach_sub(list(worker), list(centre))
    torch._foreach_mul_(difference, alpha)
    return list(difference)


@torch.no_grad()
def pull_worker(worker: Sequence[Tensor], difference: Sequence[Tensor]) -> None:
    """Set x_i <- x_i - d, after the gradient step.

    Args:
        worker: Parameters x_i of a worker, changed in place.
        difference: d, from `elastic_difference`.

    Example:
        >>> x = torch.tensor([3.0])
        >>> pull_worker([x], [torch.tensor([0.5])])
        >>> x
        tensor([2.5000])
    """
    torch._foreach_sub_(list(worker), list(difference))


@torch.no_grad()
def pull_centre(centre: Sequence[Tensor], difference: Sequence[Tensor]) -> None:
    """Set x~ <- x~ + d, as the centre does when one worker calls (asynchronous).

    Args:
        centre: Parameters x~ of the centre, changed in place.
        difference: d of that worker, from `elastic_difference`.

    Example:
        >>> centre = torch.tensor([1.0])
        >>> pull_centre([centre], [torch.tensor([0.5])])
        >>> centre
        tensor([1.5000])
    """
    torch._foreach_add_(list(centre), list(difference))


@torch.no_grad()
def move_centre(centre: Sequence[Tensor], mean: Sequence[Tensor], beta: float) -> None:
    """Set x~ <- (1 - beta) x~ + beta mean_i x_i, as the centre does when all workers call (synchronous).

    Args:
        centre: Parameters x~ of the centre, changed in place; at beta = 1 they become the mean exactly.
        mean: Mean of the workers' parameters x_i, from before their gradient steps.
        beta: p alpha, in [0, 1].

    Example:
        >>> centre = torch.tensor([1.0])
        >>> move_centre([centre], [torch.tensor([3.0])], 0.5)
        >>> centre
        tensor([2.])
    """
    torch._foreach_lerp_(list(centre), list(mean), beta)
