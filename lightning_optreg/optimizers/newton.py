"""Newton's method: d = -(H + lambda I)^-1 g, made safe far from a minimum.

The damping lambda and its adaptation by the ratio of actual to predicted descent: K. Levenberg, "A method for
the solution of certain non-linear problems in least squares", 1944; D. W. Marquardt, "An algorithm for
least-squares estimation of nonlinear parameters", 1963; as a trust region: J. J. More, "The
Levenberg-Marquardt algorithm: implementation and theory", 1978. Hessian-free: J. Martens, "Deep learning via
Hessian-free optimization", 2010.
"""

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT
from typing_extensions import override

from lightning_optreg._checks import check_choice, check_range
from lightning_optreg.optimizers._conjugate_gradient import conjugate_gradient
from lightning_optreg.optimizers._flat_vectors import OneVector, flatten, move, only_group
from lightning_optreg.optimizers._line_search import Point, armijo
from lightning_optreg.optimizers._minres import minres
from lightning_optreg.optimizers.derivatives import (
    Objective,
    hessian,
    hessian_products,
    loss_and_gradient,
    loss_value,
)
from lightning_optreg.optimizers.rates import check_rate

__all__ = ["Newton"]

_TRIES = 40
"""Largest number of dampings that a step tries; each is `damping_up` times the one before."""


class Newton(OneVector):
    """Damped Newton, for losses without noise: (H + lambda I) d = -g; theta <- theta + lr * d.

    The closure given to `step` differs from that of other optimizers: it returns the loss and does **not**
    call `backward`, since second derivatives need the graph. It may also return an iterable of parts that
    add up to the loss, such as chunks of the training set, each freed before the next is computed. It is
    called several times in a step and must give the same loss each time: no dropout, no augmentation. Under
    a Lightning Trainer the callback `FullBatch` provides all this; with manual optimization, pass such a
    closure yourself.

    `globalization` says how it proceeds far from a minimum, where H need not be positive definite:

    - "trust_region": Levenberg and Marquardt's. lambda grows until H + lambda I is positive definite and the
      loss falls by at least 1e-4 of what the quadratic model predicts. Where it falls by more than 3/4 of
      that, lambda shrinks for the next step, and below a thousandth of the curvature along the gradient it
      becomes 0, so that convergence ends quadratically. It leaves saddle points (not a point where the
      gradient is exactly 0).
    - "line_search": the direction is made to go downhill in the same way (`exact`), or is cut off at the
      first negative curvature (`free`); the step is halved from `lr` until Armijo's condition holds.
    - None: the step as it stands, also where H is not positive definite; `free` then continues with MINRES.
      Saddle points attract it.

    Args:
        params: Parameters, in one group, all float32 or all float64.
        lr: Multiple of d that is tried first, in (0, inf).
        hessian: "exact": all n^2 second derivatives, by `torch.func.vmap`, then Cholesky. "free": conjugate
            gradients with products H v, for any n; exact products, and an inexact solution.
        globalization: See above.
        damping: lambda, at least 0; with "trust_region" only the first one.
        damping_up: Factor by which lambda grows, above 1.
        damping_down: Factor by which it shrinks, in (0, 1).
        weight_decay: Coupled: weight_decay / 2 * ||theta||^2 is part of the loss, at least 0.
        maximize: Climb instead of descend.
        max_exact: Most parameters for "exact", at least 1: the Hessian has their number squared entries.
        cg_tolerance: Conjugate gradients end at this residual, relative to ||g||, in [0, 1). None:
            min(0.5, sqrt(||g||)), with which convergence is superlinear.
        cg_iterations: Most products H v for one direction, at least 1.

    Raises:
        ValueError: If a setting is out of range, if there are several groups, or for parameters of other
            types.
        RuntimeError: In `step`, without a closure, if the closure has called `backward`, if a gradient is
            sparse, or if H + lambda I is singular with `globalization=None`.

    Example:
        >>> theta = torch.tensor([3.0, -2.0], dtype=torch.float64, requires_grad=True)
        >>> optimizer = Newton([theta])
        >>> loss = optimizer.step(lambda: (theta - 1.0).square().sum() + theta.prod())
        >>> [round(value, 12) for value in theta.tolist()]  # the minimum, in one step
        [0.666666666667, 0.666666666667]
    """

    objective: Objective | None = None
    """Computes the loss in place of the closure, which is still called once; `FullBatch` sets it."""

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1.0,
        *,
        hessian: Literal["exact", "free"] = "exact",
        globalization: Literal["trust_region", "line_search"] | None = "trust_region",
        damping: float = 0.0,
        damping_up: float = 10.0,
        damping_down: float = 0.1,
        weight_decay: float = 0.0,
        maximize: bool = False,
        max_exact: int = 2000,
        cg_tolerance: float | None = None,
        cg_iterations: int = 250,
    ) -> None:
        check_rate("Newton", lr)
        check_range("Newton", "(0, inf)", lr=lr)
        check_choice("Newton", ("exact", "free"), hessian=hessian)
        check_choice("Newton", ("trust_region", "line_search", None), globalization=globalization)
        check_range("Newton", "[0, inf)", damping=damping, weight_decay=weight_decay)
        check_range("Newton", "(1, inf)", damping_up=damping_up)
        check_range("Newton", "(0, 1)", damping_down=damping_down)
        check_range("Newton", ">= 1", max_exact=max_exact, cg_iterations=cg_iterations)
        if cg_tolerance is not None:
            check_range("Newton", "[0, 1)", cg_tolerance=cg_tolerance)
        settings = {
            "lr": lr,
            "hessian": hessian,
            "globalization": globalization,
            "damping": damping,
            "damping_up": damping_up,
            "damping_down": damping_down,
            "weight_decay": weight_decay,
            "maximize": maximize,
            "cg_tolerance": cg_tolerance,
            "cg_iterations": cg_iterations,
        }
        largest = max_exact if hessian == "exact" else math.inf
        why = "the exact Hessian has their number squared entries; use hessian='free' or raise max_exact"
        super().__init__(params, settings, largest, why)

    @override
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Make one step.

        Args:
            closure: Returns the loss without calling `backward`, or an iterable of its parts.

        Returns:
            The loss before the step, with the penalty of weight decay; with `maximize` that is subtracted.
        """
        if closure is None:
            raise RuntimeError("Newton: step needs a closure that returns the loss without calling backward")
        only_group(self.param_groups, "Newton")  # a group may have been added since
        objective: Objective = closure
        if self.objective is not None:
            objective = self.objective
            with torch.enable_grad():
                closure()
        group = self.param_groups[0]
        parameters = [p for p in group["params"] if p.requires_grad]
        state = self.state[group["params"][0]]
        state.setdefault("damping", group["damping"])
        problem = _Problem(objective, parameters, group)
        if group["globalization"] == "trust_region":
            state["damping"] = _trust_region(problem, group, state["damping"])
        else:
            direction = problem.direction(group["damping"])
            step = float(group["lr"])
            if group["globalization"] == "line_search":
                if direction is None:
                    direction = problem.downhill(group["damping"], group["damping_up"])
                slope = float(problem.gradient.dot(direction))
                start = Point(0.0, problem.loss, problem.gradient, slope)
                step = armijo(
                    lambda t: _try(problem, direction, t, start), start, step, rounding=problem.rounding
                ).step
            elif direction is None:
                raise RuntimeError(f"Newton: H + {group['damping']:g} I is singular; use a larger damping")
            problem.go(direction, step)
        return problem.start.new_tensor(problem.sign * problem.loss)


def _try(problem: "_Problem", direction: Tensor, step: float, start: Point) -> Point:
    problem.go(direction, step)
    return Point(step, problem.value(), start.gradient, float("nan"))


def _trust_region(problem: "_Problem", group: dict[str, Any], damping: float) -> float:
    """Make a step of Levenberg and Marquardt's; return the damping for the next."""
    up: float = group["damping_up"]
    down: float = group["damping_down"]
    for _ in range(_TRIES):
        direction = problem.direction(damping)
        if direction is not None:
            step = direction * float(group["lr"])
            predicted = -float(problem.gradient.dot(step) + 0.5 * step.dot(problem.multiply(step)))
            problem.go(step, 1.0)
            actual = problem.loss - problem.value()
            # At the minimum both are rounding errors of the loss, and their ratio is meaningless.
            if predicted <= problem.rounding and abs(actual) <= problem.rounding:
                return damping
            if predicted > 0.0 and actual >= 1e-4 * predicted:
                if actual < 0.25 * predicted:
                    return max(damping * up, problem.least_damping)
                if actual > 0.75 * predicted and damping > 0.0:
                    damping *= down
                    return damping if damping >= problem.least_damping else 0.0
                return damping
        damping = max(damping * up, problem.least_damping)
    problem.go(problem.gradient, 0.0)
    return damping


class _Problem:
    """Loss, gradient and Hessian at the point where a step begins, as those of a minimisation."""

    def __init__(self, objective: Objective, parameters: list[Tensor], group: dict[str, Any]) -> None:
        self.objective, self.parameters, self.group = objective, parameters, group
        self.sign = -1.0 if group["maximize"] else 1.0
        self.decay: float = group["weight_decay"]
        self.start = flatten(parameters).detach().clone()
        loss, gradient = loss_and_gradient(objective, parameters)
        self.loss = self.sign * loss + self._penalty(self.start)
        self.rounding = 10.0 * torch.finfo(gradient.dtype).eps * abs(self.loss)
        self.gradient = (self.sign * gradient).add_(self.start, alpha=self.decay)
        self._matrix: Tensor | None = None
        self._products: Callable[[Tensor], Tensor] | None = None
        if group["hessian"] == "exact":
            self._matrix = self.sign * hessian(objective, parameters)
            self._matrix.diagonal().add_(self.decay)
        g = self.gradient
        squared = float(g.dot(g))
        curvature = abs(float(g.dot(self.multiply(g)))) / squared if squared > 0.0 else 0.0
        self.least_damping = 1e-3 * curvature if curvature > 0.0 else 1e-3
        """The smallest lambda other than 0."""

    def _penalty(self, point: Tensor) -> float:
        return 0.5 * self.decay * float(point.square().sum()) if self.decay > 0.0 else 0.0

    def value(self) -> float:
        """The loss where the parameters are now."""
        point = flatten(self.parameters).detach() if self.decay > 0.0 else self.start
        return self.sign * loss_value(self.objective) + self._penalty(point)

    def go(self, direction: Tensor, step: float) -> None:
        """Set the parameters to start + step * direction."""
        self._products = None  # its graph is of values that are overwritten now
        move(self.parameters, self.start, direction, step)

    def multiply(self, v: Tensor) -> Tensor:
        """H v, where the step begins; without a matrix the parameters go back there."""
        if self._matrix is not None:
            return self._matrix.mv(v)
        if self._products is None:
            self.go(v, 0.0)
            self._products = hessian_products(self.objective, self.parameters)
        return self.sign * self._products(v) + self.decay * v

    def direction(self, damping: float) -> Tensor | None:
        """Solve (H + lambda I) d = -g; None if the matrix is not positive definite, or singular."""
        g, method = self.gradient, self.group["globalization"]
        if self._matrix is None:
            tolerance = self.group["cg_tolerance"]
            equation: Any = (lambda v: self.multiply(v).add_(v, alpha=damping), -g)
            limits: Any = {
                "tolerance": min(0.5, float(g.norm()) ** 0.5) if tolerance is None else tolerance,
                "max_iterations": self.group["cg_iterations"],
            }
            solution = conjugate_gradient(*equation, **limits)
            if solution.curvature > 0.0 or method == "line_search":
                return solution.x
            return None if method == "trust_region" else minres(*equation, **limits)
        damped = self._matrix.clone()
        damped.diagonal().add_(damping)
        if method is None:
            d, failed = torch.linalg.solve_ex(damped, -g)
            return None if failed else d
        factor, failed = torch.linalg.cholesky_ex(damped)
        return None if failed else -torch.cholesky_solve(g[:, None], factor)[:, 0]

    def downhill(self, damping: float, up: float) -> Tensor:
        """Solve with the first larger lambda for which H + lambda I is positive definite."""
        for _ in range(_TRIES):
            damping = max(damping * up, self.least_damping)
            direction = self.direction(damping)
            if direction is not None:
                return direction
        raise RuntimeError("Newton: second derivatives are not finite")
