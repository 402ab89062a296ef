"""What PowerSign and AddSign share: the gradient's moving average, the internal decay and their settings."""

from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT
from typing_extensions import override

from lightning_optreg.optimizers._sign_decay import Decay, sign_decay
from lightning_optreg.optimizers.update_rule import UpdateRule

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
        ValueError: If a value is out of its range.
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
    def check_group(self, group: dict[str, Any]) -> None:
        """Refuse settings that are out of range."""
        name = type(self).__name__
        if not 0.0 <= group["beta"] < 1.0:
            raise ValueError(f"{name}: beta must be in [0, 1), got {group['beta']}")
        decay, total, periods = group["decay"], group["decay_steps"], group["periods"]
        if decay not in ("none", "linear", "cosine", "restart"):
            raise ValueError(f"{name}: decay must be none, linear, cosine or restart, got {decay!r}")
        if (total is None and decay != "none") or (total is not None and not total >= 1):
            raise ValueError(f"{name}: decay_steps must be at least 1 with decay={decay!r}, got {total}")
        if periods is not None and not 0.0 < periods < float("inf"):
            raise ValueError(f"{name}: periods must be above 0, got {periods}")
        group["steps"] = self.param_groups[0]["steps"]  # one added later decays with the others

    @override
    def start_state(self, group: dict[str, Any], parameter: Tensor) -> dict[str, Any]:
        """Begin the moving average at 0."""
        return {"exp_avg": torch.zeros_like(parameter, memory_format=torch.preserve_format)}

    @override
    def begin_step(self, loss: Tensor | float | None) -> None:
        """Count the steps."""
        for group in self.param_groups:
            group["steps"] += 1

    def decay_now(self, group: dict[str, Any]) -> float:
        """Give f(t) of the step being made; the first has t = 0.

        Args:
            group: The settings.
        """
        return sign_decay(group["decay"], group["steps"] - 1, group["decay_steps"], group["periods"])
