"""Adagrad and RMSprop as the lecture writes them: epsilon inside the root, its rates as defaults.

Duchi, Hazan and Singer 2011, "Adaptive Subgradient Methods for Online Learning and Stochastic Optimization";
Tieleman and Hinton 2012, lecture 6.5 of "Neural Networks for Machine Learning".
"""

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT
from typing_extensions import override

from lightning_optreg._checks import check_range
from lightning_optreg.optimizers._blocks import in_blocks
from lightning_optreg.optimizers._touched_rows import update_touched
from lightning_optreg.optimizers.rates import add_quotients_, rate_of
from lightning_optreg.optimizers.update_rule import Group, State, States, Tensors, UpdateRule, zeros

__all__ = ["LectureAdagrad", "LectureRMSprop"]


class LectureAdagrad(UpdateRule):
    """Adagrad: G = G + g^2; theta = theta - eta / sqrt(G + epsilon) g.

    `torch.optim.Adagrad` divides by sqrt(G) + 1e-10. With epsilon inside the root, a gradient far below
    sqrt(epsilon) makes a step in proportion to it; there, the first step is eta long whatever the gradient.

    Args:
        params: Parameters, or groups of them.
        lr: Learning rate eta, at least 0. Default: 0.01.
        eps: epsilon, above 0. Default: 1e-8.
        weight_decay: Factor lambda of the L2 term lambda/2 |theta|^2, at least 0 (coupled). Default: 0.
        maximize: Climb instead of descend.
        foreach: Use multi-tensor operations. None means yes, unless `differentiable`.
        differentiable: Let gradients flow through the step.

    Raises:
        ValueError: If a value is out of range.
        RuntimeError: In a step, if a gradient is sparse and there is weight decay.

    Example:
        >>> theta = torch.tensor([1.0], requires_grad=True)
        >>> optimizer = LectureAdagrad([theta], lr=0.5, eps=12.0)
        >>> theta.square().sum().backward()
        >>> optimizer.step()  # 1 - 0.5 * 2 / sqrt(4 + 12)
        >>> theta
        tensor([0.7500], requires_grad=True)
    """

    takes_sparse_gradients = True

    def __init__(
        self,
        params: ParamsT,
        lr: float = 0.01,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
    ) -> None:
        defaults = {"lr": lr, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, defaults, maximize=maximize, foreach=foreach, differentiable=differentiable)

    @override
    def check_group(self, group: Group) -> None:
        """Refuse settings that are out of range."""
        check_range("LectureAdagrad", "(0, inf)", eps=group["eps"])

    @override
    def start_state(self, group: Group, parameter: Tensor) -> State:
        """Begin the sum of squared gradients at 0."""
        return zeros(parameter, "sum")

    @override
    def update_tensor(self, group: Group, parameter: Tensor, gradient: Tensor, state: State) -> None:
        """Set G = G + g^2; theta = theta - eta / sqrt(G + epsilon) g."""

        def update(g: Tensor, theta: Tensor, total: Tensor) -> None:
            total.add_(g * g)
            theta.sub_(rate_of(group) * g / (total + group["eps"]).sqrt())

        if gradient.is_sparse:
            update_touched(gradient, [parameter, state["sum"]], update)
        else:
            update(gradient, parameter, state["sum"])

    @override
    def update_tensors(self, group: Group, parameters: Tensors, gradients: Tensors, states: States) -> None:
        for theta, g, total in in_blocks(parameters, gradients, [state["sum"] for state in states]):
            torch._foreach_addcmul_(total, g, g)
            _divide_by_root(theta, g, total, rate_of(group), group["eps"])


class LectureRMSprop(UpdateRule):
    """RMSprop: E = gamma E + (1 - gamma) g^2; theta = theta - eta / sqrt(E + epsilon) g.

    `torch.optim.RMSprop` divides by sqrt(E) + epsilon, and has gamma = 0.99 and eta = 0.01 by default.

    Args:
        params: Parameters, or groups of them.
        lr: Learning rate eta, at least 0. Default: 0.001.
        alpha: gamma, in [0, 1), by torch's name. Default: 0.9.
        eps: epsilon, above 0. Default: 1e-8.
        weight_decay: Factor lambda of the L2 term lambda/2 |theta|^2, at least 0 (coupled). Default: 0.
        maximize: Climb instead of descend.
        foreach: Use multi-tensor operations. None means yes, unless `differentiable`.
        differentiable: Let gradients flow through the step.

    Raises:
        ValueError: If a value is out of range.

    Example:
        >>> theta = torch.tensor([1.0], requires_grad=True)
        >>> optimizer = LectureRMSprop([theta], lr=0.5, alpha=0.75, eps=15.0)
        >>> theta.square().sum().backward()
        >>> optimizer.step()  # 1 - 0.5 * 2 / sqrt(0.25 * 4 + 15)
        >>> theta
        tensor([0.7500], requires_grad=True)
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 0.001,
        alpha: float = 0.9,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
    ) -> None:
        defaults = {"lr": lr, "alpha": alpha, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, defaults, maximize=maximize, foreach=foreach, differentiable=differentiable)

    @override
    def check_group(self, group: Group) -> None:
        """Refuse settings that are out of range."""
        check_range("LectureRMSprop", "[0, 1)", alpha=group["alpha"])
        check_range("LectureRMSprop", "(0, inf)", eps=group["eps"])

    @override
    def start_state(self, group: Group, parameter: Tensor) -> State:
        """Begin the average of squared gradients at 0."""
        return zeros(parameter, "square_avg")

    @override
    def update_tensor(self, group: Group, parameter: Tensor, gradient: Tensor, state: State) -> None:
        """Set E = gamma E + (1 - gamma) g^2; theta = theta - eta / sqrt(E + epsilon) g."""
        gamma, average = group["alpha"], state["square_avg"]
        average.mul_(gamma).add_((1 - gamma) * gradient * gradient)
        parameter.sub_(rate_of(group) * gradient / (average + group["eps"]).sqrt())

    @override
    def update_tensors(self, group: Group, parameters: Tensors, gradients: Tensors, states: States) -> None:
        gamma = group["alpha"]
        for theta, g, average in in_blocks(parameters, gradients, [state["square_avg"] for state in states]):
            torch._foreach_mul_(average, gamma)
            torch._foreach_addcmul_(average, g, g, value=1 - gamma)
            _divide_by_root(theta, g, average, rate_of(group), group["eps"])


def _divide_by_root(
    theta: list[Tensor], g: list[Tensor], squares: list[Tensor], lr: float | Tensor, eps: float
) -> None:
    root = torch._foreach_add(squares, eps)
    torch._foreach_sqrt_(root)
    add_quotients_(theta, g, root, -lr)
