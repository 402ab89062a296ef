"""The base of Nesterov's two schemes for convex functions: a gradient step, an extrapolation, and restarts.

Nesterov 1983 and 2004, "Introductory lectures on convex optimization"; restarts: O'Donoghue and Candes 2015,
"Adaptive restart for accelerated gradient schemes" (arXiv:1204.3982).
"""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor
from torch.optim.optimizer import ParamsT
from typing_extensions import override

from lightning_optreg._checks import check_choice
from lightning_optreg.optimizers._blocks import in_blocks
from lightning_optreg.optimizers.rate_estimate import inner_product
from lightning_optreg.optimizers.rates import add_scaled_, rate_of
from lightning_optreg.optimizers.update_rule import Group, State, States, Tensors, UpdateRule, as_real

__all__ = ["Extrapolation", "Restart"]

Restart = Literal["function", "gradient"]
"""When to start over: as soon as f has risen, or as soon as the gradient points along the movement."""


class Extrapolation(UpdateRule):
    """y_{k+1} = x_k - s grad f(x_k), x_{k+1} = y_{k+1} + c_k (y_{k+1} - y_k), y_0 = x_0.

    The parameters are x, where gradients are taken. A subclass defines c_k.

    Args:
        params: Parameters, or groups of them.
        defaults: Settings of a group, `lr` and `weight_decay` among them.
        restart: None, "function" (start over from x_k, with k = 0, when f(x_k) > f(x_{k-1}); needs a closure
            for f) or "gradient" (when grad f(x_k).(y_{k+1} - y_k) > 0). The paper's function scheme compares
            f at y, which would take a second evaluation a step; at x the closure has it already. f is the
            closure's loss with the L2 term, its mean over the processes of `torch.distributed`, so that all
            start over together.
        maximize: Climb instead of descend.
        foreach: Use multi-tensor operations.
        differentiable: Let gradients flow through the step.
    """

    def __init__(
        self,
        params: ParamsT,
        defaults: dict[str, Any],
        restart: Restart | None,
        *,
        maximize: bool,
        foreach: bool | None,
        differentiable: bool,
    ) -> None:
        # What all groups have in common is stored in each: a state_dict has no other place for it.
        defaults = {**defaults, "restart": restart, "k": 0, "last_value": None, "restarts": 0}
        super().__init__(params, defaults, maximize=maximize, foreach=foreach, differentiable=differentiable)

    @override
    def check_group(self, group: Group) -> None:
        """Refuse an unknown way to restart, and groups with different ones."""
        name, restart = type(self).__name__, group["restart"]
        check_choice(name, (None, "function", "gradient"), restart=restart)
        if restart != self.param_groups[0]["restart"]:
            raise ValueError(f"{name}: restart must be the same in all groups, got {restart!r}")

    @property
    def restarts(self) -> int:
        """How often it has started over."""
        count: int = self.param_groups[0]["restarts"]
        return count

    @abstractmethod
    def coefficient(self, group: Group) -> float | Tensor:
        """Return c_k of a group, whose number of steps since the start is `group["k"]`."""

    @override
    def forget(self) -> None:
        """Start over, with y = x and k = 0."""
        super().forget()
        for group in self.param_groups:
            group.update(k=0, last_value=None)

    @override
    def start_state(self, group: Group, parameter: Tensor) -> State:
        """Begin with y = x."""
        # With `differentiable` it is part of the graph.
        return {"y": parameter.clone(memory_format=torch.preserve_format)}

    @override
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Make one step; with `restart="function"` it needs a closure."""
        loss = super().step(closure)
        for group in self.param_groups:
            group["k"] += 1
        return loss

    @override
    def begin_step(self, loss: Any) -> None:
        """Start over if it is time to."""
        restart = self.param_groups[0]["restart"]
        if restart is None:
            return
        if restart == "function":
            if loss is None:
                raise RuntimeError(f"{type(self).__name__}: restart='function' needs step(closure)")
            value, last = self._objective(loss), self.param_groups[0]["last_value"]
            due = last is not None and value > last
            for group in self.param_groups:
                group["last_value"] = value
        else:
            due = self._goes_uphill()
        if due:
            for group in self.param_groups:
                group["k"] = 0
                group["restarts"] += 1
                for parameter in group["params"]:
                    if parameter in self.state:
                        self.state[parameter]["y"].copy_(as_real(parameter))

    def _objective(self, loss: Any) -> float:
        value = float(loss.detach() if isinstance(loss, Tensor) else loss)
        if self.param_groups[0]["maximize"]:
            value = -value
        for group in self.param_groups:
            if group["weight_decay"] != 0.0:
                x = [as_real(parameter).detach() for parameter in group["params"]]
                value += 0.5 * group["weight_decay"] * float(inner_product(x, x))
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            # Each process has the loss of its own batch, and by itself would start over at other times.
            device = self.param_groups[0]["params"][0].device
            total = torch.tensor(value, dtype=torch.float64, device=device)
            dist.all_reduce(total)
            value = float(total) / dist.get_world_size()
        return value

    def _goes_uphill(self) -> bool:
        products = []
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None or parameter.grad.is_sparse or parameter not in self.state:
                    continue
                x, y = as_real(parameter).detach(), self.state[parameter]["y"].detach()
                g = self._descent_direction(group, x, as_real(parameter.grad).detach())
                movement = (x - y).sub_(g, alpha=float(group["lr"]))
                products.append(inner_product([g], [movement]))
        return bool(products) and float(sum(product.cpu() for product in products)) > 0.0

    @override
    def update_tensor(self, group: Group, parameter: Tensor, gradient: Tensor, state: State) -> None:
        """Set y_{k+1} = x_k - s g; x_{k+1} = y_{k+1} + c_k (y_{k+1} - y_k)."""
        y = state["y"]
        parameter.sub_(rate_of(group) * gradient)  # y_{k+1}
        movement = parameter - y
        y.copy_(parameter)
        parameter.add_(self.coefficient(group) * movement)

    @override
    def update_tensors(self, group: Group, parameters: Tensors, gradients: Tensors, states: States) -> None:
        for x, g, y in in_blocks(parameters, gradients, [state["y"] for state in states]):
            add_scaled_(x, g, -rate_of(group))
            movement = torch._foreach_sub(x, y)
            torch._foreach_copy_(y, x)
            add_scaled_(x, movement, self.coefficient(group))
