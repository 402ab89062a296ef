"""PowerSign: the gradient, longer where it agrees in sign with its moving average, shorter where not.

Bello, Zoph, Vasudevan and Le 2017, "Neural Optimizer Search with Reinforcement Learning" (arXiv:1709.07417).
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT
from typing_extensions import override

from lightning_optreg._checks import check_range
from lightning_optreg.optimizers._blocks import in_blocks
from lightning_optreg.optimizers._sign_decay import Decay
from lightning_optreg.optimizers._sign_rule import SignRule
from lightning_optreg.optimizers.rates import add_products_, rate_of
from lightning_optreg.optimizers.update_rule import Group, State, States, Tensors

__all__ = ["PowerSign"]


class PowerSign(SignRule):
    """Steps of a power of the signs: theta = theta - eta base^(f(t) sign(g) sign(m)) g.

    m_t = beta m_{t-1} + (1 - beta) g is not corrected for its start at 0 and is renewed before its sign is
    taken; the sign of 0 is 0. As in the authors' program (tensorflow.contrib.opt), f goes on by its formula
    beyond T: choose T as long as the training.

    Args:
        params: Parameters, or groups of them.
        lr: Learning rate eta, at least 0. Default: 0.1.
        base: Above 0: with f = 1 an agreeing gradient is multiplied by it, another divided. Default: e.
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
        >>> optimizer = PowerSign([theta], lr=0.125, base=2.0)
        >>> theta.square().sum().backward()
        >>> optimizer.step()  # 8 - 0.125 * 2 * 16
        >>> theta
        tensor([4.], requires_grad=True)
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 0.1,
        base: float = math.e,
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
            "base": base,
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
        check_range("PowerSign", "(0, inf)", base=group["base"])

    @override
    def update_tensor(self, group: Group, parameter: Tensor, gradient: Tensor, state: State) -> None:
        """Set theta = theta - eta base^(f(t) sign(g) sign(m)) g."""
        m = state["exp_avg"].lerp_(gradient, 1 - group["beta"])
        exponent = self.decay_now(group) * m.sign() * gradient.sign()
        factor = (math.log(group["base"]) * exponent).exp()
        parameter.sub_(rate_of(group) * factor * gradient)

    @override
    def update_tensors(self, group: Group, parameters: Tensors, gradients: Tensors, states: States) -> None:
        power, rate = group["base"] ** self.decay_now(group), rate_of(group)
        low, high = sorted((power, 1 / power))
        for theta, g, m in in_blocks(parameters, gradients, [state["exp_avg"] for state in states]):
            torch._foreach_lerp_(m, g, 1 - group["beta"])
            # base^(+-f) and 1 are 1 +- infinity and 1 + 0, held between base^f and base^-f: no exponential
            factor = torch._foreach_sign(m)  # not m itself, as m g may be too small for a float
            # float16's largest number is too small to make an infinity of its small gradients
            torch._foreach_mul_(factor, torch._foreach_sign(g) if g[0].dtype == torch.float16 else g)
            torch._foreach_mul_(factor, math.copysign(torch.finfo(g[0].dtype).max, power - 1))
            torch._foreach_add_(factor, 1.0)
            torch._foreach_clamp_max_(factor, high)
            torch._foreach_clamp_min_(factor, low)
            add_products_(theta, factor, g, -rate)
