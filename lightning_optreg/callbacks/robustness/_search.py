"""The search of adversarial examples in a training step: PGD, FGSM with a random start, or TRADES's."""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_optreg.attacks.attacked_network import first_output
from lightning_optreg.attacks.pixel_space import PixelSpace
from lightning_optreg.attacks.steps import Norm, maximise, size_of
from lightning_optreg.randomness.draws import Draws

__all__ = ["Loss", "divergence", "main_output", "search"]

Loss = Literal["cross_entropy", "mse"]


_NEAR = 1e-3  # standard deviation of where TRADES begins, as in the authors' code


def divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Return the sum over the images of KL(p || q), in nats.

    Args:
        log_p: Logarithms of probabilities (N, K).
        log_q: Likewise.
    """
    return F.kl_div(log_q, log_p, reduction="sum", log_target=True)


def main_output(output: Any) -> Tensor:
    """Return a network's output in at least 32 bits, without those of auxiliary heads."""
    found: Tensor = first_output(output)
    return found.to(torch.promote_types(found.dtype, torch.float32))


def search(
    outputs_of: Callable[[Tensor], Tensor],
    images: Tensor,
    labels: Tensor,
    draws: Draws,
    loss: Loss | Literal["divergence"],
    *,
    space: PixelSpace,
    eps: float,
    step_size: float,
    steps: int,
    norm: Norm,
) -> Tensor:
    """Search changes of pixels that make a network wrong, or different from itself.

    Args:
        outputs_of: The network, in the mode that it has in the search.
        images: Inputs (N, ...).
        labels: Classes (N,), probabilities (N, K), or numbers in the shape of the outputs.
        draws: Random numbers of the batch.
        loss: What is maximised: of outputs and labels, or KL(f(p) || f(p')), as TRADES does.
        space: Between inputs and pixels.
        eps: Largest size of a change in the norm.
        step_size: Size of a step.
        steps: Number of steps.
        norm: `linf` or `l2`.

    Returns:
        The change, (N, ...).
    """
    if loss == "cross_entropy" and not labels.is_floating_point():
        labels = labels.long()  # cross_entropy takes no integers of 16 or 32 bits
    if loss == "divergence":
        start = _NEAR * draws.normal(*images.shape[1:])
        with torch.no_grad():
            natural = outputs_of(images).log_softmax(-1)
    else:
        start = _random_start(images, draws, eps, norm)

    def loss_of(inputs: Tensor) -> Tensor:
        outputs = outputs_of(inputs)
        if loss == "divergence":
            return divergence(natural, outputs.log_softmax(-1))
        if loss == "cross_entropy":
            return F.cross_entropy(outputs, labels, reduction="sum")
        return F.mse_loss(outputs, labels.to(outputs.dtype), reduction="sum")

    return maximise(loss_of, images, start, space=space, eps=eps, step_size=step_size, steps=steps, norm=norm)


def _random_start(images: Tensor, draws: Draws, eps: float, norm: Norm) -> Tensor:
    """Return points of the balls around images: uniform for linf, and in length and direction for l2."""
    if norm == "linf":
        return draws.uniform(*images.shape[1:], low=-eps, high=eps)
    direction = draws.normal(*images.shape[1:])
    length = eps * draws.uniform(*[1] * (images.ndim - 1))
    return direction * length / size_of(direction, norm)
