"""The base of PowerSign and AddSign: the gradient's moving average, the internal decay and their settings."""

from torch import Tensor
from typing_extensions import override

from lightning_optreg._checks import check_choice, check_numbers, check_range
from lightning_optreg.optimizers._sign_decay import sign_decay
from lightning_optreg.optimizers.update_rule import Group, State, UpdateRule, zeros

__all__ = ["SignRule"]


class SignRule(UpdateRule):
    """A rule that steps further where gradient and moving average m agree in sign.

    A subclass's settings are `beta`, the decay rate of m_t = beta m_{t-1} + (1 - beta) g, in [0, 1); `decay`,
    the internal decay f, with its T `decay_steps` and its n `periods`; and `steps`, which counts from 0.
    """

    @override
    def check_group(self, group: Group) -> None:
        """Refuse settings that are out of range."""
        name = type(self).__name__
        check_range(name, "[0, 1)", beta=group["beta"])
        decay, total, periods = group["decay"], group["decay_steps"], group["periods"]
        check_choice(name, ("none", "linear", "cosine", "restart"), decay=decay)
        if total is not None:
            check_numbers(name, decay_steps=total)
        if (total is None and decay != "none") or (total is not None and not total >= 1):
            raise ValueError(f"{name}: decay_steps must be at least 1 with decay={decay!r}, got {total}")
        if periods is not None:
            check_range(name, "(0, inf)", periods=periods)
        group["steps"] = self.param_groups[0]["steps"]  # a group added later decays with the others

    @override
    def start_state(self, group: Group, parameter: Tensor) -> State:
        """Begin the moving average at 0."""
        return zeros(parameter, "exp_avg")

    @override
    def begin_step(self, loss: Tensor | float | None) -> None:
        """Count the steps."""
        for group in self.param_groups:
            group["steps"] += 1

    def decay_now(self, group: Group) -> float:
        """Return f(t) for the current step; the first has t = 0.

        Args:
            group: The settings.
        """
        return sign_decay(group["decay"], group["steps"] - 1, group["decay_steps"], group["periods"])
