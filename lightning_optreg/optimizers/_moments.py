"""What the relatives of Adam share: checks of their settings, and steps counted by parameter."""

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from typing_extensions import override

from lightning_optreg._checks import check_range
from lightning_optreg.optimizers.update_rule import Group, States, Tensors, UpdateRule

__all__ = ["Moments", "by_step"]


class Moments(UpdateRule):
    """A rule with two moments."""

    @override
    def check_group(self, group: Group) -> None:
        """Refuse settings that are out of range."""
        name = type(self).__name__
        betas = group["betas"]
        pair = isinstance(betas, (tuple, list)) and len(betas) == 2
        if not (pair and all(isinstance(beta, (float, int)) and 0.0 <= beta < 1.0 for beta in betas)):
            raise ValueError(f"{name}: betas must be two numbers in [0, 1), got {betas!r}")
        if "eps" in group:
            check_range(name, "[0, inf)", eps=group["eps"])
        group["betas"] = tuple(group["betas"])


def by_step(
    parameters: Tensors, gradients: Tensors, states: States
) -> Iterator[tuple[int, tuple[Tensors, Tensors, States]]]:
    """Count one more step of each parameter, and group them by their counts, which set bias corrections.

    Args:
        parameters: The parameters.
        gradients: Their gradients.
        states: Their states, each with its `step`.

    Yields:
        A number of steps, this one included, with the parameters that have made it, gradients and states.
    """
    found: dict[int, Any] = defaultdict(lambda: ([], [], []))
    for place in zip(parameters, gradients, states, strict=True):
        place[2]["step"] += 1
        for column, piece in zip(found[place[2]["step"]], place, strict=True):
            column.append(piece)
    yield from found.items()
