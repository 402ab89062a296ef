"""Wide residual networks: fewer and wider blocks than ResNet's, with dropout inside them.

Zagoruyko, Komodakis, "Wide residual networks", 2016 (arXiv:1605.07146). WRN-d-k has d weighted layers and k
times ResNet's channels.
"""

from typing import Literal

from lightning_optreg._checks import check_choice, check_range
from lightning_optreg.nets._forms import BLOCKS_50, BLOCKS_101, Stem, cifar_blocks
from lightning_optreg.nets._preactivation_blocks import PreactBasicBlock
from lightning_optreg.nets._residual_blocks import Bottleneck, ResidualBlock
from lightning_optreg.nets.residual_network import ResidualNetwork

__all__ = ["WideResNet"]

IMAGENET_BLOCKS = {50: BLOCKS_50, 101: BLOCKS_101}


class WideResNet(ResidualNetwork):
    """WRN-d-k: for CIFAR with pre-activation basic blocks, for ImageNet with wide bottlenecks.

    CIFAR form (table 1): a 3x3 convolution to 16 channels and three stages of n pre-activation blocks with
    16k, 32k and 64k channels, as 28-10, 16-8, 40-4; the depth 6n + 4 counts the convolutions, those of the
    three shortcuts that change the shape included. ImageNet form (section 3): ResNet-50 or 101 whose 3x3
    convolutions are k times as wide; `load_torchvision` loads torchvision's weights. Weights start as
    `ResidualNetwork` says.

    Args:
        num_classes: Number of classes K, at least 2. Default: 10.
        input_shape: Channels, height and width (C, H, W) of one image. The network takes images of any size;
            H and W matter to `stem` only. Default: (1, 28, 28).
        depth: Number of layers d: 6n + 4 with n >= 1 in the CIFAR form; 50 or 101 in the ImageNet form. None
            is the form's: 28 or 50. Default: None.
        widen_factor: Widening factor k, at least 1. None is the form's: 10 or 2. Default: None.
        dropout: Probability to drop an activation between the convolutions of a block, in [0, 1); the paper
            takes 0.3 on CIFAR and 0.4 on SVHN. CIFAR form only. Default: 0.
        form: `cifar` or `imagenet`. Default: cifar.
        stem: See `ResNet`. Default: auto.

    Raises:
        ValueError: If a number is out of range or an option is unknown.

    Example:
        >>> import torch
        >>> from lightning_optreg.nets import WideResNet
        >>> with torch.device("meta"):
        ...     net = WideResNet(input_shape=(3, 32, 32), depth=28, widen_factor=10)
        >>> sum(p.numel() for p in net.parameters())
        36479194
    """

    def __init__(
        self,
        num_classes: int = 10,
        input_shape: tuple[int, int, int] = (1, 28, 28),
        *,
        depth: int | None = None,
        widen_factor: int | None = None,
        dropout: float = 0.0,
        form: Literal["cifar", "imagenet"] = "cifar",
        stem: Stem = "auto",
    ) -> None:
        check_choice("WideResNet", ("cifar", "imagenet"), form=form)
        check_range("WideResNet", "[0, 1)", dropout=dropout)
        cifar = form == "cifar"
        if dropout and not cifar:
            raise ValueError(f"WideResNet: in the ImageNet form, dropout must be 0, got {dropout}")
        factor = (10 if cifar else 2) if widen_factor is None else widen_factor
        check_range("WideResNet", ">= 1", widen_factor=factor)
        if depth is None:
            depth = 28 if cifar else 50
        if not cifar and depth not in IMAGENET_BLOCKS:
            raise ValueError(f"WideResNet: in the ImageNet form, depth must be 50 or 101, got {depth}")
        blocks = (
            cifar_blocks("WideResNet", depth, 6, 4, "10, 16, 22, 28") if cifar else IMAGENET_BLOCKS[depth]
        )

        def make_block(
            in_channels: int, out_channels: int, *, stage: int, stride: int, first: bool
        ) -> ResidualBlock:
            if cifar:
                return PreactBasicBlock(
                    in_channels,
                    out_channels,
                    stride=stride,
                    shortcut="B",
                    activate="none" if first else "auto",
                    dropout=dropout,
                )
            return Bottleneck(in_channels, out_channels, width=64 * factor * 2**stage, stride=stride)

        super().__init__(
            num_classes,
            input_shape,
            stem="small" if cifar and stem == "auto" else stem,
            stem_channels=16 if cifar else 64,
            blocks=blocks,
            channels=[(16 * factor if cifar else 256) * 2**stage for stage in range(len(blocks))],
            make_block=make_block,
            stem_norm=True,
            final_norm=cifar,
            zero_init_residual=False,
        )
