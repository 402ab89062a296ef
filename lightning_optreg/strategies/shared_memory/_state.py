"""The state of optimizers in memory that the workers share."""

from collections.abc import Sequence
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor
from torch.optim import Optimizer

from lightning_optreg.strategies.shared_memory._memory import Memory, Plan, move_in, plan_for

__all__ = ["StatePlan", "place_state", "shareable_state"]

StatePlan = tuple[list[tuple[int, int, str]], Plan]
"""For each tensor the numbers of its optimizer and parameter and its name; and where the tensors lie."""


def shareable_state(owner: str, optimizers: Sequence[Optimizer]) -> tuple[list[Tensor], StatePlan]:
    """Return the state of optimizers after a step, and a plan for it.

    Args:
        owner: Name of the strategy, for errors.
        optimizers: The optimizers.

    Raises:
        MisconfigurationException: If a part of the state is no tensor, or a parameter has no state yet where
            others of its optimizer have.
    """
    places: list[tuple[int, int, str]] = []
    tensors: list[Tensor] = []
    for number, optimizer in enumerate(optimizers):
        name = type(optimizer).__name__
        without = False
        begin = len(tensors)
        for index, parameter in enumerate(_parameters(optimizer)):
            state = optimizer.state.get(parameter, {})
            numbers = sorted(
                key for key, value in state.items() if not isinstance(value, (Tensor, type(None)))
            )
            if numbers:
                raise MisconfigurationException(
                    f"{owner}: shared_state needs tensors, but {name} keeps {', '.join(numbers)} as plain "
                    "numbers or objects: leave shared_state out"
                )
            found = [(key, value) for key, value in state.items() if value is not None]
            without |= not found
            places += [(number, index, key) for key, _ in found]
            tensors += [value for _, value in found]
        if without and len(tensors) > begin:
            raise MisconfigurationException(
                f"{owner}: shared_state needs the state of all parameters after the first step, but some of "
                f"{name}'s got no gradient in it: leave shared_state out, or freeze them"
            )
    return tensors, (places, plan_for(tensors))


def place_state(optimizers: Sequence[Optimizer], plan: StatePlan, memory: Memory) -> None:
    """Give the optimizers of another worker the state in a memory.

    Args:
        optimizers: The optimizers, of the same parameters.
        plan: From `shareable_state`.
        memory: The memory.
    """
    places, where = plan
    tensors = [torch.empty(shape, dtype=dtype) for _, _, shape, _, dtype in where.tensors]
    move_in(tensors, where, memory, copy=False)
    for (number, index, key), tensor in zip(places, tensors, strict=True):
        optimizer = optimizers[number]
        optimizer.state[_parameters(optimizer)[index]][key] = tensor


def _parameters(optimizer: Optimizer) -> list[Any]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
