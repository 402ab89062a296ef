"""All parameters as one vector, as second-order methods need them."""

from collections.abc import Sequence
from math import inf
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT
from typing_extensions import override

from lightning_optreg.optimizers.rates import add_missing, own_settings

__all__ = ["OneVector", "flatten", "move", "only_group", "unflatten"]


def flatten(tensors: Sequence[Tensor]) -> Tensor:
    """Join tensors to one vector (n,).

    Args:
        tensors: Of one type and device, of any shapes.

    Example:
        >>> flatten([torch.ones(2, 2), torch.tensor(3.0)])
        tensor([1., 1., 1., 1., 3.])
    """
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def unflatten(vector: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """Cut a vector into views of the shapes of other tensors.

    Args:
        vector: (n,).
        like: Tensors with n numbers in all.

    Example:
        >>> unflatten(torch.arange(3.0), [torch.zeros(2, 1), torch.zeros(())])
        [tensor([[0.],
                [1.]]), tensor(2.)]
    """
    pieces = torch.split(vector, [tensor.numel() for tensor in like])
    return [piece.view(tensor.shape) for piece, tensor in zip(pieces, like, strict=True)]


@torch.no_grad()
def move(parameters: Sequence[Tensor], start: Tensor, direction: Tensor, step: float) -> None:
    """Set parameters to start + step * direction, in place.

    Args:
        parameters: Set in place.
        start: (n,).
        direction: (n,).
        step: Multiple of the direction; with 0 the parameters are the start to the last bit.

    Example:
        >>> theta = torch.zeros(2)
        >>> move([theta], torch.tensor([1.0, 2.0]), torch.tensor([1.0, -1.0]), 0.5)
        >>> theta
        tensor([1.5000, 1.5000])
    """
    point = start if step == 0.0 else start.add(direction, alpha=step)
    for parameter, value in zip(parameters, unflatten(point, parameters), strict=True):
        parameter.copy_(value)


def only_group(groups: Sequence[dict[str, Any]], name: str, largest: float = inf, why: str = "") -> None:
    """Refuse what cannot be treated as one vector of limited length.

    Args:
        groups: An optimizer's parameter groups.
        name: The optimizer's name, for the message.
        largest: Most numbers there may be. Default: any number.
        why: What takes the memory and what to do about it, for the message.

    Raises:
        ValueError: If there are several groups, parameters of another type than float32 or float64, of
            several types or devices, or too many.
    """
    if len(groups) != 1:
        raise ValueError(
            f"{name}: takes one parameter group, got {len(groups)}: it treats all parameters as one vector"
        )
    parameters: list[Tensor] = groups[0]["params"]
    types = {parameter.dtype for parameter in parameters}
    if types not in ({torch.float32}, {torch.float64}):
        got = " and ".join(sorted(str(dtype).removeprefix("torch.") for dtype in types))
        raise ValueError(
            f"{name}: parameters must be all float32 or all float64, got {got}: complex numbers are not "
            "supported, and in half precision differences of gradients are lost"
        )
    devices = {str(parameter.device) for parameter in parameters}
    if len(devices) != 1:
        raise ValueError(f"{name}: parameters must be on one device, got {' and '.join(sorted(devices))}")
    count = sum(parameter.numel() for parameter in parameters)
    if count > largest:
        raise ValueError(f"{name}: takes at most {largest} numbers, got {count}: {why}")


class OneVector(Optimizer):
    """A second-order optimizer, for which all parameters are one vector.

    Args:
        params: Parameters, in one group, all float32 or all float64.
        settings: The group's settings, `lr` among them.
        largest: Most numbers there may be in all.
        why: What takes the memory and what to do about it, for the message.

    Raises:
        ValueError: As in `only_group`.
    """

    def __init__(self, params: ParamsT, settings: dict[str, Any], largest: float, why: str) -> None:
        super().__init__(params, settings)
        only_group(self.param_groups, type(self).__name__, largest, why)

    @override
    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add the group of all parameters, with its own copy of the learning rate."""
        super().add_param_group(param_group)
        own_settings(type(self).__name__, self.param_groups[-1])

    @override
    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        add_missing(self, but="differentiable")  # torch puts that among the defaults
