"""What the relatives of Adam share: settings of two moments, their start, and steps counted by parameter."""

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from lightning_optreg.optimizers.update_rule import UpdateRule

__all__ = ["Moments", "by_step", "zeros"]


class Moments(UpdateRule):
    """A rule with two moments."""

    @override
    def check_group(self, group: dict[str, Any]) -> None:
        """Refuse settings that are out of range."""
        name = type(self).__name__
        if len(group["betas"]) != 2 or not all(0.0 <= beta < 1.0 for beta in group["betas"]):
            raise ValueError(f"{name}: betas must be two numbers in [0, 1), got {group['betas']}")
        if "eps" in group and not 0.0 <= group["eps"] < float("inf"):
            raise ValueError(f"{name}: eps must be in [0, inf), got {group['eps']}")
        group["betas"] = tuple(group["betas"])


def zeros(parameter: Tensor, *names: str) -> dict[str, Any]:
    """Begin averages of a parameter's shape at 0.

    Args:
        parameter: The parameter, real.
        names: Of the averages.
    """
    return {name: torch.zeros_like(parameter, memory_format=torch.preserve_format) for name in names}


def by_step(
    parameters: list[Tensor], gradients: list[Tensor], states: list[dict[str, Any]]
) -> Iterator[tuple[int, tuple[list[Tensor], list[Tensor], list[dict[str, Any]]]]]:
    """Count a step of each, and put together what has made as many: bias corrections are of each its own.

    Args:
        parameters: Parameters.
        gradients: Theirs.
        states: Theirs, each with its `step`.

    Yields:
        The number of steps, this one included, and the parameters, gradients and states that have made it.
    """
    found: dict[int, Any] = defaultdict(lambda: ([], [], []))
    for place in zip(parameters, gradients, states, strict=True):
        place[2]["step"] += 1
        for column, piece in zip(found[place[2]["step"]], place, strict=True):
            column.append(piece)
    yield from found.items()
