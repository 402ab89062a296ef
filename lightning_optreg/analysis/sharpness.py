"""How sharp a minimum is: the largest curvature, and the largest rise of the loss nearby.

Neither says by itself how well a network generalises: Dinh, Pascanu, Bengio and Bengio 2017, "Sharp minima
can generalize for deep nets" (arXiv:1703.04933), scale one ReLU layer up and the next one down, which leaves
the function as it is and changes both numbers at will. Use them to compare weights of one network that were
trained in the same way.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from lightning_optreg.optimizers.derivatives import hessian_product

__all__ = ["keskar_sharpness", "largest_eigenvalue"]

Loss = Callable[[Mapping[str, Tensor]], Tensor]


def largest_eigenvalue(
    loss: Loss, weights: Mapping[str, Tensor], *, iterations: int = 50, tolerance: float = 1e-4, seed: int = 0
) -> float:
    """Find the eigenvalue of the loss's Hessian with the largest absolute value, by power iteration.

    Args:
        loss: Maps weights by name to the loss; twice differentiable.
        weights: The point at which the Hessian is taken.
        iterations: Largest number of products with the Hessian, at least 1. Default: 50.
        tolerance: Relative change at which the iteration ends. Default: 1e-4.
        seed: Seed of the first vector. Default: 0.

    Example:
        >>> w = {"w": torch.ones(2)}
        >>> round(largest_eigenvalue(lambda w: (torch.tensor([1.0, 3.0]) * w["w"] ** 2).sum(), w), 3)
        6.0
    """
    leaves = {name: weight.detach().clone().requires_grad_() for name, weight in weights.items()}
    gradients = torch.autograd.grad(loss(leaves), list(leaves.values()), create_graph=True)
    generator = torch.Generator().manual_seed(seed)
    vector = [torch.randn(w.shape, generator=generator, dtype=w.dtype).to(w.device) for w in weights.values()]
    eigenvalue = 0.0
    for _ in range(iterations):
        length = torch.stack([v.square().sum() for v in vector]).sum().sqrt()
        vector = [v / length for v in vector]
        product = hessian_product(gradients, list(leaves.values()), vector)
        found = float(sum((v * p).sum() for v, p in zip(vector, product, strict=True)))
        if abs(found - eigenvalue) <= tolerance * abs(found):
            return found
        eigenvalue, vector = found, product
        if not any(bool(p.any()) for p in product):
            return 0.0
    return eigenvalue


def keskar_sharpness(
    loss: Loss, weights: Mapping[str, Tensor], *, epsilon: float = 1e-3, steps: int = 10
) -> float:
    """Return the largest rise of the loss in a small box, in percent: 100 (max f - f) / (1 + f).

    The box is |z_i| <= epsilon (|theta_i| + 1); its maximum is sought by projected steps along the sign of
    the gradient.

    Args:
        loss: Maps weights by name to the loss; differentiable.
        weights: The centre of the box.
        epsilon: Size of the box, above 0. Default: 0.001.
        steps: Gradient steps, at least 1.

    Source:
        Keskar, Mudigere, Nocedal, Smelyanskiy and Tang 2017, "On large-batch training for deep learning:
        generalization gap and sharp minima" (arXiv:1609.04836), with another way to the maximum.

    Example:
        >>> w = {"w": torch.ones(1)}  # the box is [0, 2]: the loss rises from 1 to 4
        >>> keskar_sharpness(lambda w: w["w"].square().sum(), w, epsilon=0.5)
        150.0
    """
    bounds = {name: epsilon * (weight.abs() + 1.0) for name, weight in weights.items()}
    start = float(loss(weights).detach())
    worst = start
    shift = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    for _ in range(steps):
        leaves = {name: (w + shift[name]).detach().requires_grad_() for name, w in weights.items()}
        value = loss(leaves)
        worst = max(worst, float(value.detach()))
        gradients = torch.autograd.grad(value, list(leaves.values()), materialize_grads=True)
        for (name, bound), gradient in zip(bounds.items(), gradients, strict=True):
            moved = shift[name] + 0.5 * bound * gradient.sign()
            shift[name] = torch.minimum(torch.maximum(moved, -bound), bound)
    worst = max(worst, float(loss({name: w + shift[name] for name, w in weights.items()}).detach()))
    return 100.0 * (worst - start) / (1.0 + start)
