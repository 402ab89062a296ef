"""What differs between networks for small images and for ImageNet: the stem, and how depth is counted."""

from collections.abc import Sequence
from typing import Literal

from lightning_optreg._checks import check_choice, check_numbers

__all__ = ["BLOCKS_50", "BLOCKS_101", "BLOCKS_152", "Stem", "choose_stem", "cifar_blocks"]

Stem = Literal["auto", "imagenet", "small"]
SMALL_IMAGE = 96  # pixels; below it the ImageNet stem would leave stages of less than 3x3

# Blocks of the four stages, from table 1 of the residual networks' paper (arXiv:1512.03385).
BLOCKS_50, BLOCKS_101, BLOCKS_152 = [3, 4, 6, 3], [3, 4, 23, 3], [3, 8, 36, 3]


def choose_stem(owner: str, stem: Stem, input_shape: Sequence[int]) -> Literal["imagenet", "small"]:
    """Resolve `auto`: the small stem if the smaller of height and width is below 96.

    Args:
        owner: The network's class, for the message.
        stem: `imagenet`, `small` or `auto`.
        input_shape: Channels, height and width (C, H, W) of one image.

    Raises:
        ValueError: If the stem is unknown.

    Example:
        >>> choose_stem("VGG", "auto", (3, 32, 32))
        'small'
    """
    check_choice(owner, ("auto", "imagenet", "small"), stem=stem)
    if stem == "auto":
        return "small" if min(input_shape[1:]) < SMALL_IMAGE else "imagenet"
    return stem


def cifar_blocks(owner: str, depth: int, layers: int, others: int, examples: str) -> list[int]:
    """Blocks n of each of the three stages of the CIFAR form, whose depth is layers * n + others.

    Args:
        owner: The network's class, for the message.
        depth: Number of weighted layers.
        layers: Weighted layers of a block, times three.
        others: Weighted layers outside of blocks.
        examples: Some depths, for the message.

    Raises:
        ValueError: If there is no such n >= 1.

    Example:
        >>> cifar_blocks("ResNet", 20, 6, 2, "8, 14, 20")
        [3, 3, 3]
    """
    check_numbers(owner, depth=depth)
    n, rest = divmod(depth - others, layers)
    if rest or not n >= 1:
        raise ValueError(
            f"{owner}: depth must be {layers}n + {others} with n >= 1 ({examples}, ...), got {depth}"
        )
    return [n] * 3
