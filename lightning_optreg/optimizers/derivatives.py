"""First and second derivatives of a loss, which is given whole or as a sum of parts.

A part fits in memory, such as the loss of one chunk of the training set divided by the number of all images.
Derivatives are added up over the parts, and only one part's graph exists at a time.
Products with the Hessian are exact, by differentiating twice: B. A. Pearlmutter, "Fast exact multiplication
by the Hessian", 1994.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor

from lightning_optreg.optimizers._flat_vectors import flatten, unflatten

__all__ = ["Objective", "hessian", "hessian_product", "hessian_products", "loss_and_gradient", "loss_value"]

Objective = Callable[[], Tensor | Iterable[Tensor]]
"""Computes the loss without calling `backward`: one number, or parts that add up to it."""


def _parts(objective: Objective) -> Iterator[Tensor]:
    result = objective()
    yield from [result] if isinstance(result, Tensor) else result


@torch.no_grad()
def loss_value(objective: Objective) -> float:
    """Compute the loss alone.

    Args:
        objective: See `Objective`.
    """
    return sum(float(part) for part in _parts(objective))


def loss_and_gradient(objective: Objective, parameters: Sequence[Tensor]) -> tuple[float, Tensor]:
    """Compute the loss and its gradient (n,).

    Args:
        objective: See `Objective`.
        parameters: With n numbers in all; those that the loss does not depend on have gradient 0.

    Raises:
        RuntimeError: If what the objective returns does not depend on the parameters, as after `backward`.

    Example:
        >>> theta = torch.tensor([1.0, 2.0], requires_grad=True)
        >>> loss_and_gradient(lambda: theta.square().sum(), [theta])
        (5.0, tensor([2., 4.]))
    """
    loss, gradient = 0.0, torch.zeros_like(flatten(parameters), requires_grad=False)
    with torch.enable_grad():
        for part in _parts(objective):
            gradient += flatten(_differentiate(part, parameters))
            loss += float(part.detach())
    return loss, gradient


def _differentiate(part: Tensor, parameters: Sequence[Tensor], *, again: bool = False) -> list[Tensor]:
    if not (isinstance(part, Tensor) and part.requires_grad):
        raise RuntimeError(
            "the closure must return the loss with its graph, without calling backward: second derivatives "
            "need it; under a Lightning Trainer add the callback FullBatch, which passes such a closure"
        )
    gradients = torch.autograd.grad(part, parameters, create_graph=again, materialize_grads=True)
    if any(g.is_sparse for g in gradients):
        raise RuntimeError("sparse gradients are not supported; use dense ones (Embedding(sparse=False))")
    # torch 2.9 fills in a tensor that requires a gradient for a parameter the loss does not depend on.
    return list(gradients) if again else [g.detach() for g in gradients]


def hessian_products(objective: Objective, parameters: Sequence[Tensor]) -> Callable[[Tensor], Tensor]:
    """Return a function that multiplies vectors by the Hessian at the present parameters.

    A loss given whole is computed once and its graph kept for all products; parts are computed again for
    each product.

    Args:
        objective: See `Objective`.
        parameters: With n numbers in all. They must not change while the function is used.

    Returns:
        Maps v (n,) to H v (n,).

    Example:
        >>> theta = torch.tensor([1.0, 2.0], requires_grad=True)
        >>> hessian_products(lambda: theta.pow(3).sum(), [theta])(torch.tensor([1.0, 1.0]))
        tensor([ 6., 12.])
    """
    with torch.enable_grad():
        whole = objective()
        if isinstance(whole, Tensor):
            kept = _differentiate(whole, parameters, again=True)
            return lambda v: _product(kept, parameters, v)

    def multiply(v: Tensor) -> Tensor:
        total = torch.zeros_like(v)
        with torch.enable_grad():
            for part in _parts(objective):
                total += _product(_differentiate(part, parameters, again=True), parameters, v)
        return total

    return multiply


def hessian_product(
    gradient: Sequence[Tensor], parameters: Sequence[Tensor], vector: Sequence[Tensor]
) -> list[Tensor]:
    """Compute H v, the derivative of gradient^T v.

    Args:
        gradient: Of each parameter, with its graph (`create_graph=True`), which is kept.
        parameters: The parameters.
        vector: v, in the parameters' shapes.

    Returns:
        H v, in the parameters' shapes.

    Example:
        >>> theta = torch.tensor([1.0, 2.0], requires_grad=True)
        >>> gradient = torch.autograd.grad(theta.pow(3).sum(), theta, create_graph=True)
        >>> hessian_product(gradient, [theta], [torch.tensor([1.0, 1.0])])
        [tensor([ 6., 12.])]
    """
    pairs = [(g, u) for g, u in zip(gradient, vector, strict=True) if g.requires_grad]
    if not pairs:  # the loss is linear in all parameters
        return [torch.zeros_like(u) for u in vector]
    outputs, vectors = zip(*pairs, strict=True)
    products = torch.autograd.grad(outputs, parameters, vectors, retain_graph=True, materialize_grads=True)
    return [product.detach() for product in products]


def _product(gradient: Sequence[Tensor], parameters: Sequence[Tensor], v: Tensor) -> Tensor:
    return flatten(hessian_product(gradient, parameters, unflatten(v, parameters)))


def hessian(objective: Objective, parameters: Sequence[Tensor], chunk_size: int = 64) -> Tensor:
    """Compute the Hessian (n, n), its rows together by `torch.func.vmap`.

    Args:
        objective: See `Objective`.
        parameters: With n numbers in all.
        chunk_size: Rows that are computed at once.

    Example:
        >>> x, y = (torch.tensor(value, requires_grad=True) for value in (1.0, 2.0))
        >>> hessian(lambda: x * x * y, [x, y])
        tensor([[4., 2.],
                [2., 0.]])
    """
    like = flatten(parameters).detach()
    rows = torch.eye(len(like), dtype=like.dtype, device=like.device)
    total = torch.zeros_like(rows)
    with torch.enable_grad():
        for part in _parts(objective):
            gradient = _differentiate(part, parameters, again=True)
            if any(g.requires_grad for g in gradient):
                total += torch.func.vmap(
                    lambda v, g=gradient: _product(g, parameters, v), chunk_size=chunk_size
                )(rows)
    return 0.5 * (total + total.T)  # symmetric but for rounding
