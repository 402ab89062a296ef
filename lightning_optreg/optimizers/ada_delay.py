"""AdaDelay: steps that shrink with how old the gradient is, for asynchronous training.

Sra, Yu, Li and Smola 2015, "AdaDelay: Delay Adaptive Distributed Stochastic Convex Optimization"
(arXiv:1508.05003), in the form of an author's program (dmlc/wormhole).
"""

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT
from typing_extensions import override

from lightning_optreg._checks import check_choice, check_range
from lightning_optreg.optimizers._blocks import in_blocks
from lightning_optreg.optimizers._touched_rows import update_touched
from lightning_optreg.optimizers.rates import add_quotients_, add_scaled_, rate_of
from lightning_optreg.optimizers.update_rule import Group, State, States, Tensors, UpdateRule, zeros

__all__ = ["AdaDelay"]


class AdaDelay(UpdateRule):
    """Gradient descent or AdaGrad at a rate that knows the gradient's delay tau.

    In step t = 1, 2, ..., with a gradient that was computed at parameters tau steps old:

    - "sgd": theta = theta - alpha / (beta + sqrt(t + tau)) g
    - "adagrad": n = n + g^2; theta = theta - alpha / (beta + sqrt(n) sqrt((t + tau) / t)) g

    Used alone, tau is 0: "adagrad" is then `torch.optim.Adagrad(lr=alpha, eps=beta)`, and "sgd" is descent at
    a rate that falls as 1 / sqrt(t). A server of asynchronous workers, whose gradients come late, passes the
    delay: `step(delay=tau)`, one step for each worker's gradient. The paper's variant that
    averages squared gradients weighted by their delays is not here.

    Args:
        params: Parameters, or groups of them.
        lr: alpha, at least 0. Default: 0.1.
        beta: Added to the root, above 0; the larger, the smaller the first steps. Default: 1.
        variant: "adagrad" or "sgd". Default: "adagrad".
        weight_decay: Factor lambda of the L2 term lambda/2 |theta|^2, at least 0 (coupled, with the
            parameters at the time of the step). Default: 0.
        maximize: Climb instead of descend.
        foreach: Use multi-tensor operations. None means yes, unless `differentiable`.
        differentiable: Let gradients flow through the step.

    Raises:
        ValueError: If a value is out of range.
        RuntimeError: In a step, if a gradient is sparse and there is weight decay.

    Example:
        >>> theta = torch.tensor([1.0], requires_grad=True)
        >>> optimizer = AdaDelay([theta], lr=1.0, variant="sgd")
        >>> theta.grad = torch.tensor([1.0])
        >>> optimizer.step(delay=8)  # 1 - 1 / (1 + sqrt(9))
        >>> theta
        tensor([0.7500], requires_grad=True)
    """

    takes_sparse_gradients = True

    _delay: int = 0

    def __init__(
        self,
        params: ParamsT,
        lr: float = 0.1,
        beta: float = 1.0,
        variant: Literal["adagrad", "sgd"] = "adagrad",
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
    ) -> None:
        defaults = {"lr": lr, "beta": beta, "variant": variant, "weight_decay": weight_decay, "steps": 0}
        super().__init__(params, defaults, maximize=maximize, foreach=foreach, differentiable=differentiable)

    @override
    def check_group(self, group: Group) -> None:
        """Refuse settings that are out of range."""
        check_range("AdaDelay", "(0, inf)", beta=group["beta"])
        check_choice("AdaDelay", ("adagrad", "sgd"), variant=group["variant"])
        group["steps"] = self.param_groups[0]["steps"]  # a group added later counts with the others

    @override
    def step(self, closure: Callable[[], Any] | None = None, *, delay: int = 0) -> Any:
        """Make one step.

        Args:
            closure: Computes the loss again, calls `backward` and returns the loss.
            delay: tau, the number of steps since the worker read the parameters for these gradients, at
                least 0.

        Returns:
            The closure's loss; None without one.

        Raises:
            ValueError: If the delay is below 0.
            RuntimeError: If a gradient is sparse and there is weight decay.
        """
        if not 0 <= delay < math.inf:
            raise ValueError(f"AdaDelay: delay must be at least 0, got {delay}")
        self._delay = delay
        return super().step(closure)

    @override
    def forget(self) -> None:
        """Start over, with t = 0."""
        super().forget()
        for group in self.param_groups:
            group["steps"] = 0

    @override
    def start_state(self, group: Group, parameter: Tensor) -> State:
        """Begin the sum of squared gradients at 0."""
        if group["variant"] == "sgd":
            return {}
        return zeros(parameter, "sum")

    @override
    def begin_step(self, loss: Tensor | float | None) -> None:
        """Count the steps."""
        for group in self.param_groups:
            group["steps"] += 1

    @override
    def update_tensor(self, group: Group, parameter: Tensor, gradient: Tensor, state: State) -> None:
        """Apply the variant's formula, to all elements or to those that a sparse gradient touches."""
        alpha, beta, t = rate_of(group), group["beta"], group["steps"]
        if group["variant"] == "sgd":
            parameter.sub_(alpha / (beta + math.sqrt(t + self._delay)) * gradient)
            return

        def update(g: Tensor, theta: Tensor, n: Tensor) -> None:
            n.add_(g * g)
            theta.sub_(alpha * g / (beta + n.sqrt() * math.sqrt((t + self._delay) / t)))

        if gradient.is_sparse:
            update_touched(gradient, [parameter, state["sum"]], update)
        else:
            update(gradient, parameter, state["sum"])

    @override
    def update_tensors(self, group: Group, parameters: Tensors, gradients: Tensors, states: States) -> None:
        alpha, beta, t = rate_of(group), group["beta"], group["steps"]
        if group["variant"] == "sgd":
            add_scaled_(parameters, gradients, -alpha / (beta + math.sqrt(t + self._delay)))
            return
        for theta, g, n in in_blocks(parameters, gradients, [state["sum"] for state in states]):
            torch._foreach_addcmul_(n, g, g)
            root = torch._foreach_sqrt(n)
            if self._delay:
                torch._foreach_mul_(root, math.sqrt((t + self._delay) / t))
            torch._foreach_add_(root, beta)
            add_quotients_(theta, g, root, -alpha)
