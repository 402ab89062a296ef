"""Local SGD: workers make tau steps of their own, then start again from one common point.

Stich 2018, "Local SGD converges fast and communicates little" (arXiv:1805.09767) takes the mean of the
workers' parameters as that point. Douillard et al. 2023, "DiLoCo: Distributed low-communication training of
language models" (arXiv:2311.08105) takes how far the mean has moved as the gradient of an outer optimizer:

    Delta = x~ - mean_i x_i;   x~ <- OuterOptimizer(x~, Delta);   x_i <- x~

The mean itself is what an outer SGD with a learning rate of 1 gives.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim import Optimizer

__all__ = ["outer_gradient", "outer_step"]


@torch.no_grad()
def outer_gradient(common: Sequence[Tensor], mean: Sequence[Tensor]) -> list[Tensor]:
    """Return Delta = x~ - mean_i x_i.

    Args:
        common: Parameters x~ from which the workers started.
        mean: Mean of the workers' parameters x_i now.

    Example:
        >>> outer_gradient([torch.tensor([3.0])], [torch.tensor([1.0])])
        [tensor([2.])]
    """
    return list(torch._foreach_sub(list(common), list(mean)))


@torch.no_grad()
def outer_step(common: Sequence[Tensor], mean: Sequence[Tensor], optimizer: Optimizer | None = None) -> None:
    """Move the common point: make a step of the outer optimizer, or take the mean.

    Args:
        common: Parameters x~ from which the workers started, changed in place.
        mean: Mean of the workers' parameters x_i now.
        optimizer: A torch optimizer of the tensors in `common`; their gradients are Delta in its step, and
            None before and after it. None: x~ becomes the mean exactly.

    Example:
        >>> common = torch.tensor([3.0])
        >>> outer_step([common], [torch.tensor([1.0])], torch.optim.SGD([common], lr=0.5))
        >>> common
        tensor([2.])
        >>> outer_step([common], [torch.tensor([1.0])])
        >>> common
        tensor([1.])
    """
    if optimizer is None:
        torch._foreach_copy_(list(common), list(mean))
        return
    for parameter, delta in zip(common, outer_gradient(common, mean), strict=True):
        parameter.grad = delta
    optimizer.step()
    for parameter in common:
        parameter.grad = None
