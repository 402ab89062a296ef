"""BFGS: a quasi-Newton method, which learns the inverse Hessian from differences of gradients.

Broyden, Fletcher, Goldfarb and Shanno, each 1970; as in J. Nocedal, S. J. Wright, "Numerical Optimization",
2006, algorithm 6.1 with formula 6.17 for the inverse and 6.20 for its first scale. The update has rank 2.
"""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT
from typing_extensions import override

from lightning_optreg._checks import check_choice, check_range
from lightning_optreg.optimizers._flat_vectors import OneVector, flatten, move, only_group
from lightning_optreg.optimizers._line_search import Point, armijo, strong_wolfe
from lightning_optreg.optimizers.rates import check_rate

__all__ = ["BFGS", "update_inverse"]


def update_inverse(inverse: Tensor, s: Tensor, y: Tensor) -> Tensor:
    """H+ = (I - rho s y^T) H (I - rho y s^T) + rho s s^T with rho = 1 / y^T s.

    H+ fulfils the secant equation H+ y = s, and is positive definite if H is and y^T s > 0.

    Args:
        inverse: H (n, n), symmetric.
        s: Step (n,).
        y: Change of the gradient over it (n,).

    Returns:
        (n, n).

    Example:
        >>> update_inverse(torch.eye(2), torch.tensor([1.0, 0.0]), torch.tensor([4.0, 0.0]))
        tensor([[0.2500, 0.0000],
                [0.0000, 1.0000]])
    """
    rho = 1.0 / y.dot(s)
    hy = inverse.mv(y)
    # Multiplied out: n^2 operations in place of n^3.
    cross = torch.outer(s, hy)
    return inverse - rho * (cross + cross.T) + (rho * rho * y.dot(hy) + rho) * torch.outer(s, s)


class BFGS(OneVector):
    """BFGS, for losses without noise: d = -H g with an estimate H of the inverse Hessian.

    theta <- theta + t d with t from a line search; then H is updated by s = t d and y = g_new - g (see
    `update_inverse`). The closure is called several times in a step and must give the same loss each time: no
    dropout, no augmentation, no other batch. Under a Lightning Trainer the callback `FullBatch` takes care of
    that, and adds up the gradient over batches that fit in memory.

    H starts as the identity, scaled by y^T s / y^T y before its first update. A pair with
    y^T s <= curvature_eps ||s|| ||y|| is left out, since H would cease to be positive definite. Where
    rounding leaves no descent along d, H starts over. H has n^2 entries: torch.optim.LBFGS is for more
    parameters.

    Args:
        params: Parameters, in one group, all float32 or all float64.
        lr: The step t that is tried first, in (0, inf); the very first is lr * min(1, 1 / ||g||_1), as in
            torch's LBFGS.
        line_search: "strong_wolfe"; "armijo", which halves the step; or None: t = lr.
        iterations: Iterations of a step, at least 1. Within one step each starts with the loss and gradient
            that the line search before it has left.
        c1: Share of the predicted descent that a step must reach, in (0, c2).
        c2: Share of the slope that a strong Wolfe search may leave, in (c1, 1); 0.1 to 1e-6 for a search
            that is close to exact.
        max_evaluations: Most evaluations of a line search, at least 1.
        curvature_eps: See above, at least 0.
        tolerance_grad: A step ends once no entry of the gradient is larger, at least 0.
        weight_decay: Coupled: weight_decay / 2 * ||theta||^2 is part of the loss, at least 0. Frozen
            parameters are not part of it.
        maximize: Climb instead of descend.
        max_parameters: Most parameters, at least 1: 5,000 in float32 take 100 MB for H.

    Raises:
        ValueError: If a setting is out of range, if there are several groups, for parameters of other
            types, or for more than `max_parameters`.
        RuntimeError: In `step`, without a closure, or if a gradient is sparse.

    Example:
        >>> theta = torch.tensor([3.0, -2.0], dtype=torch.float64, requires_grad=True)
        >>> optimizer = BFGS([theta], iterations=10)
        >>> def closure():
        ...     optimizer.zero_grad()
        ...     loss = (theta - 1.0).square().sum() + theta.prod()
        ...     loss.backward()
        ...     return loss
        >>> loss = optimizer.step(closure)
        >>> [round(value, 6) for value in theta.tolist()]
        [0.666667, 0.666667]
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1.0,
        *,
        line_search: Literal["strong_wolfe", "armijo"] | None = "strong_wolfe",
        iterations: int = 1,
        c1: float = 1e-4,
        c2: float = 0.9,
        max_evaluations: int = 25,
        curvature_eps: float = 1e-10,
        tolerance_grad: float = 0.0,
        weight_decay: float = 0.0,
        maximize: bool = False,
        max_parameters: int = 5000,
    ) -> None:
        check_rate("BFGS", lr)
        check_range("BFGS", "(0, inf)", lr=lr)
        check_choice("BFGS", ("strong_wolfe", "armijo", None), line_search=line_search)
        check_range("BFGS", ">= 1", iterations=iterations, max_evaluations=max_evaluations)
        check_range("BFGS", "(0, 1)", c1=c1)
        if not c1 < c2 < 1.0:
            raise ValueError(f"BFGS: c2 must be in (c1, 1) = ({c1}, 1), got {c2}")
        check_range("BFGS", "[0, inf)", curvature_eps=curvature_eps, tolerance_grad=tolerance_grad)
        check_range("BFGS", "[0, inf)", weight_decay=weight_decay)
        check_range("BFGS", ">= 1", max_parameters=max_parameters)
        settings = {
            "lr": lr,
            "line_search": line_search,
            "iterations": iterations,
            "c1": c1,
            "c2": c2,
            "max_evaluations": max_evaluations,
            "curvature_eps": curvature_eps,
            "tolerance_grad": tolerance_grad,
            "weight_decay": weight_decay,
            "maximize": maximize,
        }
        why = "the inverse Hessian has their number squared entries; use LBFGS or raise max_parameters"
        super().__init__(params, settings, max_parameters, why)

    @override
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Make `iterations` iterations.

        Args:
            closure: Zeroes the gradients, computes the loss, calls `backward` and returns the loss.

        Returns:
            What the closure returned first.
        """
        if closure is None:
            raise RuntimeError("BFGS: step needs a closure that computes the loss and calls backward")
        only_group(self.param_groups, "BFGS")  # a group may have been added since
        group = self.param_groups[0]
        state = self.state[group["params"][0]]
        first = None

        def evaluate(step: float, start: Tensor, direction: Tensor) -> Point:
            nonlocal first
            move(group["params"], start, direction, step)
            with torch.enable_grad():
                loss = closure()
            first = loss if first is None else first
            value, gradient = self._minimised(float(loss.detach() if isinstance(loss, Tensor) else loss))
            return Point(step, value, gradient, float(gradient.dot(direction)))

        start = flatten(group["params"]).detach().clone()
        here = evaluate(0.0, start, torch.zeros_like(start))
        with torch.no_grad():
            for _ in range(group["iterations"]):
                if not float(here.gradient.abs().max()) > group["tolerance_grad"]:
                    break
                there, direction = self._iterate(here, evaluate, start, state)
                if there.step == 0.0:
                    break
                start = start.add(direction, alpha=there.step)
                here = there
        return first

    def _iterate(
        self,
        here: Point,
        evaluate: Callable[[float, Tensor, Tensor], Point],
        start: Tensor,
        state: dict[str, Any],
    ) -> tuple[Point, Tensor]:
        """Go to a better point and update H from the step."""
        group, g = self.param_groups[0], here.gradient
        inverse: Tensor | None = state.get("inverse")
        direction = -g if inverse is None else -inverse.mv(g)
        slope = float(g.dot(direction))
        if inverse is not None and not slope < 0.0:
            inverse, direction, slope = None, -g, -float(g.dot(g))
        here = Point(0.0, here.loss, g, slope)
        step = float(group["lr"])
        if inverse is None:
            step *= min(1.0, 1.0 / float(g.abs().sum()))
        there = self._search(lambda t: evaluate(t, start, direction), here, step)
        move(group["params"], start, direction, there.step)
        if there.step == 0.0:
            state.pop("inverse", None)
            return there, direction
        s, y = direction * there.step, there.gradient - g
        curvature = float(y.dot(s))
        if curvature > group["curvature_eps"] * float(s.norm()) * float(y.norm()):
            if inverse is None:
                scale = curvature / float(y.dot(y))
                inverse = torch.eye(len(s), dtype=s.dtype, device=s.device) * scale
            inverse = update_inverse(inverse, s, y)
        if inverse is not None:
            state["inverse"] = inverse
        return there, direction

    def _search(self, evaluate: Callable[[float], Point], here: Point, step: float) -> Point:
        group = self.param_groups[0]
        most, c1 = group["max_evaluations"], group["c1"]
        if group["line_search"] == "armijo":
            return armijo(evaluate, here, step, c1=c1, max_evaluations=most)
        if group["line_search"] == "strong_wolfe":
            return strong_wolfe(evaluate, here, step, c1=c1, c2=group["c2"], max_evaluations=most)
        return evaluate(step)

    def _minimised(self, loss: float) -> tuple[float, Tensor]:
        """Loss and gradient (n,) as those of a minimisation, with the penalty."""
        group = self.param_groups[0]
        gradients = []
        for parameter in group["params"]:
            if parameter.grad is not None and parameter.grad.is_sparse:
                raise RuntimeError(
                    "BFGS: sparse gradients are not supported; use dense ones (Embedding(sparse=False))"
                )
            gradients.append(torch.zeros_like(parameter) if parameter.grad is None else parameter.grad)
        gradient = flatten(gradients).detach().clone()
        if group["maximize"]:
            loss, gradient = -loss, -gradient
        if group["weight_decay"] > 0.0:
            # Frozen parameters stay where they are: a step along the rest of the gradient leaves them alone.
            theta = flatten([p if p.requires_grad else torch.zeros_like(p) for p in group["params"]]).detach()
            gradient.add_(theta, alpha=group["weight_decay"])
            loss += 0.5 * group["weight_decay"] * float(theta.dot(theta))
        return loss, gradient
