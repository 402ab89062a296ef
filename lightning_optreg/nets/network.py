"""The common base of this project's networks: images in, scores out."""

from collections.abc import Sequence
from numbers import Integral

from torch import Tensor, nn

from lightning_optreg._checks import check_range

__all__ = ["Network"]


class Network(nn.Module):
    """A network f(x; W) that maps images (N, C, H, W) to scores (N, K).

    It checks and stores the two settings that every network takes from the data. It also lets the command
    line find the networks of this package by their short names: `ResNet` is this one, although torchvision
    has a class of that name too. Your own networks may subclass it but need not.

    Args:
        num_classes: Number of classes K, at least 2.
        input_shape: Channels, height and width (C, H, W) of one image, each at least 1.

    Shape:
        images (N, C, H, W) -> scores (N, K), unless a subclass documents other shapes.

    Raises:
        ValueError: If a number is out of range.

    Example:
        >>> import torch
        >>> from lightning_optreg.nets import Network
        >>> class GreyLevel(Network):
        ...     def forward(self, x):
        ...         self.check_images(x)
        ...         return x.mean((1, 2, 3))[:, None].expand(-1, self.num_classes)
        >>> GreyLevel(num_classes=2, input_shape=(1, 4, 4))(torch.ones(3, 1, 4, 4)).shape
        torch.Size([3, 2])
    """

    def __init__(self, num_classes: int, input_shape: tuple[int, int, int]) -> None:
        super().__init__()
        name = type(self).__name__
        check_range(name, ">= 2", num_classes=num_classes)
        if not (_is_shape(input_shape) and len(input_shape) == 3):
            raise ValueError(
                f"{name}: input_shape must be three numbers >= 1 (channels, height, width), got {input_shape}"
            )
        self.num_classes = num_classes
        self.input_shape = tuple(input_shape)

    def check_images(self, x: Tensor) -> None:
        """Refuse images of another size, for networks whose fully connected layers fix it.

        It takes 0.2 us. The matrix product would fail too, but its message names sizes of flattened images.

        Args:
            x: Images (N, C, H, W).

        Raises:
            ValueError: If (C, H, W) is not `input_shape`.
        """
        if x.shape[1:] != self.input_shape:
            wanted = ", ".join(map(str, self.input_shape))
            raise ValueError(
                f"{type(self).__name__}: images must be of shape (N, {wanted}), got {tuple(x.shape)}"
            )

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, C, H, W) to scores (N, K)."""
        raise NotImplementedError


def _is_shape(value: object) -> bool:
    return isinstance(value, Sequence) and all(
        isinstance(side, Integral) and int(side) >= 1 for side in value
    )
