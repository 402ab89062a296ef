"""Whether the examples of a batch are apart: whether each one's loss depends on no other."""

from collections.abc import Sequence

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

__all__ = ["refuse_mixing"]


def refuse_mixing(loss: Tensor, outputs: Sequence[Tensor], owner: str) -> None:
    """Refuse a loss in which examples meet after the first trained layer, as in a batch normalisation.

    If it is a sum of losses of single examples, the gradient by one row of a layer's output does not change
    with another row: the second derivatives by rows of two examples are zero. The graph stays as it is.

    Args:
        loss: Of a batch, before its backward pass.
        outputs: Outputs of layers that it was computed from, each (n, ...), a row for each of n examples.
        owner: Name of the calling class, for the error.

    Raises:
        MisconfigurationException: If such a derivative is not zero.

    Warns:
        UserWarning: If an operation has no second derivative.

    Example:
        >>> scores = torch.tensor([[1.0], [2.0], [4.0]], requires_grad=True)
        >>> refuse_mixing(scores.square().mean(), [scores], "DifferentialPrivacy")
        >>> refuse_mixing(scores.var(), [scores], "DifferentialPrivacy")
        Traceback (most recent call last):
            ...
        lightning.fabric.utilities.exceptions.MisconfigurationException: DifferentialPrivacy: the loss of...
    """
    try:
        first = torch.autograd.grad(loss, outputs, create_graph=True, allow_unused=True)
        # Of every other example, with weights that no symmetry makes cancel.
        chosen = [
            (each[::2] * (1.0 + _ramp(each[::2]))).sum()
            for each in first
            if each is not None and each.requires_grad
        ]
        if not chosen:  # the loss is linear
            return
        total = torch.stack([each.double() for each in chosen]).sum()
        second = torch.autograd.grad(total, outputs, retain_graph=True, allow_unused=True)
    except RuntimeError as error:
        rank_zero_warn(
            f"{owner}: it can't be checked that the loss of each example depends on no other, as in a batch "
            f"normalisation ({str(error).splitlines()[0]}); make sure of it"
        )
        return
    found = [each.detach().abs() for each in second if each is not None]
    own = max((float(each[::2].max()) for each in found), default=0.0)
    others = max((float(each[1::2].max()) for each in found), default=0.0)
    # Zero times anything is zero in floating point too; only what is not finite says nothing.
    if others > 1e-7 * own:
        raise MisconfigurationException(
            f"{owner}: the loss of an example depends on others of its batch, so clipping does not bound "
            "what an example changes; compute layers and loss for each example by itself, along dimension "
            "0, and take the mean"
        )


def _ramp(like: Tensor) -> Tensor:
    """Numbers on [0, 1) in the shape of a tensor, of no generator."""
    steps = torch.arange(like.numel(), device=like.device, dtype=torch.float32)
    return (steps * 0.6180339887 % 1.0).reshape(like.shape).to(like.dtype)
