"""AdaMax as written in the lecture; the class notes where torch's differs.

Kingma and Ba 2015, "Adam: A Method for Stochastic Optimization" (arXiv:1412.6980), section 7.1.
"""

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT
from typing_extensions import override

from lightning_optreg.optimizers._blocks import in_blocks
from lightning_optreg.optimizers._moments import Moments, by_step
from lightning_optreg.optimizers.rates import add_quotients_, rate_of
from lightning_optreg.optimizers.update_rule import Group, State, States, Tensors, zeros

__all__ = ["LectureAdaMax"]


class LectureAdaMax(Moments):
    """AdaMax: u = max(beta2 u, |g|); theta = theta - alpha / (1 - beta1^t) m / u.

    m = beta1 m + (1 - beta1) g. `torch.optim.Adamax` adds epsilon to |g| within the maximum. Here there is no
    epsilon; where u is 0, as before the first gradient, the parameter stays as it is.

    Args:
        params: Parameters, or groups of them.
        lr: Learning rate alpha, at least 0. Default: 0.002.
        betas: beta1 and beta2, decay rates of the moments, in [0, 1). Default: (0.9, 0.999).
        weight_decay: Factor lambda of the L2 term lambda/2 |theta|^2, at least 0 (coupled). Default: 0.
        maximize: Climb instead of descend.
        foreach: Use multi-tensor operations. None means yes, unless `differentiable`.
        differentiable: Let gradients flow through the step.

    Raises:
        ValueError: If a value is out of range.

    Example:
        >>> theta = torch.tensor([1.0, 0.0], requires_grad=True)
        >>> optimizer = LectureAdaMax([theta], lr=0.25)
        >>> theta.square().sum().backward()
        >>> optimizer.step()  # the first step has length alpha
        >>> theta
        tensor([0.7500, 0.0000], requires_grad=True)
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 0.002,
        betas: tuple[float, float] = (0.9, 0.999),
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "weight_decay": weight_decay}
        super().__init__(params, defaults, maximize=maximize, foreach=foreach, differentiable=differentiable)

    @override
    def start_state(self, group: Group, parameter: Tensor) -> State:
        """Begin m and u at 0."""
        return {"step": 0, **zeros(parameter, "exp_avg", "exp_inf")}

    @override
    def update_tensor(self, group: Group, parameter: Tensor, gradient: Tensor, state: State) -> None:
        """Set u = max(beta2 u, |g|); theta = theta - alpha / (1 - beta1^t) m / u."""
        (beta1, beta2), m, u = group["betas"], state["exp_avg"], state["exp_inf"]
        state["step"] += 1
        m.lerp_(gradient, 1 - beta1)
        size = gradient.abs()
        u.copy_(torch.where(beta2 * u > size, beta2 * u, size))
        rate = rate_of(group) / (1 - beta1 ** state["step"])
        direction = m.clone() / torch.where(u > 0, u, torch.inf)  # a graph keeps what it divides
        parameter.sub_(rate * direction)

    @override
    def update_tensors(self, group: Group, parameters: Tensors, gradients: Tensors, states: States) -> None:
        (beta1, beta2), lr = group["betas"], rate_of(group)
        for t, (thetas, gs, same) in by_step(parameters, gradients, states):
            kept = ([state[name] for state in same] for name in ("exp_avg", "exp_inf"))
            for theta, g, m, u in in_blocks(thetas, gs, *kept):
                torch._foreach_lerp_(m, g, 1 - beta1)
                torch._foreach_mul_(u, beta2)
                torch._foreach_maximum_(u, torch._foreach_abs(g))
                if beta2 > 0:
                    divisor = list(
                        torch._foreach_clamp_min(u, torch.finfo(u[0].dtype).tiny)
                    )  # 0 / 0 becomes 0
                else:  # u is |g|, and where that is 0 m need not be
                    divisor = [x.masked_fill(x == 0, torch.inf) for x in u]
                add_quotients_(theta, m, divisor, -lr / (1 - beta1**t))
