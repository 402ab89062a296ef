"""Apply an elementwise update only where a sparse gradient has entries."""

from collections.abc import Callable

from torch import Tensor

__all__ = ["update_touched"]


def update_touched(gradient: Tensor, tensors: list[Tensor], update: Callable[..., None]) -> None:
    """Run an update on the rows that a sparse gradient touches, and write them back.

    Args:
        gradient: Sparse (COO), of the tensors' shape; entries given twice are added up.
        tensors: Dense, changed in place.
        update: Called with the gradient's dense values and the tensors' rows, which it changes in place.

    Example:
        >>> import torch
        >>> theta = torch.zeros(3)
        >>> g = torch.sparse_coo_tensor([[2, 2]], [1.0, 3.0], (3,), check_invariants=True)
        >>> update_touched(g, [theta], lambda values, rows: rows.sub_(values))
        >>> theta
        tensor([ 0.,  0., -4.])
    """
    gradient = gradient.coalesce()
    index = tuple(gradient.indices())
    rows = [tensor[index] for tensor in tensors]
    update(gradient.values(), *rows)
    for tensor, changed in zip(tensors, rows, strict=True):
        tensor[index] = changed
