"""Softmax regression: the linear classifier f(x; W, b) = Wx + b on the pixels of an image.

With cross-entropy it is multinomial logistic regression, with the hinge loss a multiclass linear SVM.
Each row of W is one class's template.
"""

import math

from torch import Tensor, nn

from lightning_optreg.nets.network import Network

__all__ = ["SoftmaxRegression"]


class SoftmaxRegression(Network):
    """The linear score function f(x; W, b) = Wx + b, where x is the image stretched into one column.

    W and b start at zero. The loss is convex in them, so there is no symmetry to break, and the first
    cross-entropy is exactly ln K: the lecture's check that the pieces are put together correctly.

    Args:
        num_classes: Number of classes K, at least 2. Default: 10.
        input_shape: Channels, height and width (C, H, W) of one image. Default: (1, 28, 28).

    Shape:
        images (N, C, H, W) -> scores (N, K); W is (K, CHW), b is (K,).

    Raises:
        ValueError: If a number is out of range.

    Example:
        >>> import torch
        >>> from lightning_optreg.nets import SoftmaxRegression
        >>> net = SoftmaxRegression(num_classes=3, input_shape=(3, 32, 32))
        >>> net.linear.weight.shape
        torch.Size([3, 3072])
        >>> loss = torch.nn.CrossEntropyLoss()(net(torch.randn(5, 3, 32, 32)), torch.tensor([0, 1, 2, 1, 0]))
        >>> round(loss.item(), 4)  # ln 3
        1.0986
    """

    def __init__(self, num_classes: int = 10, input_shape: tuple[int, int, int] = (1, 28, 28)) -> None:
        super().__init__(num_classes, input_shape)
        self.linear = nn.Linear(math.prod(input_shape), num_classes)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, C, H, W) to scores (N, K)."""
        self.check_images(x)
        scores: Tensor = self.linear(x.flatten(1))  # (N, C, H, W) -> (N, CHW) -> (N, K)
        return scores
