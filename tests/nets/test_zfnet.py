"""ZFNet: the sizes of the paper's figure 3, counts by hand, small images."""

import math

import pytest
import torch
from torch import nn

from lightning_optreg.nets import ZFNet
from lightning_optreg.nets._sizes import map_size
from tests.nets.test_alexnet import SMALL, outputs

# Figure 3 of the paper: 110, 55, 26, 13, 13, 13, 13, 6, 4096, 4096, classes.
FIGURE_3 = [
    ("features.conv1", (110, 110, 96), 96 * 7 * 7 * 3 + 96),
    ("features.pool1", (55, 55, 96), 0),
    ("features.norm1", (55, 55, 96), 0),
    ("features.conv2", (26, 26, 256), 256 * 5 * 5 * 96 + 256),
    ("features.pool2", (13, 13, 256), 0),
    ("features.norm2", (13, 13, 256), 0),
    ("features.conv3", (13, 13, 384), 384 * 3 * 3 * 256 + 384),
    ("features.conv4", (13, 13, 384), 384 * 3 * 3 * 384 + 384),
    ("features.conv5", (13, 13, 256), 256 * 3 * 3 * 384 + 256),
    ("features.pool3", (6, 6, 256), 0),
    ("classifier.fc6", (4096,), 4096 * 6 * 6 * 256 + 4096),
    ("classifier.fc7", (4096,), 4096 * 4096 + 4096),
    ("classifier.fc8", (1000,), 1000 * 4096 + 1000),
]


def test_the_papers_figure() -> None:
    with torch.device("meta"):
        net = ZFNet()
    assert outputs(net, (3, 224, 224)) == FIGURE_3
    assert sum(p.numel() for p in net.parameters()) == sum(row[2] for row in FIGURE_3) == 62_357_608
    strides = [layer.stride for layer in net.features if isinstance(layer, nn.Conv2d)]
    assert strides == [(2, 2), (2, 2), (1, 1), (1, 1), (1, 1)]


def test_the_lectures_wider_network() -> None:
    with torch.device("meta"):
        net = ZFNet(channels=(96, 256, 512, 1024, 512))
    rows = dict(row[:2] for row in outputs(net, (3, 224, 224)))
    assert [rows[f"features.conv{i}"] for i in (3, 4, 5)] == [(13, 13, 512), (13, 13, 1024), (13, 13, 512)]


@pytest.mark.parametrize(("size", "last"), [(28, 3), (32, 4)])
def test_the_small_form(size: int, last: int) -> None:
    net = ZFNet(10, (1, size, size), **SMALL)
    assert net.features(torch.zeros(1, 1, size, size)).shape == (1, 8, last, last)
    assert net(torch.zeros(2, 1, size, size)).shape == (2, 10)


def test_auto_takes_the_stem_that_suits_the_size() -> None:
    for shape, kernel in (((3, 95, 200), 3), ((3, 96, 96), 7)):
        net = ZFNet(10, shape, **SMALL)
        assert net.features.conv1.kernel_size == (kernel, kernel)
        assert net(torch.zeros(1, *shape)).shape == (1, 10)


@pytest.mark.parametrize("init", ["normal", "he"])
def test_initial_weights(init: str) -> None:
    torch.manual_seed(0)
    net = ZFNet(10, (3, 64, 64), init=init, **SMALL)
    for name, layer in net.named_modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            he = (1 if name == "classifier.fc8" else 2) / layer.weight[0].numel()
            variance = layer.weight.var().item() / (1e-4 if init == "normal" else he)
            assert abs(variance - 1) < 5 * math.sqrt(2 / layer.weight.numel())
            assert not layer.bias.any()


@pytest.mark.parametrize("stem", ["imagenet", "small"])
def test_smallest_image(stem: str) -> None:
    layers = ZFNet(10, (1, 96, 96), stem=stem, **SMALL).features
    smallest = next(n for n in range(1, 96) if min(map_size(layers, (n, n))) >= 1)
    for size in (smallest, smallest + 1):
        net = ZFNet(10, (1, size, 96), stem=stem, **SMALL)
        assert net(torch.zeros(1, 1, size, 96)).shape == (1, 10)
    with pytest.raises(RuntimeError, match=r"too small|can't be greater"):
        layers(torch.zeros(1, 1, smallest - 1, 96))
    with pytest.raises(
        ValueError, match=f"^ZFNet: images of {smallest - 1}x96 are too small for stem '{stem}'"
    ):
        ZFNet(10, (1, smallest - 1, 96), stem=stem, **SMALL)


@pytest.mark.parametrize(("stem", "init"), [("imagenet", "normal"), ("small", "he")])
def test_auto_takes_the_weights_that_suit_the_stem(stem: str, init: str) -> None:
    nets = []
    for setting in ("auto", init):
        torch.manual_seed(0)
        nets.append(ZFNet(10, (3, 96, 96), stem=stem, init=setting, **SMALL).state_dict())
    assert all(torch.equal(nets[0][name], nets[1][name]) for name in nets[0])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"channels": (1, 2, 3)}, r"^ZFNet: channels must be five numbers >= 1, got \(1, 2, 3\)$"),
        ({"hidden": 0}, "^ZFNet: hidden must be >= 1, got 0$"),
        ({"dropout": -0.1}, r"^ZFNet: dropout must be in \[0, 1\), got -0.1$"),
        ({"init": "zero"}, "^ZFNet: init must be 'auto', 'normal' or 'he', got 'zero'$"),
        ({"stem": "tiny"}, "^ZFNet: stem must be 'auto', 'imagenet' or 'small', got 'tiny'$"),
    ],
)
def test_wrong_settings(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ZFNet(**settings)
