"""Training and evaluation mode, put back as they were."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

__all__ = ["evaluating"]


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put a module in evaluation mode; at the end each of its layers gets its own mode back.

    Args:
        module: Any module. Its layers may be in different modes, such as frozen batch normalisation.

    Example:
        >>> net = nn.Sequential(nn.Dropout(), nn.BatchNorm1d(3).eval())
        >>> with evaluating(net):
        ...     [layer.training for layer in net]
        [False, False]
        >>> [layer.training for layer in net]
        [True, False]
    """
    modes = [(layer, layer.training) for layer in module.modules()]
    try:
        module.eval()
        yield
    finally:
        for layer, training in modes:
            layer.training = training
