"""The two small networks on which DeepOBS compares optimizers, weight for weight and pad for pad.

Schneider, Balles and Hennig 2019, "DeepOBS: a deep learning optimizer benchmark suite" (arXiv:1903.05499):
`2c2d` for Fashion-MNIST, `3c3d` for CIFAR-10. Both are written in TensorFlow there, whose "same" padding of
a stride-2 pooling puts the odd pixel to the right and below.
"""

import math

import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from lightning_optreg.nets.network import Network

__all__ = ["DeepOBS2c2d", "DeepOBS3c3d"]


class DeepOBS2c2d(Network):
    """Two convolutions and two dense layers: DeepOBS's network for Fashion-MNIST.

    conv 5x5, 32 - max-pool 2x2 - conv 5x5, 64 - max-pool 2x2 - dense 1024 - dense K, with ReLU after all but
    the last; convolutions keep the size. Weights start as N(0, 0.05^2), drawn again beyond two standard
    deviations; biases start as 0.05.

    Args:
        num_classes: Number of classes K, at least 2. Default: 10.
        input_shape: Channels, height and width (C, H, W) of one image; height and width at least 4. Default:
            (1, 28, 28), which gives 3,274,634 parameters.

    Raises:
        ValueError: If a number is out of range.

    Example:
        >>> sum(parameter.numel() for parameter in DeepOBS2c2d().parameters())
        3274634
    """

    def __init__(self, num_classes: int = 10, input_shape: tuple[int, int, int] = (1, 28, 28)) -> None:
        super().__init__(num_classes, input_shape)
        channels, height, width = input_shape
        _check_size(self, 4)
        self.conv1 = nn.Conv2d(channels, 32, 5, padding=2)
        self.conv2 = nn.Conv2d(32, 64, 5, padding=2)
        self.dense1 = nn.Linear(64 * (height // 4) * (width // 4), 1024)
        self.dense2 = nn.Linear(1024, num_classes)
        for layer in (self.conv1, self.conv2, self.dense1, self.dense2):
            nn.init.trunc_normal_(layer.weight, std=0.05, a=-0.1, b=0.1)
            nn.init.constant_(layer.bias, 0.05)  # type: ignore[arg-type]  # they have biases

    @override
    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, C, H, W) to scores (N, K)."""
        self.check_images(x)
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)  # (N, 32, H/2, W/2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)  # (N, 64, H/4, W/4)
        scores: Tensor = self.dense2(F.relu(self.dense1(x.flatten(1))))
        return scores


class DeepOBS3c3d(Network):
    """Three convolutions and three dense layers: DeepOBS's network for CIFAR-10.

    conv 5x5, 64 - pool - conv 3x3, 96 - pool - conv 3x3, 128 (padded by 1) - pool - dense 512 - dense 256 -
    dense K, with ReLU after all but the last; the first two convolutions are not padded, and each pooling is
    3x3 with stride 2 and TensorFlow's "same" padding. Convolutions start as Glorot's normal, truncated at two
    standard deviations, dense layers as Glorot's uniform (Glorot & Bengio 2010), biases as 0. DeepOBS adds
    0.001 * ||w||^2 of all weights but biases to the loss: `weight_decay=0.002` in an optimizer that adds it
    to the gradient, with `--model.no_decay true`.

    Args:
        num_classes: Number of classes K, at least 2. Default: 10.
        input_shape: Channels, height and width (C, H, W) of one image; height and width at least 14.
            Default: (3, 32, 32), which gives 895,210 parameters.

    Raises:
        ValueError: If a number is out of range.

    Example:
        >>> sum(parameter.numel() for parameter in DeepOBS3c3d().parameters())
        895210
    """

    def __init__(self, num_classes: int = 10, input_shape: tuple[int, int, int] = (3, 32, 32)) -> None:
        super().__init__(num_classes, input_shape)
        _check_size(self, 14)
        channels, height, width = input_shape
        self.conv1 = nn.Conv2d(channels, 64, 5)
        self.conv2 = nn.Conv2d(64, 96, 3)
        self.conv3 = nn.Conv2d(96, 128, 3, padding=1)
        for shrink in (4, 2, 0):  # by the convolution, then the pooling halves and rounds up
            height, width = ((size - shrink + 1) // 2 for size in (height, width))
        self.dense1 = nn.Linear(128 * height * width, 512)
        self.dense2 = nn.Linear(512, 256)
        self.dense3 = nn.Linear(256, num_classes)
        for conv in (self.conv1, self.conv2, self.conv3):
            fan_in, fan_out = (conv.kernel_size[0] ** 2 * n for n in (conv.in_channels, conv.out_channels))
            # TensorFlow widens the distribution so that it has Glorot's variance after the truncation.
            std = math.sqrt(2.0 / (fan_in + fan_out)) / 0.87962566103423978
            nn.init.trunc_normal_(conv.weight, std=std, a=-2 * std, b=2 * std)
        for dense in (self.dense1, self.dense2, self.dense3):
            nn.init.xavier_uniform_(dense.weight)
        for layer in self.children():
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]  # all are layers with biases

    @override
    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, C, H, W) to scores (N, K)."""
        self.check_images(x)
        for conv in (self.conv1, self.conv2, self.conv3):  # (N, 128, 3, 3) in the end
            x = _pool_same(F.relu(conv(x)))
        scores: Tensor = self.dense3(F.relu(self.dense2(F.relu(self.dense1(x.flatten(1))))))
        return scores


def _pool_same(x: Tensor) -> Tensor:
    """Max-pooling 3x3, stride 2, with TensorFlow's "same" padding: the size halves and rounds up.

    An even size n needs (n/2 - 1) 2 + 3 - n = 1 more pixel, which goes to the right or below; an odd one 2,
    one on each side.
    """
    height, width = x.shape[-2:]
    top, left = height % 2, width % 2
    # The padding must not become a maximum; after ReLU nothing is below 0.
    return F.max_pool2d(F.pad(x, (left, 1, top, 1)), 3, 2)


def _check_size(net: Network, smallest: int) -> None:
    if min(net.input_shape[1:]) < smallest:
        raise ValueError(
            f"{type(net).__name__}: input_shape must have height and width >= {smallest}, "
            f"got {net.input_shape}"
        )
