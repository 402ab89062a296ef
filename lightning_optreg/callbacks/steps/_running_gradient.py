"""Gradients that are averaged over chunks outside autograd, and a loss whose `backward` returns them."""

from typing import Any

import torch
from torch import Tensor

__all__ = ["RunningMean", "with_gradients"]


class RunningMean:
    """Weighted mean of losses and gradients, chunk by chunk: m <- m + (n_k / N_k)(g_k - m).

    N_k is the number of images up to chunk k. With a single chunk the mean equals the chunk's values, to the
    last bit. Sparse gradients of embeddings stay sparse.

    Attributes:
        images: N_k.
        loss: Mean loss, None before the first chunk.
        gradients: Mean gradients; None for parameters that no chunk's loss depends on.

    Example:
        >>> mean = RunningMean(1)
        >>> mean.add(torch.tensor(1.0), [torch.tensor([2.0])], images=1)
        >>> mean.add(torch.tensor(4.0), [torch.tensor([8.0])], images=3)
        >>> mean.loss, mean.gradients
        (tensor(3.2500), [tensor([6.5000])])
    """

    def __init__(self, count: int) -> None:
        self.images = 0
        self.loss: Tensor | None = None
        self.gradients: list[Tensor | None] = [None] * count

    def add(self, loss: Tensor, gradients: list[Tensor | None], images: int) -> None:
        """Add a chunk: its mean loss, the gradients of that loss, and its number of images."""
        self.images += images
        share = images / self.images
        self.loss = loss if self.loss is None else self.loss.lerp(loss, share)
        for index, gradient in enumerate(gradients):
            mean = self.gradients[index]
            if mean is None:
                self.gradients[index] = None if gradient is None else gradient * share
            elif gradient is None:
                mean.mul_(1.0 - share)
            elif mean.is_sparse or gradient.is_sparse:
                self.gradients[index] = mean * (1.0 - share) + gradient * share
            else:
                mean.lerp_(gradient, share)


class _WithGradients(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, loss: Tensor, gradients: list[Tensor], *parameters: Tensor) -> Tensor:
        ctx.gradients = gradients
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        return (None, None, *(gradient * grad_outputs[0] for gradient in ctx.gradients))


def with_gradients(loss: Tensor, parameters: list[Tensor], gradients: list[Tensor]) -> Tensor:
    """Return a loss whose `backward` sets known gradients.

    Args:
        loss: The loss's value, a tensor ().
        parameters: Parameters.
        gradients: Their gradients, of the same shapes.

    Example:
        >>> theta = torch.zeros(2, requires_grad=True)
        >>> with_gradients(torch.tensor(5.0), [theta], [torch.tensor([1.0, 2.0])]).backward()
        >>> theta.grad
        tensor([1., 2.])
    """
    result: Tensor = _WithGradients.apply(loss, gradients, *parameters)
    return result
