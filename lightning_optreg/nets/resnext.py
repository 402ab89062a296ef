"""ResNeXt: bottlenecks whose 3x3 convolution works in many narrow groups.

Xie, Girshick, Dollár, Tu, He, "Aggregated residual transformations for deep neural networks", 2017
(arXiv:1611.05431). The number of groups is the cardinality; a net is named by it and the groups' width, as
8x64d. The blocks are those of figure 3c, which compute what the paper's parallel paths (3a) compute.
"""

from typing import Literal

from lightning_optreg._checks import check_choice, check_range
from lightning_optreg.nets._forms import BLOCKS_50, BLOCKS_101, BLOCKS_152, Stem, cifar_blocks
from lightning_optreg.nets._residual_blocks import Bottleneck, ResidualBlock
from lightning_optreg.nets.residual_network import ResidualNetwork

__all__ = ["ResNeXt"]

IMAGENET_BLOCKS = {50: BLOCKS_50, 101: BLOCKS_101, 152: BLOCKS_152}


class ResNeXt(ResidualNetwork):
    """ResNeXt of a cardinality and a group width, with the original (not pre-activation) bottleneck.

    CIFAR form (section 5.3): one 3x3 convolution to 64 channels and three stages of n blocks with 256, 512
    and 1024 output channels: depth 9n + 2. ImageNet form (table 1): a stem and four stages with 256 to 2048
    output channels; `load_torchvision` loads torchvision's weights. The 3x3 convolution of the first stage
    has cardinality x width channels, each further stage twice as many as the one before. The stride is in
    the 3x3 convolution, shortcuts that change the shape are 1x1 convolutions with batch normalisation, and
    weights start as in `ResidualNetwork`.

    Args:
        num_classes: Number of classes K, at least 2. Default: 10.
        input_shape: Channels, height and width (C, H, W) of one image. The network takes images of any size;
            H and W matter to `stem` only. Default: (1, 28, 28).
        depth: Number of weighted layers: 9n + 2 with n >= 1 in the CIFAR form; 50, 101 or 152 in the ImageNet
            form. None is the form's: 29 or 50. Default: None.
        cardinality: Number of groups C, at least 1. None is the form's: 8 or 32. Default: None.
        width: Channels d of a group in the first stage, at least 1. None is the form's: 64 or 4.
            Default: None.
        channels: Output channels of the first stage, a multiple of 4, at least 4; each further stage has
            twice as many as the one before, the stem a quarter. Default: 256, as in the paper.
        form: `cifar` or `imagenet`. Default: cifar.
        stem: See `ResNet`. Default: auto.
        zero_init_residual: Whether the last batch normalisation of each branch starts with weight 0.
            Default: False.

    Raises:
        ValueError: If a number is out of range or an option is unknown.

    Example:
        >>> import torch
        >>> from lightning_optreg.nets import ResNeXt
        >>> with torch.device("meta"):
        ...     net = ResNeXt(input_shape=(3, 32, 32), depth=29, cardinality=8, width=64)
        >>> sum(p.numel() for p in net.parameters())
        34426698
    """

    def __init__(
        self,
        num_classes: int = 10,
        input_shape: tuple[int, int, int] = (1, 28, 28),
        *,
        depth: int | None = None,
        cardinality: int | None = None,
        width: int | None = None,
        channels: int = 256,
        form: Literal["cifar", "imagenet"] = "cifar",
        stem: Stem = "auto",
        zero_init_residual: bool = False,
    ) -> None:
        check_choice("ResNeXt", ("cifar", "imagenet"), form=form)
        if not channels >= 4 or channels % 4:
            raise ValueError(f"ResNeXt: channels must be a multiple of 4, at least 4, got {channels}")
        cifar = form == "cifar"
        if depth is None:
            depth = 29 if cifar else 50
        if not cifar and depth not in IMAGENET_BLOCKS:
            raise ValueError(f"ResNeXt: in the ImageNet form, depth must be one of 50, 101, 152, got {depth}")
        blocks = cifar_blocks("ResNeXt", depth, 9, 2, "11, 20, 29") if cifar else IMAGENET_BLOCKS[depth]
        groups = (8 if cifar else 32) if cardinality is None else cardinality
        group_width = (64 if cifar else 4) if width is None else width
        check_range("ResNeXt", ">= 1", cardinality=groups, width=group_width)

        def make_block(
            in_channels: int, out_channels: int, *, stage: int, stride: int, first: bool
        ) -> ResidualBlock:
            return Bottleneck(
                in_channels, out_channels, width=groups * group_width * 2**stage, stride=stride, groups=groups
            )

        super().__init__(
            num_classes,
            input_shape,
            stem="small" if cifar and stem == "auto" else stem,
            stem_channels=channels // 4,
            blocks=blocks,
            channels=[channels * 2**stage for stage in range(len(blocks))],
            make_block=make_block,
            stem_norm=True,
            final_norm=False,
            zero_init_residual=zero_init_residual,
        )
