"""Nesterov's accelerated gradient as the lecture writes it: the gradient is taken where momentum leads to.

Nesterov 1983, "A method of solving a convex programming problem with convergence rate O(1/k^2)"; in this form
Sutskever, Martens, Dahl and Hinton 2013, "On the importance of initialization and momentum in deep learning".
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from typing_extensions import override

from lightning_optreg.optimizers._blocks import in_blocks
from lightning_optreg.optimizers._momentum import Momentum
from lightning_optreg.optimizers.rates import add_scaled_, rate_of
from lightning_optreg.optimizers.update_rule import Group, State, States, Tensors, as_real, zeros

__all__ = ["NAG"]


class NAG(Momentum):
    """Momentum that looks ahead: v = gamma v + eta grad J(theta - gamma v), theta = theta - v.

    Between steps the parameters are the look-ahead point theta - gamma v, so that whatever computes gradients
    (an accumulation window of several batches, AMP, no closure) computes them there. `at_theta` moves them to
    theta for an evaluation. At a constant rate the look-ahead points are those of
    `torch.optim.SGD(momentum=gamma, nesterov=True)`, whose buffer is v / eta; when the rate changes they
    differ as `HeavyBall` does. When gamma changes, both take the point where the parameters are for the
    look-ahead point of the new gamma.

    Args:
        params: Parameters, or groups of them.
        lr: Learning rate eta, at least 0. Default: 0.01.
        momentum: gamma, in [0, 1). Default: 0.9.
        weight_decay: Factor lambda of the L2 term lambda/2 |theta|^2, at least 0 (coupled). Default: 0.
        maximize: Climb instead of descend.
        foreach: Use multi-tensor operations. None means yes, unless `differentiable`.
        differentiable: Let gradients flow through the step.

    Raises:
        ValueError: If a value is out of range.

    Example:
        >>> theta = torch.tensor([1.0], requires_grad=True)
        >>> optimizer = NAG([theta], lr=0.25, momentum=0.5)
        >>> theta.square().sum().backward()
        >>> optimizer.step()  # v = 0.5, theta = 0.5
        >>> theta
        tensor([0.2500], requires_grad=True)
        >>> with optimizer.at_theta():
        ...     print(theta)
        tensor([0.5000], requires_grad=True)
    """

    @override
    def start_state(self, group: Group, parameter: Tensor) -> State:
        """Begin at rest, where theta and the look-ahead point are the same."""
        return zeros(parameter, "velocity")

    @override
    def update_tensor(self, group: Group, parameter: Tensor, gradient: Tensor, state: State) -> None:
        """Set v = gamma v + eta g; theta = theta - v; then look gamma v ahead."""
        gamma, v = group["momentum"], state["velocity"]
        v.mul_(gamma)
        parameter.add_(v)  # theta
        v.add_(rate_of(group) * gradient)
        parameter.add_(v, alpha=-(1 + gamma))  # theta - v, and gamma v further ahead

    @override
    def update_tensors(self, group: Group, parameters: Tensors, gradients: Tensors, states: States) -> None:
        gamma = group["momentum"]
        for theta, g, v in in_blocks(parameters, gradients, [state["velocity"] for state in states]):
            torch._foreach_mul_(v, gamma)
            torch._foreach_add_(theta, v)
            add_scaled_(v, g, rate_of(group))
            torch._foreach_add_(theta, v, alpha=-(1 + gamma))

    @contextmanager
    def at_theta(self) -> Iterator[None]:
        """Hold the parameters at theta within a `with` block, and put them back bit for bit after it."""
        kept = [(parameter, parameter.detach().clone()) for parameter in self.state]
        try:
            with torch.no_grad():
                for group in self.param_groups:
                    for parameter in group["params"]:
                        if parameter in self.state:
                            v = self.state[parameter]["velocity"]
                            as_real(parameter).add_(v, alpha=group["momentum"])
            yield
        finally:
            with torch.no_grad():
                for parameter, value in kept:
                    parameter.copy_(value)
