"""WideResNet: published and torchvision's sizes and scores, dropout's place, wrong settings."""

import pytest
import torch
import torchvision
from torch import nn

from lightning_optreg.nets import ResNet, WideResNet
from lightning_optreg.nets._preactivation_blocks import PreactBasicBlock
from lightning_optreg.nets.torchvision_weights import load_torchvision


def count(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize(
    ("depth", "widen_factor", "millions"),
    [(40, 1, 0.6), (40, 2, 2.2), (40, 4, 8.9), (16, 8, 11.0), (28, 10, 36.5)],  # tables 4 and 5 of the paper
)
def test_cifar_sizes_are_the_papers(depth: int, widen_factor: int, millions: float) -> None:
    with torch.device("meta"):
        net = WideResNet(input_shape=(3, 32, 32), depth=depth, widen_factor=widen_factor)
        x = net.stage2(net.stage1(torch.empty(2, 16, 32, 32)))
        assert net.stage3(x).shape == (2, 64 * widen_factor, 8, 8)
    assert round(count(net) / 1e6, 1) == millions
    convolutions = sum(isinstance(m, nn.Conv2d) for m in net.modules())
    assert convolutions == depth - (widen_factor == 1)  # whose first stage needs no projection


@pytest.mark.parametrize(("name", "depth"), [("wide_resnet50_2", 50), ("wide_resnet101_2", 101)])
def test_imagenet_sizes_are_torchvisions(name: str, depth: int) -> None:
    with torch.device("meta"):
        ours = WideResNet(1000, (3, 224, 224), form="imagenet", depth=depth)
        theirs = torchvision.models.get_model(name)
    assert count(ours) == count(theirs)


@pytest.mark.slow
def test_scores_are_torchvisions() -> None:
    torch.manual_seed(0)
    theirs = torchvision.models.wide_resnet50_2(num_classes=7).eval()
    ours = WideResNet(7, (3, 64, 64), form="imagenet", stem="imagenet").eval()
    load_torchvision(ours, theirs.state_dict())
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-5)


def test_width_one_is_the_preactivation_resnet() -> None:
    torch.manual_seed(0)
    wide = WideResNet(input_shape=(3, 9, 9), depth=16, widen_factor=1).eval()
    resnet = ResNet(input_shape=(3, 9, 9), depth=14, preactivation=True, shortcut="B").eval()
    resnet.load_state_dict(wide.state_dict())
    x = torch.randn(2, 3, 9, 9)
    assert torch.equal(wide(x), resnet(x))


def test_dropout_is_between_the_convolutions_of_each_block() -> None:
    torch.manual_seed(0)
    net = WideResNet(depth=16, widen_factor=1, dropout=0.3)
    assert sum(isinstance(m, nn.Dropout) and m.p == 0.3 for m in net.modules()) == 6
    assert not any(isinstance(m, nn.Dropout) for m in WideResNet(depth=16, widen_factor=1).modules())
    assert net.state_dict().keys() == WideResNet(depth=16, widen_factor=1).state_dict().keys()
    block = PreactBasicBlock(4, 4, dropout=0.3)
    seen: list[torch.Tensor] = []
    block.bn2.register_forward_hook(lambda m, inputs, y: seen.append(y.clone()))
    block.conv2.register_forward_pre_hook(lambda m, inputs: seen.append(inputs[0]))
    block(torch.randn(64, 4, 8, 8))
    before, after = seen
    on = before > 0
    kept = after[on] > 0
    torch.testing.assert_close(after[on], kept * before[on] / 0.7)
    assert not after[~on].any()
    assert abs(kept.float().mean() - 0.7) < 5 * (0.7 * 0.3 / len(kept)) ** 0.5
    block.eval()(torch.randn(64, 4, 8, 8))
    assert torch.equal(seen[3], seen[2].relu())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"depth": 29}, r"depth must be 6n \+ 4 with n >= 1 \(10, 16, 22, 28, ...\), got 29"),
        ({"depth": 0, "form": "imagenet"}, "in the ImageNet form, depth must be 50 or 101, got 0"),
        ({"widen_factor": 0}, "widen_factor must be >= 1, got 0"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
        ({"dropout": float("nan")}, r"dropout must be in \[0, 1\), got nan"),
        ({"dropout": 0.3, "form": "imagenet"}, "in the ImageNet form, dropout must be 0, got 0.3"),
        ({"form": "mnist"}, "form must be 'cifar' or 'imagenet', got 'mnist'"),
    ],
)
def test_wrong_settings(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=f"^WideResNet: {message}$"):
        WideResNet(**settings)
