"""Sizes of the maps that convolutions and pooling leave to the fully connected layers after them."""

from collections.abc import Iterable

from torch import nn

__all__ = ["map_size"]


def map_size(layers: Iterable[nn.Module], size: tuple[int, int]) -> tuple[int, int]:
    """Height and width after the given layers; of these only convolutions and max-pooling change them.

    A window of k pixels moves over an image of n with padding p in strides of s: it has
    floor((n + 2p - k) / s) + 1 places. With `ceil_mode`, pooling rounds up, unless the last window would lie
    in the padding.

    Args:
        layers: The layers, in the order in which they are called.
        size: Height and width of the image in pixels.

    Returns:
        Height and width; 0 or less where the image is too small.

    Example:
        >>> from torch import nn
        >>> from lightning_optreg.nets._sizes import map_size
        >>> map_size([nn.Conv2d(3, 96, 11, stride=4), nn.ReLU(), nn.MaxPool2d(3, stride=2)], (227, 227))
        (27, 27)
    """
    height, width = size
    for layer in layers:
        if isinstance(layer, nn.Conv2d | nn.MaxPool2d):
            height, width = (_places(layer, n, axis) for axis, n in enumerate((height, width)))
    return height, width


def _places(layer: nn.Conv2d | nn.MaxPool2d, n: int, axis: int) -> int:
    values = (layer.kernel_size, layer.stride, layer.padding)
    k, s, p = (int(value if isinstance(value, int) else value[axis]) for value in values)
    places, rest = divmod(n + 2 * p - k, s)
    places += 1
    if isinstance(layer, nn.MaxPool2d) and layer.ceil_mode and rest and places * s < n + p:
        places += 1
    return places
