"""Nesterov's accelerated gradient for convex functions, with the momentum k / (k + 3).

Nesterov 1983; in this form Su, Boyd and Candes 2016, "A differential equation for modeling Nesterov's
accelerated gradient method" (arXiv:1503.01243), and the lecture's NAG-C.
"""

from torch.optim.optimizer import ParamsT
from typing_extensions import override

from lightning_optreg.optimizers._extrapolation import Extrapolation, Restart
from lightning_optreg.optimizers.update_rule import Group

__all__ = ["NAGConvex"]


class NAGConvex(Extrapolation):
    """NAG-C: y_{k+1} = x_k - s grad f(x_k), x_{k+1} = y_{k+1} + k / (k + 3) (y_{k+1} - y_k), y_0 = x_0.

    For a convex f with gradients of Lipschitz constant L and s <= 1/L it has f(y_k) - f* <=
    2 |x_0 - x*|^2 / (s (k + 1)^2), where gradient descent has O(1 / k). On strongly convex functions it
    ripples; a restart makes it fast there too (O'Donoghue and Candes 2015, arXiv:1204.3982). The parameters
    are x, where gradients are taken; y differs little and is in the state.

    Args:
        params: Parameters, or groups of them.
        lr: Step size s, at least 0; at most 1/L for the rate above. Default: 0.01.
        weight_decay: Factor lambda of the L2 term lambda/2 |x|^2, at least 0 (coupled). Default: 0.
        restart: None, or start over with k = 0 from x_k: "function", when f(x_k) > f(x_{k-1}), which needs
            `step(closure)` (the paper compares f at y, for a second evaluation a step; processes take the
            mean of their losses); "gradient", when grad f(x_k).(y_{k+1} - y_k) > 0.
        maximize: Climb instead of descend.
        foreach: Use multi-tensor operations. None means yes, unless `differentiable`.
        differentiable: Let gradients flow through the step.

    Raises:
        ValueError: If a value is out of range.
        RuntimeError: In a step, if a gradient is sparse, or if restarts by the function have no closure.

    Example:
        >>> import torch
        >>> x = torch.tensor([1.0], requires_grad=True)
        >>> optimizer = NAGConvex([x], lr=0.25)
        >>> for _ in range(2):
        ...     optimizer.zero_grad()
        ...     x.square().sum().backward()
        ...     optimizer.step()
        >>> x  # y: 1, 0.5, 0.25
        tensor([0.1875], requires_grad=True)
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 0.01,
        weight_decay: float = 0.0,
        restart: Restart | None = None,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
    ) -> None:
        defaults = {"lr": lr, "weight_decay": weight_decay}
        options = {"maximize": maximize, "differentiable": differentiable}
        super().__init__(params, defaults, restart, foreach=foreach, **options)

    @override
    def coefficient(self, group: Group) -> float:
        """Return k / (k + 3)."""
        k: int = group["k"]
        return k / (k + 3)
