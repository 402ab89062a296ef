"""Conjugate gradients: solve A x = b by products with A alone, and stop where A is not positive.

M. R. Hestenes, E. Stiefel, "Methods of conjugate gradients for solving linear systems", 1952. Stopping early
and at negative curvature makes it the inner loop of truncated Newton methods: T. Steihaug, "The conjugate
gradient method and trust regions in large scale optimization", 1983; R. S. Dembo, T. Steihaug, "Truncated-
Newton algorithms for large-scale unconstrained optimization", 1983.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Solution", "conjugate_gradient"]


class Solution(NamedTuple):
    """The result of conjugate gradients.

    Attributes:
        x: (n,).
        iterations: Products with A.
        curvature: p^T A p / p^T p of the last direction p; not positive if that ended the search.
    """

    x: Tensor
    iterations: int
    curvature: float


def conjugate_gradient(
    multiply: Callable[[Tensor], Tensor], b: Tensor, *, tolerance: float, max_iterations: int
) -> Solution:
    """Solve A x = b for a symmetric A, from x = 0.

    With residual r = b - A x and direction p: alpha = r^T r / p^T A p; x += alpha p; r -= alpha A p;
    beta = r_new^T r_new / r^T r; p = r + beta p. In exact arithmetic n iterations solve it. Where p^T A p is
    not positive the search ends with the x so far, or with b itself if it is the first direction: either way
    x^T b > 0, so that with b = -gradient x goes downhill.

    Args:
        multiply: Maps v (n,) to A v.
        b: (n,).
        tolerance: The search ends where ||r|| <= tolerance * ||b||.
        max_iterations: Most products with A.

    Example:
        >>> a = torch.tensor([[4.0, 1.0], [1.0, 3.0]], dtype=torch.float64)
        >>> b = torch.tensor([1.0, 2.0], dtype=torch.float64)
        >>> conjugate_gradient(a.mv, b, tolerance=1e-10, max_iterations=2).x
        tensor([0.0909, 0.6364], dtype=torch.float64)
    """
    x, r = torch.zeros_like(b), b.clone()
    p = r.clone()
    squared = float(r.dot(r))
    enough = tolerance**2 * squared
    curvature = float("inf")
    for iteration in range(max_iterations):
        if squared <= enough:
            return Solution(x, iteration, curvature)
        product = multiply(p)
        along = float(p.dot(product))
        curvature = along / float(p.dot(p))
        if not along > 0.0:
            return Solution(b.clone() if iteration == 0 else x, iteration + 1, curvature)
        alpha = squared / along
        x.add_(p, alpha=alpha)
        r.sub_(product, alpha=alpha)
        before, squared = squared, float(r.dot(r))
        p.mul_(squared / before).add_(r)
    return Solution(x, max_iterations, curvature)
