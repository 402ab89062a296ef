"""The parts of GoogLeNet: convolution with ReLU, inception module, auxiliary head (arXiv:1409.4842)."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

__all__ = ["AuxiliaryHead", "ConvReLU", "Form", "Inception"]

Form = Literal["paper", "batch_norm", "torchvision"]


class ConvReLU(nn.Module):
    """Convolution -> [batch normalisation ->] ReLU.

    With batch normalisation the convolution has no bias; its epsilon is 0.001, that of the authors' later
    networks and of torchvision.

    Args:
        in_channels: Channels of the input, at least 1.
        out_channels: Channels of the output, at least 1.
        kernel_size: Height and width of the kernel in pixels.
        stride: Step of the kernel in pixels.
        batch_norm: Whether there is batch normalisation.

    Shape:
        (N, in_channels, H, W) -> (N, out_channels, H / stride, W / stride), rounded up; odd kernels.

    Example:
        >>> import torch
        >>> from lightning_optreg.nets._inception import ConvReLU
        >>> ConvReLU(3, 8, 5, batch_norm=True)(torch.zeros(2, 3, 7, 9)).shape
        torch.Size([2, 8, 7, 9])
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, *, stride: int = 1, batch_norm: bool
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            padding=kernel_size // 2,
            bias=not batch_norm,
        )
        self.bn = nn.BatchNorm2d(out_channels, eps=0.001) if batch_norm else None
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, out_channels, H / stride, W / stride)."""
        x = self.conv(x)
        if self.bn is not None:
            x = self.bn(x)
        activated: Tensor = self.relu(x)
        return activated


class Inception(nn.Module):
    """Inception module: 1x1, 3x3, 5x5 convolutions and 3x3 max-pooling side by side, their maps stacked.

    1x1 convolutions come before the 3x3 and 5x5 ones and after the pooling; a ReLU follows each convolution.

    Args:
        in_channels: Channels of the input, at least 1.
        channels: Numbers of table 1, each at least 1: 1x1, 3x3 reduce, 3x3, 5x5 reduce, 5x5, pool projection.
        form: `paper`; `batch_norm`; `torchvision`, which has 3x3 kernels in the place of the 5x5 ones.

    Shape:
        (N, in_channels, H, W) -> (N, out_channels, H, W), out_channels being the sum of the four branches'.

    Example:
        >>> import torch
        >>> from lightning_optreg.nets._inception import Inception
        >>> Inception(192, (64, 96, 128, 16, 32, 32), "paper")(torch.zeros(1, 192, 4, 4)).shape
        torch.Size([1, 256, 4, 4])
    """

    def __init__(self, in_channels: int, channels: Sequence[int], form: Form) -> None:
        super().__init__()
        one, reduce3, three, reduce5, five, pool = channels
        norm = form != "paper"
        self.out_channels = one + three + five + pool
        self.branch1 = ConvReLU(in_channels, one, 1, batch_norm=norm)
        self.branch2 = nn.Sequential(
            ConvReLU(in_channels, reduce3, 1, batch_norm=norm), ConvReLU(reduce3, three, 3, batch_norm=norm)
        )
        kernel = 3 if form == "torchvision" else 5
        self.branch3 = nn.Sequential(
            ConvReLU(in_channels, reduce5, 1, batch_norm=norm),
            ConvReLU(reduce5, five, kernel, batch_norm=norm),
        )
        self.branch4 = nn.Sequential(
            nn.MaxPool2d(3, stride=1, padding=1), ConvReLU(in_channels, pool, 1, batch_norm=norm)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, H, W)."""
        return torch.cat((self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)), dim=1)


class AuxiliaryHead(nn.Module):
    """Classifier on maps from the middle of the network, for training only (section 5 of the paper).

    5x5 average pooling with stride 3, 1x1 convolution to 128 channels, 1024 hidden units with ReLU and
    dropout of 70 %, scores. For 14x14 maps pooling leaves 4x4.

    Args:
        in_channels: Channels of the maps, at least 1.
        size: Height and width of the maps, at least 5 each, except in torchvision's form.
        channels: Of the 1x1 convolution, at least 1; 128 in the paper.
        hidden: Hidden units, at least 1; 1024 in the paper.
        num_classes: Number of classes K.
        dropout: Probability to drop a hidden unit, in [0, 1); 0.7 in the paper.
        form: `paper`; `batch_norm`; `torchvision`, which averages over 4x4 places whatever the size.

    Shape:
        (N, in_channels, *size) -> (N, K).

    Raises:
        ValueError: If the maps are too small.

    Example:
        >>> import torch
        >>> from lightning_optreg.nets._inception import AuxiliaryHead
        >>> head = AuxiliaryHead(512, (14, 14), 128, 1024, 1000, 0.7, "paper")
        >>> head.fc1.in_features  # 4 x 4 x 128
        2048
        >>> head(torch.zeros(1, 512, 14, 14)).shape
        torch.Size([1, 1000])
    """

    def __init__(
        self,
        in_channels: int,
        size: tuple[int, int],
        channels: int,
        hidden: int,
        num_classes: int,
        dropout: float,
        form: Form,
    ) -> None:
        super().__init__()
        if form == "torchvision":
            places = (4, 4)
        elif min(size) >= 5:
            places = ((size[0] - 5) // 3 + 1, (size[1] - 5) // 3 + 1)
        else:
            raise ValueError(f"AuxiliaryHead: maps must be at least 5x5, got {size[0]}x{size[1]}")
        self.pool = nn.AdaptiveAvgPool2d(4) if form == "torchvision" else nn.AvgPool2d(5, stride=3)
        self.conv = ConvReLU(in_channels, channels, 1, batch_norm=form != "paper")
        self.fc1 = nn.Linear(channels * places[0] * places[1], hidden)
        self.relu = nn.ReLU(inplace=True)
        self.dropout = nn.Dropout(dropout)
        self.fc2 = nn.Linear(hidden, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to scores (N, K)."""
        x = self.conv(self.pool(x)).flatten(1)
        scores: Tensor = self.fc2(self.dropout(self.relu(self.fc1(x))))
        return scores
