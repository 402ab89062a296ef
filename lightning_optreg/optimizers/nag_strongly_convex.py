"""Nesterov's accelerated gradient for strongly convex functions, with a constant momentum.

Nesterov 2004, "Introductory lectures on convex optimization", section 2.2; the lecture's NAG-SC.
"""

from torch import Tensor
from torch.optim.optimizer import ParamsT
from typing_extensions import override

from lightning_optreg.optimizers._extrapolation import Extrapolation, Restart
from lightning_optreg.optimizers.rates import rate_of
from lightning_optreg.optimizers.update_rule import Group

__all__ = ["NAGStronglyConvex"]


class NAGStronglyConvex(Extrapolation):
    """NAG-SC: y_{k+1} = x_k - s grad f(x_k), x_{k+1} = y_{k+1} + c (y_{k+1} - y_k), y_0 = x_0.

    Its coefficient is c = (1 - sqrt(mu s)) / (1 + sqrt(mu s)). For a mu-strongly convex f with gradients of
    Lipschitz constant L and s <= 1/L, f(y_k) - f* falls like (1 - sqrt(mu s))^k, where gradient descent's
    falls like (1 - mu s)^k. Written with x alone it is heavy ball plus a gradient correction (Shi, Du, Jordan
    and Su 2018, arXiv:1810.08907):

        x_{k+1} = x_k + c (x_k - x_{k-1}) - s grad f(x_k) - c s (grad f(x_k) - grad f(x_{k-1}))

    Args:
        params: Parameters, or groups of them.
        lr: Step size s, at least 0; at most 1/L for the rate above. Default: 0.01.
        mu: Strong convexity mu, at least 0, with mu * lr <= 1; weight decay adds its lambda to that of the
            loss. Default: 0.01.
        weight_decay: Factor lambda of the L2 term lambda/2 |x|^2, at least 0 (coupled). Default: 0.
        restart: None, or start over from x_k: "function", when f(x_k) > f(x_{k-1}), which needs
            `step(closure)` (the paper compares f at y, for a second evaluation a step; processes take the
            mean of their losses); "gradient", when grad f(x_k).(y_{k+1} - y_k) > 0. It
            helps where mu is too small.
        maximize: Climb instead of descend.
        foreach: Use multi-tensor operations. None means yes, unless `differentiable`.
        differentiable: Let gradients flow through the step.

    Raises:
        ValueError: If a value is out of range.
        RuntimeError: In a step, if a gradient is sparse, or if restarts by the function have no closure.

    Example:
        >>> import torch
        >>> x = torch.tensor([1.0], requires_grad=True)
        >>> optimizer = NAGStronglyConvex([x], lr=0.125, mu=2.0)  # c = 1/3
        >>> x.square().sum().backward()
        >>> optimizer.step()  # y: 1, 0.75
        >>> x
        tensor([0.6667], requires_grad=True)
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 0.01,
        mu: float = 0.01,
        weight_decay: float = 0.0,
        restart: Restart | None = None,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
    ) -> None:
        defaults = {"lr": lr, "mu": mu, "weight_decay": weight_decay}
        options = {"maximize": maximize, "differentiable": differentiable}
        super().__init__(params, defaults, restart, foreach=foreach, **options)

    @override
    def check_group(self, group: Group) -> None:
        """Refuse settings that are out of range."""
        super().check_group(group)
        if not (group["mu"] >= 0.0 and group["mu"] * group["lr"] <= 1.0):
            raise ValueError(
                f"NAGStronglyConvex: mu must be >= 0 and at most 1 / lr = 1 / {group['lr']}, "
                f"got {group['mu']}"
            )

    @override
    def coefficient(self, group: Group) -> float | Tensor:
        """Return (1 - sqrt(mu s)) / (1 + sqrt(mu s)), with the present s."""
        root: float | Tensor = (group["mu"] * rate_of(group)) ** 0.5
        return (1 - root) / (1 + root)
