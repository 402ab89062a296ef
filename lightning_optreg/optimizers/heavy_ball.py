"""The heavy-ball method: gradient descent that keeps a part of its last displacement.

Polyak 1964, "Some methods of speeding up the convergence of iteration methods".
"""

import torch
from torch import Tensor
from typing_extensions import override

from lightning_optreg.optimizers._blocks import in_blocks
from lightning_optreg.optimizers._momentum import Momentum
from lightning_optreg.optimizers.rates import add_scaled_, rate_of
from lightning_optreg.optimizers.update_rule import Group, State, States, Tensors, zeros

__all__ = ["HeavyBall"]


class HeavyBall(Momentum):
    """Polyak's method, x_{k+1} = x_k + alpha (x_k - x_{k-1}) - s grad f(x_k), with x_{-1} = x_0.

    It keeps the displacement d_k = x_k - x_{k-1}: d_{k+1} = alpha d_k - s grad f(x_k). At a constant rate
    this is `torch.optim.SGD(momentum=alpha)`, d = -s v. When the rate changes they differ: here what was
    displaced at the old rate stays as it is, there the new rate applies to all of v.

    On a quadratic with eigenvalues in [mu, L] the fastest settings are s = 4 / (sqrt(L) + sqrt(mu))^2 and
    alpha = ((sqrt(L) - sqrt(mu)) / (sqrt(L) + sqrt(mu)))^2; beyond quadratics they need not converge
    (Lessard, Recht and Packard 2016, arXiv:1408.3595). Shi, Du, Jordan and Su 2018
    (arXiv:1810.08907) compare it with Nesterov's at alpha = (1 - sqrt(mu s)) / (1 + sqrt(mu s)).

    Args:
        params: Parameters, or groups of them.
        lr: Step size s, at least 0. Default: 0.01.
        momentum: alpha, in [0, 1). Default: 0.9.
        weight_decay: Factor lambda of the L2 term lambda/2 |x|^2, at least 0 (coupled). Default: 0.
        maximize: Climb instead of descend.
        foreach: Use multi-tensor operations. None means yes, unless `differentiable`.
        differentiable: Let gradients flow through the step.

    Raises:
        ValueError: If a value is out of range.

    Example:
        >>> x = torch.tensor([1.0], requires_grad=True)
        >>> optimizer = HeavyBall([x], lr=0.25, momentum=0.5)
        >>> for _ in range(2):
        ...     optimizer.zero_grad()
        ...     x.square().sum().backward()
        ...     optimizer.step()
        >>> x
        tensor([0.], requires_grad=True)
    """

    @override
    def start_state(self, group: Group, parameter: Tensor) -> State:
        """Begin at rest."""
        return zeros(parameter, "displacement")

    @override
    def update_tensor(self, group: Group, parameter: Tensor, gradient: Tensor, state: State) -> None:
        """Set d = alpha d - s g; x = x + d."""
        d = state["displacement"]
        d.mul_(group["momentum"]).sub_(rate_of(group) * gradient)
        parameter.add_(d)

    @override
    def update_tensors(self, group: Group, parameters: Tensors, gradients: Tensors, states: States) -> None:
        displacements = [state["displacement"] for state in states]
        for x, g, d in in_blocks(parameters, gradients, displacements):
            torch._foreach_mul_(d, group["momentum"])
            add_scaled_(d, g, -rate_of(group))
            torch._foreach_add_(x, d)
