"""Residual blocks y = relu(F(x) + shortcut(x)): the basic block and the bottleneck.

He, Zhang, Ren, Sun, "Deep residual learning for image recognition", 2015 (arXiv:1512.03385), figure 5. With
groups the bottleneck is ResNeXt's (Xie et al. 2017, arXiv:1611.05431, figure 3c); with stochastic depth the
branch F is left out at random (Huang et al. 2016, arXiv:1603.09382).
"""

from torch import Tensor, nn

from lightning_optreg.layers import StochasticDepth
from lightning_optreg.nets._shortcuts import Shortcut, make_shortcut

__all__ = ["BasicBlock", "Bottleneck", "ResidualBlock"]


class ResidualBlock(nn.Module):
    """Base of residual blocks: y = relu(F(x) + shortcut(x)); a subclass defines F as its `branch`.

    Args:
        shortcut: The shortcut, or None for a plain block y = relu(F(x)).

    Shape:
        (N, in_channels, H, W) -> (N, out_channels, H/stride, W/stride), rounded up.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from lightning_optreg.nets._residual_blocks import ResidualBlock
        >>> class Doubling(ResidualBlock):
        ...     def branch(self, x):
        ...         return 1 * x
        >>> Doubling(nn.Identity())(torch.tensor([-1.0, 2.0]))
        tensor([0., 4.])
    """

    def __init__(self, shortcut: nn.Module | None) -> None:
        super().__init__()
        self.shortcut = shortcut
        self.stochastic_depth: StochasticDepth | None = None  # a network sets it
        # In place: about 5 % off a training step of ResNet-20, and no memory.
        self.relu = nn.ReLU(inplace=True)

    def branch(self, x: Tensor) -> Tensor:
        """The residual function F(x), in new memory."""
        raise NotImplementedError

    def zero_branch(self) -> None:
        """Set the last weights of the branch to zero, so that F(x) = 0."""
        raise NotImplementedError

    def add_branch(self, x: Tensor) -> Tensor:
        """F(x) + shortcut(x), in new memory; with stochastic depth b F(x) + shortcut(x)."""
        if self.stochastic_depth is not None and self.shortcut is not None:
            # A training step of ResNet-110 with p_L = 0.5 takes 0.81 times as long as without.
            own = (p for name, p in self.named_parameters() if not name.startswith("shortcut."))
            return self.stochastic_depth.add(self.branch, x, self.shortcut(x), own)
        y = self.branch(x)
        if self.shortcut is not None:
            y += self.shortcut(x)  # batch normalisation keeps its input, not its output: safe for autograd
        return y

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, H/stride, W/stride)."""
        y: Tensor = self.relu(self.add_branch(x))
        return y


class BasicBlock(ResidualBlock):
    """The basic residual block y = relu(BN(W2 * relu(BN(W1 * x))) + shortcut(x)) with 3x3 convolutions.

    Args:
        in_channels: Channels of x, at least 1.
        out_channels: Channels of y, at least `in_channels` with shortcut A.
        stride: Stride of the first convolution, 1 or 2: y has the size of x, or half of it. Default: 1.
        shortcut: What the shortcut does where shapes differ, see `make_shortcut`; where they don't, it is the
            identity. `none` leaves it out everywhere. Default: A.

    Example:
        >>> import torch
        >>> from lightning_optreg.nets._residual_blocks import BasicBlock
        >>> BasicBlock(16, 32, stride=2)(torch.randn(1, 16, 8, 8)).shape
        torch.Size([1, 32, 4, 4])
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, stride: int = 1, shortcut: Shortcut = "A"
    ) -> None:
        super().__init__(None)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.shortcut = make_shortcut(shortcut, in_channels, out_channels, stride=stride)

    def branch(self, x: Tensor) -> Tensor:
        """BN(W2 * relu(BN(W1 * x)))."""
        x = self.relu(self.bn1(self.conv1(x)))
        y: Tensor = self.bn2(self.conv2(x))
        return y

    def zero_branch(self) -> None:
        """Set the last batch normalisation's weight to zero, so that F(x) = 0."""
        nn.init.zeros_(self.bn2.weight)


class Bottleneck(ResidualBlock):
    """The bottleneck: 1x1 to `width` channels, 3x3 at that width, 1x1 to `out_channels`, each with BN.

    y = relu(BN(W3 * relu(BN(W2 * relu(BN(W1 * x))))) + shortcut(x)). The stride is in the 3x3 convolution, as
    in torchvision and fb.resnet.torch ("v1.5"); the paper has it in the first 1x1, which looks at a quarter
    of the pixels only.

    Args:
        in_channels: Channels of x, at least 1.
        out_channels: Channels of y, at least 1.
        width: Channels of the 3x3 convolution, a multiple of `groups`.
        stride: Stride of the 3x3 convolution, 1 or 2. Default: 1.
        groups: Groups of the 3x3 convolution, ResNeXt's cardinality, at least 1. Default: 1.
        shortcut: See `BasicBlock`. Default: B.

    Example:
        >>> import torch
        >>> from lightning_optreg.nets._residual_blocks import Bottleneck
        >>> Bottleneck(64, 256, width=64, stride=2)(torch.randn(1, 64, 8, 8)).shape
        torch.Size([1, 256, 4, 4])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        width: int,
        stride: int = 1,
        groups: int = 1,
        shortcut: Shortcut = "B",
    ) -> None:
        super().__init__(None)
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.shortcut = make_shortcut(shortcut, in_channels, out_channels, stride=stride)

    def branch(self, x: Tensor) -> Tensor:
        """BN(W3 * relu(BN(W2 * relu(BN(W1 * x)))))."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        y: Tensor = self.bn3(self.conv3(x))
        return y

    def zero_branch(self) -> None:
        """Set the last batch normalisation's weight to zero, so that F(x) = 0."""
        nn.init.zeros_(self.bn3.weight)
