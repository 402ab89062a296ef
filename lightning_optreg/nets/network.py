"""The common base of this project's networks: images in, scores out."""

from torch import Tensor, nn

__all__ = ["Network"]


class Network(nn.Module):
    """A network f(x; W) that maps images (N, C, H, W) to scores (N, K).

    It checks and stores the two settings every network takes from the data. It also gives the networks
    of this package a type of their own, so that the command line finds `ResNet` by its short name although
    torchvision has a class of that name too.

    Args:
        num_classes: Number of classes K, at least 2.
        input_shape: Channels, height and width (C, H, W) of one image, each at least 1.

    Raises:
        ValueError: If a number is out of its range.
    """

    def __init__(self, num_classes: int, input_shape: tuple[int, int, int]) -> None:
        super().__init__()
        name = type(self).__name__
        if not num_classes >= 2:
            raise ValueError(f"{name}: num_classes must be >= 2, got {num_classes}")
        if len(input_shape) != 3 or not min(input_shape) >= 1:
            raise ValueError(
                f"{name}: input_shape must be three numbers >= 1 (channels, height, width), got {input_shape}"
            )
        self.num_classes = num_classes
        self.input_shape = tuple(input_shape)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, C, H, W) to scores (N, K)."""
        raise NotImplementedError
