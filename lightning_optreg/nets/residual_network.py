"""Base of the residual networks: a stem, stages of blocks, global average pooling and one linear layer."""

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor, nn

from lightning_optreg.nets._forms import Stem, choose_stem
from lightning_optreg.nets._residual_blocks import ResidualBlock
from lightning_optreg.nets.network import Network

__all__ = ["BlockMaker", "ResidualNetwork", "survival_probabilities"]


class BlockMaker(Protocol):
    """How a network builds its blocks; `stage` counts from 0, `first` is true for its very first block."""

    def __call__(
        self, in_channels: int, out_channels: int, *, stage: int, stride: int, first: bool
    ) -> ResidualBlock:
        """Build one block."""


class ResidualNetwork(Network):
    """Stem -> stages -> [BN -> ReLU ->] global average pooling -> linear layer.

    The first block of each stage but the first has stride 2. Convolutions have no bias and start as
    N(0, 2 / fan_out) (He et al. 2015, arXiv:1502.01852; torchvision and fb.resnet.torch count the outputs);
    a batch normalisation starts with weight 1 and bias 0. The output layer keeps torch's uniform weights; its
    bias starts at zero.

    Args:
        num_classes: Number of classes K, at least 2.
        input_shape: Channels, height and width (C, H, W) of one image; H and W matter to `stem` only.
        stem: `imagenet`, 7x7 convolution with stride 2 and 3x3 max-pooling with stride 2; `small`, one 3x3
            convolution; `auto`, `small` if the smaller of H and W is below 96.
        stem_channels: Channels of the stem, at least 1.
        blocks: Number of blocks of each stage, each at least 1.
        channels: Output channels of each stage.
        make_block: Builds a block.
        stem_norm: Whether batch normalisation and ReLU follow the stem's convolution.
        final_norm: Whether batch normalisation and ReLU follow the last block, as pre-activation needs.
        zero_init_residual: Whether the last weights of each block start at zero, so that at first every
            block passes on its shortcut.

    Raises:
        ValueError: If a number is out of range or an option is unknown.

    Example:
        >>> import torch
        >>> from lightning_optreg.nets._residual_blocks import BasicBlock
        >>> from lightning_optreg.nets.residual_network import ResidualNetwork
        >>> def make_block(in_channels, out_channels, *, stage, stride, first):
        ...     return BasicBlock(in_channels, out_channels, stride=stride)
        >>> net = ResidualNetwork(
        ...     10, (3, 8, 8), stem="auto", stem_channels=4, blocks=[1, 1], channels=[4, 8],
        ...     make_block=make_block, stem_norm=True, final_norm=False, zero_init_residual=False)
        >>> net(torch.randn(2, 3, 8, 8)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        num_classes: int,
        input_shape: tuple[int, int, int],
        *,
        stem: Stem,
        stem_channels: int,
        blocks: Sequence[int],
        channels: Sequence[int],
        make_block: BlockMaker,
        stem_norm: bool,
        final_norm: bool,
        zero_init_residual: bool,
    ) -> None:
        super().__init__(num_classes, input_shape)
        stem = choose_stem(type(self).__name__, stem, input_shape)

        self.conv = (
            nn.Conv2d(input_shape[0], stem_channels, 3, padding=1, bias=False)
            if stem == "small"
            else nn.Conv2d(input_shape[0], stem_channels, 7, stride=2, padding=3, bias=False)
        )
        self.bn = nn.BatchNorm2d(stem_channels) if stem_norm else None
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = None if stem == "small" else nn.MaxPool2d(3, stride=2, padding=1)
        self.stage_names = [f"stage{i + 1}" for i in range(len(blocks))]
        in_channels = stem_channels
        for i, (name, n, out_channels) in enumerate(zip(self.stage_names, blocks, channels, strict=True)):
            stage = nn.Sequential()
            for j in range(n):
                stride = 2 if i > 0 and j == 0 else 1
                stage.append(make_block(in_channels, out_channels, stage=i, stride=stride, first=i + j == 0))
                in_channels = out_channels
            self.add_module(name, stage)
        self.final_bn = nn.BatchNorm2d(in_channels) if final_norm else None
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(in_channels, num_classes)

        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if zero_init_residual:
            for block in self.blocks():
                block.zero_branch()
        nn.init.zeros_(self.linear.bias)

    def blocks(self) -> list[ResidualBlock]:
        """All residual blocks, from the first to the last."""
        return [module for module in self.modules() if isinstance(module, ResidualBlock)]

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, C, H, W) to scores (N, K)."""
        x = self.conv(x)
        if self.bn is not None:
            x = self.relu(self.bn(x))
        if self.maxpool is not None:
            x = self.maxpool(x)
        for name in self.stage_names:
            x = self.get_submodule(name)(x)  # each but the first halves height and width
        if self.final_bn is not None:
            x = self.relu(self.final_bn(x))
        scores: Tensor = self.linear(self.pool(x).flatten(1))
        return scores


def survival_probabilities(blocks: int, survival: float) -> list[float]:
    """Survival probabilities p_l = 1 - l / L (1 - p_L) of blocks l = 1, ..., L (Huang et al. 2016, eq. 4).

    Args:
        blocks: Number L of blocks, at least 1.
        survival: Survival probability p_L of the last block, in [0, 1].

    Returns:
        p_1, ..., p_L.

    Example:
        >>> from lightning_optreg.nets.residual_network import survival_probabilities
        >>> survival_probabilities(4, 0.5)
        [0.875, 0.75, 0.625, 0.5]
    """
    return [1 - (1 - survival) * block / blocks for block in range(1, blocks + 1)]
