"""Deal an optimizer's parameters out to servers, tensor by tensor, and bring their states together again."""

import copy
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

__all__ = ["PartState", "deal", "load_parts", "on_tensors", "part_of", "settings_of", "state_of"]

_SETTINGS = ("lr", "momentum", "betas", "weight_decay")
"""Settings of groups that schedules change while a run goes on: torch's change the first three."""

PartState = dict[str, Any]
"""`states`, the state of each parameter of a part, and `groups`, the settings of its groups."""


def deal(parameters: Sequence[Tensor], shards: int) -> list[list[int]]:
    """Deal tensors out so that every part holds about as many numbers: the largest first, to the least full.

    Args:
        parameters: The tensors; there are at least as many as parts.
        shards: Number of parts, at least 1.

    Returns:
        For each part the positions of its tensors, in order.

    Example:
        >>> deal([torch.zeros(n) for n in (3, 5, 1, 4)], 2)
        [[1, 2], [0, 3]]
    """
    parts: list[list[int]] = [[] for _ in range(shards)]
    loads = [0] * shards
    for position in sorted(range(len(parameters)), key=lambda i: -parameters[i].numel()):
        part = loads.index(min(loads))
        parts[part].append(position)
        loads[part] += parameters[position].numel()
    return [sorted(part) for part in parts]


def part_of(optimizer: Optimizer, positions: Iterable[int]) -> Optimizer:
    """Return an optimizer of some of the parameters, in main memory, with all groups, settings and states.

    Args:
        optimizer: The whole optimizer; its tensors are shared where they are in main memory already.
        positions: Positions of the parameters, counted through the groups.
    """
    wanted, position = set(positions), 0
    groups: list[dict[str, Any]] = []
    state: dict[Tensor, Any] = defaultdict(dict)
    for group in optimizer.param_groups:
        mine = []
        for parameter in group["params"]:
            if position in wanted:
                mine.append(parameter.detach().cpu())
                if parameter in optimizer.state:
                    state[mine[-1]] = _in_memory(optimizer.state[parameter])
            position += 1
        groups.append({**_in_memory({k: v for k, v in group.items() if k != "params"}), "params": mine})
    part = copy.copy(optimizer)
    part.param_groups = groups
    part.state = state  # type: ignore[assignment]  # a defaultdict as torch's own
    return part


def on_tensors(optimizer: Optimizer, tensors: Sequence[Tensor]) -> None:
    """Let an optimizer work on other tensors, which get the values of its own ones.

    Args:
        optimizer: The optimizer, changed in place.
        tensors: One for each parameter, in the order of the groups.
    """
    left = iter(tensors)
    for group in optimizer.param_groups:
        for i, old in enumerate(group["params"]):
            new = next(left)
            new.copy_(old)
            group["params"][i] = new
            if old in optimizer.state:
                optimizer.state[new] = optimizer.state.pop(old)


def settings_of(optimizer: Optimizer) -> list[dict[str, Any]]:
    """Return what schedules change, for each group: learning rate, momentum, betas and weight decay."""
    return [
        _in_memory({name: group[name] for name in _SETTINGS if name in group})
        for group in optimizer.param_groups
    ]


def state_of(optimizer: Optimizer) -> PartState:
    """Return the states and groups of a part."""
    parameters = (parameter for group in optimizer.param_groups for parameter in group["params"])
    return {
        "states": [dict(optimizer.state.get(parameter, {})) for parameter in parameters],
        "groups": [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups],
    }


@torch.no_grad()
def load_parts(optimizer: Optimizer, parts: Sequence[Sequence[int]], states: Sequence[PartState]) -> None:
    """Put the states of the parts into the whole optimizer; its settings stay where schedules change them.

    Args:
        optimizer: The whole optimizer, changed in place.
        parts: Positions of each part's parameters, as from `deal`.
        states: Each part's state, as from `state_of`.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for positions, part in zip(parts, states, strict=True):
        for position, state in zip(positions, part["states"], strict=True):
            parameter = parameters[position]
            if state:
                optimizer.state[parameter] = {
                    name: value.to(parameter.device if value.ndim else value.device, copy=True)
                    if isinstance(value, Tensor)
                    else value
                    for name, value in state.items()
                }
    for group, saved in zip(optimizer.param_groups, states[0]["groups"], strict=False):
        group.update({name: value for name, value in saved.items() if name not in (*_SETTINGS, "initial_lr")})


def _in_memory(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value.detach().cpu() if isinstance(value, Tensor) else value for name, value in values.items()
    }
