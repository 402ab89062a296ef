"""Pictures of the networks' cards: what `describe` says of each layer, drawn."""

from collections.abc import Sequence
from itertools import accumulate
from math import prod

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import nn

from card_pictures.registry import picture
from card_pictures.style import BLUE, GREEN, GREY, ORANGE, VERMILION, figure, label
from lightning_optreg.analysis import LayerRow, describe
from lightning_optreg.nets import (
    MLP,
    VGG,
    AirbenchNet,
    AlexNet,
    DeepOBS2c2d,
    DeepOBS3c3d,
    EnResNet,
    GoogLeNet,
    LeNet5,
    ResNet,
    ResNeXt,
    SoftmaxRegression,
    WideResNet,
    ZFNet,
)

KINDS = {"Conv": (BLUE, "convolution"), "Pool": (GREEN, "pooling"), "Linear": (VERMILION, "fully connected")}


def layers(net: nn.Module, shape: Sequence[int]) -> list[LayerRow]:
    """The layers that compute or pool, in the order in which they are called."""
    return [row for row in describe(net, shape) if row.output and (kind_of(row) or row.name == "input")]


def kind_of(row: LayerRow) -> str:
    """Which of the kinds a layer is; empty for the others."""
    return next(
        (kind for kind in KINDS if kind in row.kind),
        "Conv" if row.multiply_adds and len(row.output) == 4 else "",
    )


def draw_outputs(axes: Axes, rows: list[LayerRow], title: str) -> None:
    """A box for each layer's output: its height grows with its places, its width with its channels."""
    x, named = 0.0, set()
    for row in rows:
        channels, places = row.output[1], prod(row.output[2:])
        color, name = KINDS.get(kind_of(row), (GREY, "image"))
        height, width = places**0.25, channels**0.5
        shown = None if name in named else name
        axes.add_patch(
            Rectangle((x, -height / 2), width, height, color=color, alpha=0.85, linewidth=0, label=shown)
        )
        named.add(name)
        x += width + 1.5
    highest = max(prod(row.output[2:]) ** 0.25 for row in rows)
    axes.set_xlim(-1, x)
    axes.set_ylim(-highest * 0.55, highest * 0.95)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.set_title(title, fontsize=9)
    axes.legend(fontsize=7, frameon=False, ncols=2, loc="upper right")


def draw_shares(axes: Axes, rows: list[LayerRow]) -> None:
    """How parameters and multiply-adds add up, layer by layer."""
    for values, color, name in (
        ([row.parameters for row in rows], VERMILION, "parameters"),
        ([row.multiply_adds for row in rows], BLUE, "multiply-adds"),
    ):
        shares = [100 * part / sum(values) for part in accumulate(values)]
        axes.step(range(len(rows)), shares, where="post", color=color, linewidth=1.3, label=name)
    label(axes, "layer", "%, summed up")


def one(net: nn.Module, shape: Sequence[int], title: str) -> Figure:
    """A network's layers and the shares of its parameters and multiply-adds."""
    drawn, (left, right) = figure(2, width=7.2, height=2.4)
    rows = layers(net, shape)
    draw_outputs(left, rows, title)
    draw_shares(right, rows)
    return drawn


def two(first: tuple[nn.Module, Sequence[int], str], second: tuple[nn.Module, Sequence[int], str]) -> Figure:
    """The layers of two networks."""
    drawn, axes = figure(2, width=7.2, height=2.2)
    for each, (net, shape, title) in zip(axes, (first, second), strict=True):
        draw_outputs(each, layers(net, shape), title)
    return drawn


CIFAR, GREY_IMAGES, IMAGENET = (3, 32, 32), (1, 28, 28), (3, 224, 224)


@picture
def lenet5() -> Figure:
    """LeNet-5."""
    return one(LeNet5(), GREY_IMAGES, "LeNet-5, 28 x 28")


@picture
def alexnet() -> Figure:
    """AlexNet and ZFNet."""
    with torch.device("meta"):
        return two(
            (AlexNet(input_shape=(3, 227, 227)), (3, 227, 227), "AlexNet, 227 x 227"),
            (ZFNet(input_shape=IMAGENET), IMAGENET, "ZFNet, 224 x 224"),
        )


@picture
def vgg() -> Figure:
    """VGG-16."""
    with torch.device("meta"):
        return one(VGG(depth=16), IMAGENET, "VGG-16, 224 x 224")


@picture
def googlenet() -> Figure:
    """GoogLeNet."""
    with torch.device("meta"):
        return one(GoogLeNet(), IMAGENET, "GoogLeNet, 224 x 224: branches in their order")


@picture
def resnet() -> Figure:
    """ResNet-20 for small images."""
    return one(ResNet(input_shape=CIFAR, depth=20), CIFAR, "ResNet-20, 32 x 32")


@picture
def wide_resnet() -> Figure:
    """WRN-16-4 beside ResNet-20."""
    with torch.device("meta"):
        return two(
            (ResNet(input_shape=CIFAR, depth=20), CIFAR, "ResNet-20"),
            (WideResNet(input_shape=CIFAR, depth=16, widen_factor=8), CIFAR, "WRN-16-8"),
        )


@picture
def resnext() -> Figure:
    """Parameters of a bottleneck against its number of groups, at the same width."""
    drawn, (left, right) = figure(2, width=7.2, height=2.4)
    counts = (1, 2, 4, 8, 16, 32)
    with torch.device("meta"):
        nets = [ResNeXt(input_shape=CIFAR, depth=29, cardinality=c, width=512 // c) for c in counts]
        draw_outputs(left, layers(ResNeXt(input_shape=CIFAR), CIFAR), "ResNeXt-29, 8x64d, 32 x 32")
    sizes = [sum(parameter.numel() for parameter in net.parameters()) / 1e6 for net in nets]
    right.plot(counts, sizes, "o-", color=BLUE)
    right.set_xscale("log", base=2)
    right.set_ylim(bottom=0)
    right.set_xticks(counts, [f"{c}x{512 // c}d" for c in counts])
    label(right, "groups x channels of each, 512 in all", "million parameters")
    return drawn


@picture
def en_resnet() -> Figure:
    """The spread of scores over noisy passes, and parameters, by the number of members."""
    drawn, (left, right) = figure(2, width=7.2, height=2.4)
    torch.manual_seed(0)
    images, counts = torch.rand(8, *CIFAR), range(1, 9)
    net = EnResNet(input_shape=CIFAR, depth=8, width=8, members=8).eval()
    with torch.no_grad():
        outputs = torch.stack([torch.stack([member(images) for member in net.members]) for _ in range(24)])
    spreads = [outputs[:, :n].mean(1).std(0).mean().item() for n in counts]
    left.loglog(counts, spreads, "o-", color=BLUE, label="mean of $n$ members")
    left.loglog(counts, [spreads[0] / n**0.5 for n in counts], "--", color=GREY, label=r"$1 / \sqrt{n}$")
    depths, members = (8, 14, 20), (1, 2, 5)
    with torch.device("meta"):
        nets = [[EnResNet(input_shape=CIFAR, depth=d, members=m) for d in depths] for m in members]
    sizes = [[sum(p.numel() for p in net.parameters()) / 1e6 for net in row] for row in nets]
    left.set_xticks(list(counts), [str(n) for n in counts])
    label(left, "members $n$", "spread of a score", "over 24 noisy passes, untrained")
    for values, number, color in zip(sizes, members, (VERMILION, ORANGE, BLUE), strict=True):
        right.plot(depths, values, "o-", color=color, label=f"{number} member{'s' * (number > 1)}")
    label(right, "depth of a member", "million parameters")
    return drawn


@picture
def airbench() -> Figure:
    """AirbenchNet."""
    return one(AirbenchNet(), CIFAR, "AirbenchNet, 32 x 32")


@picture
def mlp() -> Figure:
    """The MLP and softmax regression: what they compute."""
    return two(
        (SoftmaxRegression(), GREY_IMAGES, "SoftmaxRegression"),
        (MLP(hidden=[256, 128]), GREY_IMAGES, "MLP, 256 and 128 units"),
    )


@picture
def deepobs() -> Figure:
    """DeepOBS's two networks."""
    return two(
        (DeepOBS2c2d(), GREY_IMAGES, "2c2d, 28 x 28"),
        (DeepOBS3c3d(), CIFAR, "3c3d, 32 x 32"),
    )
