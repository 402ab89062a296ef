"""ResNeXt: published and torchvision's sizes and scores, the paths of figure 3a, wrong settings."""

import math

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from lightning_optreg.nets import ResNeXt
from lightning_optreg.nets._residual_blocks import Bottleneck
from lightning_optreg.nets.torchvision_weights import load_torchvision


def count(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


# Table 7 of the paper
@pytest.mark.parametrize(("cardinality", "millions"), [(8, 34.4), (16, 68.1)])
def test_cifar_sizes_are_the_papers(cardinality: int, millions: float) -> None:
    with torch.device("meta"):
        net = ResNeXt(input_shape=(3, 32, 32), cardinality=cardinality)
        x = net.stage1(torch.empty(2, 64, 32, 32))
        assert x.shape == (2, 256, 32, 32)
        assert net.stage3(net.stage2(x)).shape == (2, 1024, 8, 8)
    assert math.isclose(count(net) / 1e6, millions, abs_tol=0.06)
    on_the_path = [m for n, m in net.named_modules() if "shortcut" not in n]
    assert sum(isinstance(m, nn.Conv2d | nn.Linear) for m in on_the_path) == 29
    assert [net.get_submodule(f"stage{i}")[0].conv2.out_channels for i in (1, 2, 3)] == [
        cardinality * 64 * 2**i for i in range(3)
    ]


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("resnext50_32x4d", {}),
        ("resnext101_32x8d", {"depth": 101, "width": 8}),
        ("resnext101_64x4d", {"depth": 101, "cardinality": 64}),
    ],
)
def test_imagenet_sizes_are_torchvisions(name: str, settings: dict[str, int]) -> None:
    with torch.device("meta"):
        ours = ResNeXt(1000, (3, 224, 224), form="imagenet", **settings)
        theirs = torchvision.models.get_model(name)
    assert count(ours) == count(theirs)


def test_scores_are_torchvisions() -> None:
    torch.manual_seed(0)
    theirs = torchvision.models.resnext50_32x4d(num_classes=7).eval()
    ours = ResNeXt(7, (3, 64, 64), form="imagenet", stem="imagenet").eval()
    load_torchvision(ours, theirs.state_dict())
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-5)


def test_grouped_convolution_is_a_sum_of_paths() -> None:
    """Figure 3a: as many narrow bottlenecks as groups, added up."""
    torch.manual_seed(0)
    block = Bottleneck(6, 6, width=12, groups=3).double().eval()
    x = torch.randn(2, 6, 5, 5, dtype=torch.float64)
    scale = 1 / math.sqrt(1 + block.bn1.eps)  # what a new batch normalisation multiplies by
    total = torch.zeros_like(x)
    for group in range(3):
        path = slice(4 * group, 4 * group + 4)
        y = (scale * F.conv2d(x, block.conv1.weight[path])).relu()
        y = (scale * F.conv2d(y, block.conv2.weight[path], padding=1)).relu()
        total += F.conv2d(y, block.conv3.weight[:, path])
    torch.testing.assert_close(block(x), (scale * total + x).relu())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"depth": 30}, r"depth must be 9n \+ 2 with n >= 1 \(11, 20, 29, ...\), got 30"),
        ({"depth": 0}, r"depth must be 9n \+ 2 with n >= 1 \(11, 20, 29, ...\), got 0"),
        ({"depth": 0, "form": "imagenet"}, "in the ImageNet form, depth must be one of 50, 101, 152, got 0"),
        ({"cardinality": 0}, "cardinality must be >= 1, got 0"),
        ({"width": 0}, "width must be >= 1, got 0"),
        ({"channels": 6}, "channels must be a multiple of 4, at least 4, got 6"),
        ({"channels": 0}, "channels must be a multiple of 4, at least 4, got 0"),
        ({"form": "mnist"}, "form must be 'cifar' or 'imagenet', got 'mnist'"),
    ],
)
def test_wrong_settings(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=f"^ResNeXt: {message}$"):
        ResNeXt(**settings)
