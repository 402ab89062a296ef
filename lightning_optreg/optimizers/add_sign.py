"""AddSign: the gradient times a constant, plus or minus itself by whether it agrees with its moving average.

Bello, Zoph, Vasudevan and Le 2017, "Neural Optimizer Search with Reinforcement Learning" (arXiv:1709.07417).
"""

from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT
from typing_extensions import override

from lightning_optreg._checks import check_range
from lightning_optreg.optimizers._blocks import in_blocks
from lightning_optreg.optimizers._sign_decay import Decay
from lightning_optreg.optimizers._sign_rule import SignRule
from lightning_optreg.optimizers.rates import add_products_, add_scaled_, rate_of
from lightning_optreg.optimizers.update_rule import Group, State, States, Tensors

__all__ = ["AddSign"]


class AddSign(SignRule):
    """Steps by a sum with the signs: theta = theta - eta (alpha + f(t) sign(g) sign(m)) g.

    m_t = beta m_{t-1} + (1 - beta) g is not corrected for its start at 0 and is renewed before its sign is
    taken; the sign of 0 is 0. With alpha = 1 and f = 1 a gradient that disagrees is left out and one that
    agrees counts twice. As in the authors' program (tensorflow.contrib.opt), f follows its formula beyond
    T: choose T as long as the training. That program's description has m for the last g; it computes g.

    Args:
        params: Parameters, or groups of them.
        lr: Learning rate eta, at least 0. Default: 0.1.
        alpha: Factor of the gradient whatever the signs, at least 0. Default: 1.
        beta: Decay rate of the moving average, in [0, 1). Default: 0.9.
        decay: Internal decay f: "none" (f = 1), "linear" max(0, (T - t) / T), "cosine"
            (1 + cos(2 pi n t / T)) / 2, or "restart" (1 + cos(pi ((n t) mod T) / T)) / 2, where t is 0 in the
            first step. Default: "none".
        decay_steps: T, at least 1: as a rule all steps of the training. Needed unless `decay` is "none".
        periods: n, above 0. None: 0.5 with "cosine", 1 with "restart".
        weight_decay: Factor lambda of the L2 term lambda/2 |theta|^2, at least 0 (coupled). Default: 0.
        maximize: Climb instead of descend.
        foreach: Use multi-tensor operations. None means yes, unless `differentiable`.
        differentiable: Let gradients flow through the step.

    Raises:
        ValueError: If a value is out of range.

    Example:
        >>> theta = torch.tensor([8.0], requires_grad=True)
        >>> optimizer = AddSign([theta], lr=0.125)
        >>> theta.square().sum().backward()
        >>> optimizer.step()  # 8 - 0.125 * 2 * 16
        >>> theta
        tensor([4.], requires_grad=True)
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 0.1,
        alpha: float = 1.0,
        beta: float = 0.9,
        decay: Decay = "none",
        decay_steps: int | None = None,
        periods: float | None = None,
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
    ) -> None:
        defaults: dict[str, Any] = {
            "lr": lr,
            "alpha": alpha,
            "beta": beta,
            "decay": decay,
            "decay_steps": decay_steps,
        }
        defaults |= {"periods": periods, "weight_decay": weight_decay, "steps": 0}
        super().__init__(params, defaults, maximize=maximize, foreach=foreach, differentiable=differentiable)

    @override
    def check_group(self, group: Group) -> None:
        """Refuse settings that are out of range."""
        super().check_group(group)
        check_range("AddSign", "[0, inf)", alpha=group["alpha"])

    @override
    def update_tensor(self, group: Group, parameter: Tensor, gradient: Tensor, state: State) -> None:
        """Set theta = theta - eta (alpha + f(t) sign(g) sign(m)) g."""
        m = state["exp_avg"].lerp_(gradient, 1 - group["beta"])
        factor = group["alpha"] + self.decay_now(group) * m.sign() * gradient.sign()
        parameter.sub_(rate_of(group) * factor * gradient)

    @override
    def update_tensors(self, group: Group, parameters: Tensors, gradients: Tensors, states: States) -> None:
        alpha, f, rate = group["alpha"], self.decay_now(group), rate_of(group)
        for theta, g, m in in_blocks(parameters, gradients, [state["exp_avg"] for state in states]):
            torch._foreach_lerp_(m, g, 1 - group["beta"])
            add_scaled_(theta, g, -rate * alpha)
            size, sign = torch._foreach_abs(g), torch._foreach_sign(m)
            add_products_(theta, size, sign, -rate * f)  # sign(g) g is |g|
