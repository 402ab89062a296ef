"""The base of PowerSign and AddSign: the gradient's moving average, the internal decay and their settings."""

from typing import Any

from torch import Tensor
from torch.optim.optimizer import ParamsT
from typing_extensions import override

from lightning_optreg.checks import check_choice, check_range
from lightning_optreg.optimizers._sign_decay import Decay, sign_decay
from lightning_optreg.optimizers.update_rule import Group, State, UpdateRule, zeros

__all__ = ["SignRule"]


class SignRule(UpdateRule):
    """A rule that steps further where gradient and moving average m agree in sign.

    Args:
        params: Parameters, or groups of them.
        defaults: Settings of the subclass, `lr` among them.
        beta: Decay rate of m_t = beta m_{t-1} + (1 - beta) g, in [0, 1).
        decay: Internal decay f.
        decay_steps: T of the decay, at least 1; None only with "none".
        periods: n of the decay, above 0. None: its default.
        maximize: Climb instead of descend.
        foreach: Use multi-tensor operations.
        differentiable: Let gradients flow through the step.

    Raises:
        ValueError: If a value is out of range.
    """

    def __init__(
        self,
        params: ParamsT,
        defaults: dict[str, Any],
        *,
        beta: float,
        decay: Decay,
        decay_steps: int | None,
        periods: float | None,
        maximize: bool,
        foreach: bool | None,
        differentiable: bool,
    ) -> None:
        ours = {"beta": beta, "decay": decay, "decay_steps": decay_steps, "periods": periods, "steps": 0}
        super().__init__(
            params, {**defaults, **ours}, maximize=maximize, foreach=foreach, differentiable=differentiable
        )

    @override
    def check_group(self, group: Group) -> None:
        """Refuse settings that are out of range."""
        name = type(self).__name__
        check_range(name, "[0, 1)", beta=group["beta"])
        decay, total, periods = group["decay"], group["decay_steps"], group["periods"]
        check_choice(name, ("none", "linear", "cosine", "restart"), decay=decay)
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
