"""The learning rate at which SGD would continue from Adam, estimated from Adam's own steps.

Keskar and Socher 2017, "Improving generalization performance by switching from Adam to SGD"
(arXiv:1712.07628), section 3.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

__all__ = ["RateEstimate", "StepMeter", "inner_product"]


@dataclass
class RateEstimate:
    """The learning rate at which SGD would do what Adam does, averaged over the steps.

    An SGD step -gamma g whose orthogonal projection onto Adam's step p is p itself has

        gamma_k = p.p / -(p.g)

    which is averaged as Adam averages: lambda_k = beta2 lambda_{k-1} + (1 - beta2) gamma_k, and
    Lambda_k = lambda_k / (1 - beta2^k).

    Attributes:
        average: lambda_k.
        steps: k.

    Example:
        >>> estimate = RateEstimate()
        >>> estimate.update(0.25, -0.5, beta2=0.9)
        0.5
        >>> round(estimate.rate(beta2=0.9), 6)
        0.5
    """

    average: float = 0.0
    steps: int = 0

    def update(self, step_squared: float, step_times_gradient: float, *, beta2: float) -> float | None:
        """Count a step.

        Args:
            step_squared: p.p, over all parameters.
            step_times_gradient: p.g.
            beta2: Decay of the average, in [0, 1).

        Returns:
            gamma_k; None if p.g is 0 or not finite, which leaves the average as it is.
        """
        self.steps += 1
        if step_times_gradient == 0.0 or not math.isfinite(step_squared / step_times_gradient):
            return None
        gamma = step_squared / -step_times_gradient
        self.average = beta2 * self.average + (1.0 - beta2) * gamma
        return gamma

    def rate(self, *, beta2: float) -> float:
        """Return Lambda_k, which is below 0 where Adam's momentum went uphill; 0 before the first step."""
        return self.average / (1.0 - beta2**self.steps) if self.steps > 0 else 0.0

    def has_settled(self, gamma: float | None, *, beta2: float, tolerance: float) -> bool:
        """Return whether to switch: k > 1, |Lambda_k - gamma_k| < tolerance and Lambda_k > 0.

        Args:
            gamma: What `update` returned.
            beta2: As there.
            tolerance: On the scale of a learning rate.
        """
        rate = self.rate(beta2=beta2)
        return gamma is not None and self.steps > 1 and rate > 0.0 and abs(rate - gamma) < tolerance


def inner_product(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """Sum of the products of all elements, in at least float32, on the device of the first.

    Args:
        a: Tensors.
        b: As many, each of the same shape.

    Returns:
        A scalar tensor.

    Example:
        >>> inner_product([torch.ones(2), torch.ones(1)], [torch.full((2,), 3.0), torch.ones(1)])
        tensor(7.)
    """
    device = a[0].device
    dtype = torch.promote_types(a[0].dtype, torch.float32)
    products = [_product(x, y, dtype).to(device) for x, y in zip(a, b, strict=True)]
    return torch.stack(products).sum()


def _product(x: Tensor, y: Tensor, dtype: torch.dtype) -> Tensor:
    if x.dtype == y.dtype == dtype and x.is_contiguous() and y.is_contiguous():
        return torch.dot(x.view(-1), y.view(-1))  # the products are not written to memory
    return (x * y).sum(dtype=dtype)


class StepMeter:
    """Follows the steps of any optimizer of Adam's type and estimates SGD's rate from them.

    A step is what the parameters move by. Groups keep the ratios of their rates: in p.g the part of a group
    whose `lr` is r times the largest has the factor r. Weight decay that is coupled is part of the gradient,
    decay that is decoupled (AdamW) is not part of the step. Gradients are those that the optimizer saw:
    clipped, unscaled, accumulated. It holds a copy of the parameters.

    Args:
        optimizer: The optimizer to follow; its groups have `betas`.
        estimate: Updated after each step.
        tolerance: For `settled`.

    Attributes:
        settled: Whether the last step's rate was within `tolerance` of the average.

    Example:
        >>> theta = torch.ones(1, requires_grad=True)
        >>> adam = torch.optim.Adam([theta], lr=0.1)
        >>> meter = StepMeter(adam, RateEstimate(), tolerance=1e-9)
        >>> theta.grad = torch.tensor([2.0])
        >>> adam.step()  # by -0.1, as SGD with a rate of 0.05
        >>> round(meter.rate, 4)
        0.05
        >>> meter.close()
    """

    def __init__(self, optimizer: Optimizer, estimate: RateEstimate, tolerance: float) -> None:
        self.optimizer, self.estimate, self.tolerance = optimizer, estimate, tolerance
        self.settled = False
        self._before: list[Tensor] = []
        self._hooks = [
            optimizer.register_step_pre_hook(self._remember_parameters),
            optimizer.register_step_post_hook(self._measure_step),
        ]

    @property
    def beta2(self) -> float:
        """Decay of the average: that of Adam's second moment."""
        beta2: float = self.optimizer.param_groups[0]["betas"][1]
        return beta2

    @property
    def rate(self) -> float:
        """Lambda_k."""
        return self.estimate.rate(beta2=self.beta2)

    def close(self) -> None:
        """Stop following the optimizer."""
        for hook in self._hooks:
            hook.remove()
        self._before = []

    def _remember_parameters(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        # A closure has not been run yet, but it changes gradients only.
        parameters = [parameter.detach() for group in optimizer.param_groups for parameter in group["params"]]
        if [old.shape for old in self._before] != [parameter.shape for parameter in parameters]:
            # The first step, or the first after parameters were added.
            self._before = [torch.empty_like(parameter) for parameter in parameters]
        torch._foreach_copy_(self._before, parameters)

    @torch.no_grad()
    def _measure_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        steps: list[Tensor] = []
        gradients: list[Tensor] = []
        before = iter(self._before)
        rates = [float(group["lr"]) for group in optimizer.param_groups]
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            ratio = rate / max(rates) if max(rates) > 0.0 else 1.0
            decay = group.get("weight_decay", 0.0)
            decoupled = group.get("decoupled_weight_decay", False)
            for parameter in group["params"]:
                old = next(before)
                if parameter.grad is None:
                    continue
                gradient, step = parameter.grad, parameter - old
                if group.get("maximize"):
                    gradient = -gradient
                if decay != 0.0 and decoupled:
                    step = step.add_(old, alpha=rate * decay)
                elif decay != 0.0:
                    gradient = gradient.add(old, alpha=decay)
                if ratio != 1.0:
                    gradient = gradient * ratio
                steps.append(torch.view_as_real(step) if step.is_complex() else step)
                gradients.append(torch.view_as_real(gradient) if gradient.is_complex() else gradient)
        if not steps:
            return
        products = torch.stack((inner_product(steps, steps), inner_product(steps, gradients)))
        gamma = self.estimate.update(*products.tolist(), beta2=self.beta2)
        self.settled = self.estimate.has_settled(gamma, beta2=self.beta2, tolerance=self.tolerance)
