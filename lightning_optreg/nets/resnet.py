"""Residual networks in their CIFAR and ImageNet forms, and the plain networks they are compared with.

He, Zhang, Ren, Sun, "Deep residual learning for image recognition", 2015 (arXiv:1512.03385): the CIFAR form
of section 4.2 has three stages of n basic blocks, the ImageNet form of table 1 has four. Pre-activation is
He, Zhang, Ren, Sun, "Identity mappings in deep residual networks", 2016 (arXiv:1603.05027).
"""

from typing import Literal

from lightning_optreg._checks import check_choice, check_range
from lightning_optreg.layers import StochasticDepth
from lightning_optreg.nets._forms import BLOCKS_50, BLOCKS_101, BLOCKS_152, Stem, cifar_blocks
from lightning_optreg.nets._preactivation_blocks import Activate, PreactBasicBlock, PreactBottleneck
from lightning_optreg.nets._residual_blocks import BasicBlock, Bottleneck, ResidualBlock
from lightning_optreg.nets._shortcuts import Shortcut
from lightning_optreg.nets.residual_network import ResidualNetwork, survival_probabilities

__all__ = ["ResNet"]

Block = Literal["auto", "basic", "bottleneck"]
# 200 is from the pre-activation paper.
IMAGENET_BLOCKS = {
    18: [2, 2, 2, 2],
    34: BLOCKS_50,
    50: BLOCKS_50,
    101: BLOCKS_101,
    152: BLOCKS_152,
    200: [3, 24, 36, 3],
}


class ResNet(ResidualNetwork):
    """The residual network, with or without pre-activation, stochastic depth, and shortcuts at all.

    The CIFAR form of depth 6n + 2 (8, 14, 20, 32, 44, 56, 110, ..., 1202): one 3x3 convolution, three stages
    of n basic blocks at widths 16, 32, 64 and sizes 1, 1/2, 1/4, global average pooling, one linear layer.
    With bottlenecks its depth is 9n + 2 (164, 1001 in the pre-activation paper). The ImageNet form: a stem,
    four stages at widths 64 to 512, basic blocks at depths 18 and 34 and bottlenecks from 50 on; the stride
    is in the 3x3 convolution as in torchvision, whose weights `load_torchvision` loads.

    With pre-activation, the stem's batch normalisation and ReLU serve as the first block's, and one more pair
    follows the last block. Weights start as in `ResidualNetwork`.

    Args:
        num_classes: Number of classes K, at least 2. Default: 10.
        input_shape: Channels, height and width (C, H, W) of one image. The network takes images of any size;
            H and W matter to `stem` only. Default: (1, 28, 28).
        depth: Number of weighted layers on the path without shortcuts: 6n + 2, or 9n + 2 with bottlenecks, in
            the CIFAR form; 18, 34, 50, 101, 152 or 200 in the ImageNet form. Default: 20.
        width: Channels of the first stage's 3x3 convolutions, at least 1; each further stage has twice as
            many as the one before. None is the form's: 16 (CIFAR) or 64 (ImageNet). Default: None.
        shortcut: Where the size changes, `A` subsamples and appends zero channels, without parameters (the
            paper's choice for CIFAR-10); `B` is a 1x1 convolution with batch normalisation, or without it in
            pre-activation blocks. `none` gives the plain network without shortcuts. `auto` is A in the CIFAR
            form and B in the ImageNet form. Default: auto.
        zero_init_residual: Whether the last weights of each branch (batch normalisation's; with
            pre-activation the convolution's) start at 0, so that at first every block passes on its
            shortcut (Goyal et al. 2017, arXiv:1706.02677). Default: False.
        form: `cifar` or `imagenet`. Default: cifar.
        block: `basic` or `bottleneck` in the CIFAR form, where `auto` is basic; the ImageNet form's depth
            decides. Default: auto.
        preactivation: Whether blocks compute y = F(relu(BN(x))) + shortcut. Default: False.
        stem: `imagenet`, 7x7/2 convolution and 3x3/2 max-pooling; `small`, a 3x3 convolution at full size.
            `auto` is small in the CIFAR form, and in the ImageNet form if H or W is below 96. Default: auto.
        survival: Probability p_L in (0, 1] that the last block's branch is computed in training; that of
            block l of L is 1 - l / L (1 - p_L), stochastic depth with linear decay (Huang et al. 2016,
            arXiv:1603.09382, who take 0.5). In training a branch counts fully or not at all, at test p_l
            times. 1 switches it off; the state dict is the same. Default: 1.
        survival_mode: `block` draws once for a mini-batch and does not compute a dropped branch, which saves
            its time (the paper's); `sample` draws for every image. Default: block.

    Raises:
        ValueError: If a number is out of range or an option is unknown.

    Example:
        >>> import torch
        >>> from lightning_optreg.nets import ResNet
        >>> net = ResNet(num_classes=10, input_shape=(3, 32, 32), depth=20)
        >>> sum(p.numel() for p in net.parameters())
        269722
        >>> net(torch.randn(2, 3, 32, 32)).shape
        torch.Size([2, 10])
        >>> with torch.device("meta"):
        ...     net = ResNet(1000, (3, 224, 224), depth=50, form="imagenet")
        >>> sum(p.numel() for p in net.parameters())
        25557032
    """

    def __init__(
        self,
        num_classes: int = 10,
        input_shape: tuple[int, int, int] = (1, 28, 28),
        *,
        depth: int = 20,
        width: int | None = None,
        shortcut: Literal["auto", "A", "B", "none"] = "auto",
        zero_init_residual: bool = False,
        form: Literal["cifar", "imagenet"] = "cifar",
        block: Block = "auto",
        preactivation: bool = False,
        stem: Stem = "auto",
        survival: float = 1.0,
        survival_mode: Literal["block", "sample"] = "block",
    ) -> None:
        check_choice("ResNet", ("cifar", "imagenet"), form=form)
        check_choice("ResNet", ("auto", "A", "B", "none"), shortcut=shortcut)
        check_range("ResNet", "(0, 1]", survival=survival)
        check_choice("ResNet", ("block", "sample"), survival_mode=survival_mode)
        if survival < 1.0 and shortcut == "none":
            raise ValueError(f"ResNet: without shortcuts, survival must be 1, got {survival}")
        cifar = form == "cifar"
        kind, blocks = _cifar_blocks(depth, block) if cifar else _imagenet_blocks(depth, block)
        base = (16 if cifar else 64) if width is None else width
        check_range("ResNet", ">= 1", width=base)
        widths = [base * 2**i for i in range(len(blocks))]
        option: Shortcut = ("A" if cifar else "B") if shortcut == "auto" else shortcut

        def make_block(
            in_channels: int, out_channels: int, *, stage: int, stride: int, first: bool
        ) -> ResidualBlock:
            activate: Activate = "none" if first else "auto"  # the stem has activated already
            if kind == "basic":
                if preactivation:
                    return PreactBasicBlock(
                        in_channels, out_channels, stride=stride, shortcut=option, activate=activate
                    )
                return BasicBlock(in_channels, out_channels, stride=stride, shortcut=option)
            if preactivation:
                return PreactBottleneck(
                    in_channels,
                    out_channels,
                    width=widths[stage],
                    stride=stride,
                    shortcut=option,
                    activate=activate,
                )
            return Bottleneck(in_channels, out_channels, width=widths[stage], stride=stride, shortcut=option)

        super().__init__(
            num_classes,
            input_shape,
            stem="small" if cifar and stem == "auto" else stem,
            stem_channels=base,
            blocks=blocks,
            channels=widths if kind == "basic" else [4 * width for width in widths],
            make_block=make_block,
            stem_norm=True,
            final_norm=preactivation,
            zero_init_residual=zero_init_residual,
        )
        if survival < 1.0:
            residual_blocks = self.blocks()
            probabilities = survival_probabilities(len(residual_blocks), survival)
            for module, p in zip(residual_blocks, probabilities, strict=True):
                module.stochastic_depth = StochasticDepth(p, mode=survival_mode)


def _cifar_blocks(depth: int, block: Block) -> tuple[Literal["basic", "bottleneck"], list[int]]:
    """Kind and numbers of the blocks of the CIFAR form."""
    check_choice("ResNet", ("auto", "basic", "bottleneck"), block=block)
    if block == "bottleneck":
        return "bottleneck", cifar_blocks("ResNet: with bottlenecks", depth, 9, 2, "11, 20, 29")
    return "basic", cifar_blocks("ResNet", depth, 6, 2, "8, 14, 20, 32")


def _imagenet_blocks(depth: int, block: Block) -> tuple[Literal["basic", "bottleneck"], list[int]]:
    """Kind and numbers of the blocks of the ImageNet form."""
    if depth not in IMAGENET_BLOCKS:
        known = ", ".join(map(str, IMAGENET_BLOCKS))
        raise ValueError(f"ResNet: in the ImageNet form, depth must be one of {known}, got {depth}")
    kind: Literal["basic", "bottleneck"] = "basic" if depth < 50 else "bottleneck"
    if block not in ("auto", kind):
        raise ValueError(
            f"ResNet: in the ImageNet form, block must be 'auto' or '{kind}' at depth {depth}, got {block!r}"
        )
    return kind, IMAGENET_BLOCKS[depth]
