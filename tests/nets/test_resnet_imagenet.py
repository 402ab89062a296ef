"""ResNet's ImageNet form: torchvision's sizes and scores, both stems, plain networks, wrong settings."""

import pytest
import torch
import torchvision
from torch import Tensor, nn

from lightning_optreg.nets import ResNet
from lightning_optreg.nets._residual_blocks import ResidualBlock
from lightning_optreg.nets.torchvision_weights import load_torchvision

DEPTHS = [18, 34, 50, 101, 152]


def meta(depth: int, **settings: object) -> ResNet:
    with torch.device("meta"):
        return ResNet(1000, (3, 224, 224), depth=depth, form="imagenet", **settings)


def count(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def stage_outputs(net: nn.Module, prefix: str, x: Tensor) -> list[torch.Size]:
    shapes = []
    for name, module in net.named_children():
        if name.startswith(prefix):
            module.register_forward_hook(lambda m, i, y: shapes.append(y.shape))
    net(x)
    return shapes


@pytest.mark.parametrize(
    "depth", [pytest.param(depth, marks=[pytest.mark.slow] * (depth > 50)) for depth in DEPTHS]
)
def test_sizes_are_torchvisions(depth: int) -> None:
    net = meta(depth)
    with torch.device("meta"):
        theirs = torchvision.models.get_model(f"resnet{depth}")
        x = torch.empty(2, 3, 224, 224)
    assert count(net) == count(theirs)
    assert len(net.state_dict()) == len(theirs.state_dict())
    shapes = stage_outputs(net, "stage", x)
    assert shapes == stage_outputs(theirs, "layer", x)
    assert [shape[2] for shape in shapes] == [56, 28, 14, 7]
    on_the_path = [m for n, m in net.named_modules() if "shortcut" not in n]
    assert sum(isinstance(m, nn.Conv2d | nn.Linear) for m in on_the_path) == depth


@pytest.mark.parametrize("depth", [18, 50])
def test_scores_statistics_and_gradients_are_torchvisions(depth: int) -> None:
    torch.manual_seed(0)
    theirs = torchvision.models.get_model(f"resnet{depth}", num_classes=7)
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.0)
            nn.init.normal_(module.bias, std=0.1)
    ours = ResNet(7, (3, 64, 64), depth=depth, form="imagenet", stem="imagenet")
    load_torchvision(ours, theirs.state_dict())
    x = torch.randn(4, 3, 64, 64)
    for net in (ours, theirs):
        net(x).square().sum().backward()  # moves the running statistics
    torch.testing.assert_close(ours.conv.weight.grad, theirs.conv1.weight.grad, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(x), theirs.eval()(x), rtol=1e-5, atol=1e-5)


def test_auto_takes_the_stem_that_fits_the_image() -> None:
    def stem(size: int, **settings: object) -> tuple[int, bool]:
        with torch.device("meta"):
            net = ResNet(10, (3, size, 2 * size), depth=18, form="imagenet", **settings)
        return net.conv.stride[0], net.maxpool is not None

    assert stem(96) == (2, True)
    assert stem(95) == (1, False)
    assert stem(95, stem="imagenet") == (2, True)
    assert stem(224, stem="small") == (1, False)


def test_small_stem_keeps_the_size() -> None:
    with torch.device("meta"):
        net = ResNet(10, (3, 32, 32), depth=18, form="imagenet")
        shapes = stage_outputs(net, "stage", torch.empty(2, 3, 32, 32))
    assert [tuple(shape) for shape in shapes] == [
        (2, 64, 32, 32),
        (2, 128, 16, 16),
        (2, 256, 8, 8),
        (2, 512, 4, 4),
    ]
    assert count(net) == 11_173_962  # the ResNet-18 that CIFAR repositories share, such as kuangliu's


@pytest.mark.parametrize("form", ["cifar", "imagenet"])
@pytest.mark.parametrize("preactivation", [False, True])
def test_plain_networks_are_option_a_without_the_sum(form: str, preactivation: bool) -> None:
    settings = {"depth": 50, "form": form, "preactivation": preactivation}
    with torch.device("meta"):
        plain, residual = (ResNet(shortcut=shortcut, **settings) for shortcut in ("none", "A"))
    assert {n: p.shape for n, p in plain.named_parameters()} == {
        n: p.shape for n, p in residual.named_parameters()
    }
    blocks = [m for m in plain.modules() if isinstance(m, ResidualBlock)]
    assert blocks
    assert all(block.shortcut is None for block in blocks)
    block = ResNet(shortcut="none", depth=8, preactivation=preactivation).stage1[0].eval()
    block.zero_branch()
    assert not block(torch.randn(2, 16, 4, 4)).any()


def test_zero_initialised_bottlenecks_leave_the_shortcut() -> None:
    torch.manual_seed(0)
    settings = {"depth": 50, "form": "imagenet", "width": 4, "zero_init_residual": True}
    for preactivation in (False, True):
        net = ResNet(input_shape=(3, 12, 12), preactivation=preactivation, **settings)
        x = torch.randn(2, 16, 6, 6).relu()
        block = net.stage1[1]
        assert torch.equal(block(x), x)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"depth": 20, "form": "imagenet"}, "depth must be one of 18, 34, 50, 101, 152, 200, got 20"),
        ({"depth": 18, "form": "imagenet", "block": "bottleneck"}, "block must be 'auto' or 'basic' at dep"),
        ({"depth": 50, "form": "imagenet", "block": "basic"}, "block must be 'auto' or 'bottleneck' at de"),
        ({"form": "mnist"}, "form must be 'cifar' or 'imagenet', got 'mnist'"),
        ({"stem": "large"}, "stem must be 'auto', 'imagenet' or 'small', got 'large'"),
        ({"block": "wide"}, "block must be 'auto', 'basic' or 'bottleneck', got 'wide'"),
        ({"block": "bottleneck", "depth": 110 + 1}, r"depth must be 9n \+ 2 .*, got 111"),
    ],
)
def test_wrong_settings(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=f"^ResNet: .*{message}"):
        ResNet(**settings)
