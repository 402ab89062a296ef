"""Steps of gradient ascent within a ball around each image: the inner problem of adversarial training.

    max over |d| <= eps of L(f(p + d), y),  by  d <- P(d + step_size g),

where g is the sign of the gradient for the norm "linf" and the normalised gradient for "l2", and P projects
on the ball and on pixels in [0, 1]. One step of size eps from 0 is FGSM (Goodfellow, Shlens, Szegedy 2015,
"Explaining and harnessing adversarial examples", arXiv:1412.6572), several are I-FGSM (Kurakin, Goodfellow,
Bengio 2017, arXiv:1607.02533), and several from a random start PGD (Madry, Makelov, Schmidt, Tsipras, Vladu
2018, "Towards deep learning models resistant to adversarial attacks", arXiv:1706.06083).
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from lightning_optreg.attacks.pixel_space import PixelSpace

__all__ = ["Norm", "ascend", "maximise", "project", "size_of"]

Norm = Literal["linf", "l2"]

_TINY = 1e-12  # of a gradient that is 0


def size_of(change: Tensor, norm: Norm) -> Tensor:
    """Return the norm of each image's change (N, ...), as (N, 1, ..., 1)."""
    dims = tuple(range(1, change.ndim))
    order = torch.inf if norm == "linf" else 2
    size: Tensor = torch.linalg.vector_norm(change, order, dim=dims, keepdim=True)
    return size


def project(change: Tensor, eps: float, norm: Norm) -> Tensor:
    """Project each image's change on the ball of radius eps.

    Args:
        change: (N, ...).
        eps: Radius, at least 0.
        norm: `linf` or `l2`.

    Example:
        >>> project(torch.tensor([[3.0, -4.0]]), 1.0, "l2")
        tensor([[ 0.6000, -0.8000]])
    """
    if norm == "linf":
        return change.clamp(-eps, eps)
    return change * (eps / size_of(change, norm).clamp(min=_TINY)).clamp(max=1.0)


def ascend(change: Tensor, gradient: Tensor, step_size: float, norm: Norm) -> Tensor:
    """Make the step of this size that the loss rises most on, to first order.

    Args:
        change: (N, ...).
        gradient: Of the loss, in the same shape. Where it is not a number, nothing moves.
        step_size: Length of the step in this norm, at least 0.
        norm: `linf` or `l2`.

    Example:
        >>> ascend(torch.zeros(1, 2), torch.tensor([[3.0, -4.0]]), 0.5, "linf")
        tensor([[ 0.5000, -0.5000]])
    """
    gradient = gradient.nan_to_num(0.0)
    if norm == "linf":
        return change + step_size * gradient.sign()
    return change + gradient * (step_size / size_of(gradient, norm).clamp(min=_TINY))


def maximise(
    loss_of: Callable[[Tensor], Tensor],
    inputs: Tensor,
    start: Tensor,
    *,
    space: PixelSpace,
    eps: float,
    step_size: float,
    steps: int,
    norm: Norm = "linf",
) -> Tensor:
    """Search the change of the pixels that maximises a loss.

    No gradient of a parameter is computed or changed.

    Args:
        loss_of: Maps inputs (N, C, H, W) to the sum of the images' losses.
        inputs: (N, C, H, W), in the units of the network.
        start: The change to begin with, in pixels, (N, C, H, W).
        space: Between inputs and pixels.
        eps: Radius of the ball, in pixels on [0, 1].
        step_size: Length of a step, in pixels.
        steps: Number of steps, at least 0.
        norm: Of the ball and the steps.

    Returns:
        The change of the pixels, (N, C, H, W), within the ball, with pixels within [0, 1].

    Raises:
        RuntimeError: If the loss does not depend on the inputs.

    Example:
        >>> weight = torch.tensor([1.0, -2.0]).view(1, 2, 1, 1)
        >>> x = torch.tensor([0.5, 0.05]).view(1, 2, 1, 1)
        >>> options = dict(space=PixelSpace(), eps=0.1, step_size=0.1, steps=1)
        >>> maximise(lambda x: (weight * x).sum(), x, torch.zeros_like(x), **options).flatten()
        tensor([ 0.1000, -0.0500])
    """
    inputs = inputs.detach()
    down, up = space.room(inputs)

    def allowed(change: Tensor) -> Tensor:
        return torch.maximum(torch.minimum(project(change, eps, norm), up), down)

    change = allowed(start.detach())
    for _ in range(steps):
        change.requires_grad_()
        with torch.enable_grad():
            loss = loss_of(space.moved(inputs, change))
        if not loss.requires_grad:
            raise RuntimeError("the network's scores have no gradient with respect to the images")
        (gradient,) = torch.autograd.grad(loss, change)
        change = allowed(ascend(change.detach(), gradient, step_size, norm))
    return change
