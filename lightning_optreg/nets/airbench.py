"""The small convolutional network that learns CIFAR-10 in seconds.

Jordan, "94% on CIFAR-10 in 3.29 seconds on a single GPU", 2024 (arXiv:2404.00498), section 3.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from lightning_optreg._checks import check_range
from lightning_optreg.layers.whitened_conv import WhitenedConv2d
from lightning_optreg.nets.network import Network

__all__ = ["AirbenchNet"]

SMALLEST = 9  # pixels: 8 places of the first filters, halved three times


class AirbenchNet(Network):
    """Six 3x3 convolutions behind one of fixed filters that whiten the images' patches.

    whitened conv 2x2 - GELU - three blocks - max-pool over what is left, 3x3 for images of 28 or 32 pixels -
    dense K without bias, times 1/9. A block is conv 3x3 - max-pool 2x2 - batch norm - GELU - conv 3x3 - batch
    norm - GELU. Convolutions keep the size, have no bias and start as the identity as far as possible: filter
    i hands on channel i, and the filters beyond the number of inputs start as torch's convolutions do. Batch
    normalisation has a trained bias, but a scale that is fixed at 1.

    The filters of the first layer wait for images: add the callback `PatchWhitening`. The author's optimizer
    takes 64 times the learning rate for the biases of batch normalisation, the parameters named
    `blocks.*.norm*.bias`.

    Args:
        num_classes: Number of classes K, at least 2. Default: 10.
        input_shape: Channels, height and width (C, H, W) of one image; height and width at least 9. The
            network takes images of any such size. Default: (3, 32, 32), which gives 1,971,352 parameters that
            are trained and 1,440 that are not.
        widths: Channels of the three blocks, at least 1 each. Default: (64, 256, 256).
        width: What `widths` are multiplied by, above 0, and rounded; 0.25 makes a network for a CPU.
            Default: 1.
        eps: See `WhitenedConv2d`. Default: 5e-4.
        momentum: Weight of the newest batch in the running averages of batch normalisation, in [0, 1], as in
            torch. Default: 0.4 (the author writes 0.6, the weight of the past).
        identity: Whether convolutions start as the identity as far as possible. Default: True.
        head_scale: What the scores are multiplied by, above 0. Default: 1/9.

    Raises:
        ValueError: If a number is out of range, or there are not three widths.

    Example:
        >>> import torch
        >>> from lightning_optreg.nets import AirbenchNet
        >>> net = AirbenchNet()
        >>> sum(p.numel() for p in net.parameters() if p.requires_grad)
        1971352
        >>> net(torch.randn(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        num_classes: int = 10,
        input_shape: tuple[int, int, int] = (3, 32, 32),
        *,
        widths: Sequence[int] = (64, 256, 256),
        width: float = 1.0,
        eps: float = 5e-4,
        momentum: float = 0.4,
        identity: bool = True,
        head_scale: float = 1 / 9,
    ) -> None:
        super().__init__(num_classes, input_shape)
        if min(input_shape[1:]) < SMALLEST:
            raise ValueError(
                f"AirbenchNet: input_shape must have height and width >= {SMALLEST}, got {input_shape}"
            )
        if len(widths) != 3 or not min(widths) >= 1:
            raise ValueError(f"AirbenchNet: widths must be three numbers >= 1, got {widths}")
        check_range("AirbenchNet", "(0, inf)", width=width, eps=eps, head_scale=head_scale)
        check_range("AirbenchNet", "[0, 1]", momentum=momentum)
        self.head_scale = head_scale
        self.whiten = WhitenedConv2d(input_shape[0], eps=eps)
        channels = [self.whiten.out_channels, *(max(1, round(width * each)) for each in widths)]
        self.blocks = nn.Sequential(*(_Block(n, m, momentum, identity) for n, m in pairwise(channels)))
        self.head = nn.Linear(channels[-1], num_classes, bias=False)

    @override
    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, C, H, W) to scores (N, K)."""
        x = F.gelu(self.whiten(x))  # (N, 8 C, H - 1, W - 1)
        x = self.blocks(x)  # (N, 256, 3, 3)
        x = F.max_pool2d(x, x.shape[-2:]).flatten(1)  # (N, 256)
        scores: Tensor = self.head(x)
        return scores * self.head_scale


class _Block(nn.Module):
    """(N, n, H, W) -> (N, m, H/2, W/2), rounded down."""

    def __init__(self, inputs: int, outputs: int, momentum: float, identity: bool) -> None:
        super().__init__()
        self.conv1 = _conv(inputs, outputs, identity)
        self.norm1 = _unscaled_norm(outputs, momentum)
        self.conv2 = _conv(outputs, outputs, identity)
        self.norm2 = _unscaled_norm(outputs, momentum)

    def forward(self, x: Tensor) -> Tensor:
        """Map activations (N, n, H, W) to (N, m, H/2, W/2)."""
        x = F.gelu(self.norm1(F.max_pool2d(self.conv1(x), 2)))
        return F.gelu(self.norm2(self.conv2(x)))


def _conv(inputs: int, outputs: int, identity: bool) -> nn.Conv2d:
    conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    if identity:
        nn.init.dirac_(conv.weight[:inputs])
    return conv


def _unscaled_norm(channels: int, momentum: float) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels, eps=1e-12, momentum=momentum)
    norm.weight.requires_grad_(False)  # it starts at 1
    return norm
