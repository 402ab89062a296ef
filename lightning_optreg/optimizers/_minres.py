"""MINRES: solve A x = b by products with A alone, for a symmetric A that need not be positive.

C. C. Paige, M. A. Saunders, "Solution of sparse indefinite systems of linear equations", 1975.
"""

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["minres"]


def minres(
    multiply: Callable[[Tensor], Tensor], b: Tensor, *, tolerance: float, max_iterations: int
) -> Tensor | None:
    """Solve A x = b for a symmetric A, from x = 0.

    Lanczos' process makes A tridiagonal on an orthonormal basis v_1 = b / ||b||, v_2, ..., where
    beta_{k+1} v_{k+1} = A v_k - alpha_k v_k - beta_k v_{k-1}; rotations make that triangular. Iteration k
    gives the x of the span of v_1, ..., v_k with the smallest ||b - A x||. In exact arithmetic n iterations
    solve it.

    Args:
        multiply: Maps v (n,) to A v.
        b: (n,).
        tolerance: The search ends where ||b - A x|| <= tolerance * ||b||.
        max_iterations: Most products with A; then the x so far is returned.

    Returns:
        x (n,); None if A is singular and b not in its range, so that no x fulfils the equation.

    Example:
        >>> a = torch.tensor([[2.0, 1.0], [1.0, -3.0]], dtype=torch.float64)
        >>> minres(a.mv, torch.tensor([4.0, -5.0], dtype=torch.float64), tolerance=1e-10, max_iterations=2)
        tensor([1.0000, 2.0000], dtype=torch.float64)
    """
    x, before = torch.zeros_like(b), torch.zeros_like(b)
    first = float(b.norm())
    if first == 0.0:
        return x
    v = b / first
    w, w_before = torch.zeros_like(b), torch.zeros_like(b)
    beta, residual, size = 0.0, first, 0.0
    c, c_before, s, s_before = 1.0, 1.0, 0.0, 0.0
    for _ in range(max_iterations):
        if abs(residual) <= tolerance * first:
            return x
        new = multiply(v).sub(before, alpha=beta)
        alpha = float(new.dot(v))
        new.sub_(v, alpha=alpha)
        next_beta = float(new.norm())
        size = max(size, abs(alpha) + beta + next_beta)
        # The basis ends where A maps it into itself: what is left of `new` then is rounding.
        least = 10.0 * torch.finfo(b.dtype).eps * size
        if next_beta <= least:
            next_beta = 0.0
        diagonal = c * alpha - c_before * s * beta
        length = (diagonal**2 + next_beta**2) ** 0.5
        if length <= least:
            return None
        w_new = (
            v.sub(w_before, alpha=s_before * beta).sub_(w, alpha=s * alpha + c_before * c * beta).div_(length)
        )
        c_before, s_before = c, s
        c, s = diagonal / length, next_beta / length
        x.add_(w_new, alpha=c * residual)
        residual = -s * residual
        w_before, w = w, w_new
        if next_beta == 0.0:
            return x
        before, v, beta = v, new / next_beta, next_beta
    return x
