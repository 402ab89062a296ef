"""Residual blocks with the activation before the convolutions: y = F(x) + shortcut(x), with no ReLU after.

He, Zhang, Ren, Sun, "Identity mappings in deep residual networks", 2016 (arXiv:1603.05027), figure 4e. With
dropout between the convolutions it is the block of wide residual networks (Zagoruyko and Komodakis 2016,
arXiv:1605.07146, figure 1d).
"""

from typing import Literal

from torch import Tensor, nn

from lightning_optreg._checks import check_choice, check_range
from lightning_optreg.nets._residual_blocks import ResidualBlock
from lightning_optreg.nets._shortcuts import Shortcut, make_shortcut

__all__ = ["Activate", "PreactBasicBlock", "PreactBlock", "PreactBottleneck"]

Activate = Literal["auto", "branch", "both", "none"]


class PreactBlock(ResidualBlock):
    """What pre-activation blocks share: relu(BN(x)) first, and a sum without a ReLU last.

    Args:
        in_channels: Channels of x, at least 1.
        out_channels: Channels of y, at least 1, and at least `in_channels` with shortcut A.
        stride: Stride of the block, 1 or 2.
        shortcut: What the shortcut does where shapes differ, see `make_shortcut`; `B` has no batch
            normalisation here.
        activate: What takes relu(BN(x)) in place of x: the `branch` alone; `both` branch and shortcut; `none`
            of them, where x is activated already, as after a network's stem. `auto` is `both` where shapes
            differ and `branch` elsewhere (the authors' code, github.com/KaimingHe/resnet-1k-layers).

    Raises:
        ValueError: If an option is unknown.

    Example:
        >>> from lightning_optreg.nets._preactivation_blocks import PreactBasicBlock
        >>> [PreactBasicBlock(4, channels).activate for channels in (4, 8)]
        ['branch', 'both']
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, stride: int, shortcut: Shortcut, activate: Activate
    ) -> None:
        check_choice(type(self).__name__, ("auto", "branch", "both", "none"), activate=activate)
        super().__init__(make_shortcut(shortcut, in_channels, out_channels, stride=stride, norm=False))
        if activate == "auto":
            activate = "branch" if stride == 1 and in_channels == out_channels else "both"
        self.activate = activate
        self.bn1: nn.Module = nn.Identity() if activate == "none" else nn.BatchNorm2d(in_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, H/stride, W/stride)."""
        return self.add_branch(self.relu(self.bn1(x)) if self.activate == "both" else x)


class PreactBasicBlock(PreactBlock):
    """The basic block y = W2 * relu(BN(W1 * relu(BN(x)))) + shortcut(x) with 3x3 convolutions.

    Args:
        in_channels: Channels of x, at least 1.
        out_channels: Channels of y, at least 1, and at least `in_channels` with shortcut A.
        stride: Stride of the first convolution, 1 or 2. Default: 1.
        shortcut: See `PreactBlock`. Default: A.
        activate: See `PreactBlock`. Default: auto.
        dropout: Probability to drop an activation before W2, in [0, 1). Default: 0.

    Raises:
        ValueError: If a number is out of range or an option is unknown.

    Example:
        >>> import torch
        >>> from lightning_optreg.nets._preactivation_blocks import PreactBasicBlock
        >>> PreactBasicBlock(16, 32, stride=2)(torch.randn(1, 16, 8, 8)).shape
        torch.Size([1, 32, 4, 4])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        stride: int = 1,
        shortcut: Shortcut = "A",
        activate: Activate = "auto",
        dropout: float = 0.0,
    ) -> None:
        check_range("PreactBasicBlock", "[0, 1)", dropout=dropout)
        super().__init__(in_channels, out_channels, stride=stride, shortcut=shortcut, activate=activate)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.dropout = nn.Dropout(dropout) if dropout else None
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)

    def branch(self, x: Tensor) -> Tensor:
        """W2 * relu(BN(W1 * a)), where a is relu(BN(x)), or x if that is activated already."""
        if self.activate == "branch":
            x = self.relu(self.bn1(x))
        x = self.relu(self.bn2(self.conv1(x)))
        if self.dropout is not None:
            x = self.dropout(x)
        y: Tensor = self.conv2(x)
        return y

    def zero_branch(self) -> None:
        """Set the last convolution to zero, so that F(x) = 0."""
        nn.init.zeros_(self.conv2.weight)


class PreactBottleneck(PreactBlock):
    """The bottleneck y = W3 * relu(BN(W2 * relu(BN(W1 * relu(BN(x)))))) + shortcut(x): 1x1, 3x3, 1x1.

    Args:
        in_channels: Channels of x, at least 1.
        out_channels: Channels of y, at least 1, and at least `in_channels` with shortcut A.
        width: Channels of the 3x3 convolution, at least 1.
        stride: Stride of the 3x3 convolution, 1 or 2. Default: 1.
        shortcut: See `PreactBlock`. Default: B.
        activate: See `PreactBlock`. Default: auto.

    Raises:
        ValueError: If an option is unknown.

    Example:
        >>> import torch
        >>> from lightning_optreg.nets._preactivation_blocks import PreactBottleneck
        >>> PreactBottleneck(16, 64, width=16)(torch.randn(1, 16, 8, 8)).shape
        torch.Size([1, 64, 8, 8])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        width: int,
        stride: int = 1,
        shortcut: Shortcut = "B",
        activate: Activate = "auto",
    ) -> None:
        super().__init__(in_channels, out_channels, stride=stride, shortcut=shortcut, activate=activate)
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)

    def branch(self, x: Tensor) -> Tensor:
        """W3 * relu(BN(W2 * relu(BN(W1 * a)))), where a is relu(BN(x)), or x if activated already."""
        if self.activate == "branch":
            x = self.relu(self.bn1(x))
        x = self.relu(self.bn2(self.conv1(x)))
        x = self.relu(self.bn3(self.conv2(x)))
        y: Tensor = self.conv3(x)
        return y

    def zero_branch(self) -> None:
        """Set the last convolution to zero, so that F(x) = 0."""
        nn.init.zeros_(self.conv3.weight)
