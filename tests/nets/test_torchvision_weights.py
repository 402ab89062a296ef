"""Torchvision's names: every entry finds its place; heads may stay; what does not fit is refused."""

import pytest
import torch
import torchvision

from lightning_optreg.nets import MLP, ResNet
from lightning_optreg.nets.torchvision_weights import from_torchvision, load_torchvision


def small(num_classes: int = 10, **settings: object) -> ResNet:
    return ResNet(num_classes, (3, 64, 64), depth=18, form="imagenet", stem="imagenet", **settings)


@pytest.mark.parametrize("depth", [18, 152])
def test_names_are_renamed_one_to_one(depth: int) -> None:
    with torch.device("meta"):
        theirs = torchvision.models.get_model(f"resnet{depth}").state_dict()
        ours = ResNet(1000, (3, 224, 224), depth=depth, form="imagenet").state_dict()
    renamed = from_torchvision(theirs)
    assert {name: value.shape for name, value in renamed.items()} == {n: v.shape for n, v in ours.items()}
    assert "conv1.weight" in theirs  # it is left as it was


def test_without_the_head_the_networks_own_stays() -> None:
    theirs = torchvision.models.resnet18()
    ours = small(num_classes=3)
    head = ours.linear.weight.clone()
    load_torchvision(ours, theirs.state_dict(), head=False)
    assert torch.equal(ours.linear.weight, head)
    assert torch.equal(ours.stage4[1].conv2.weight, theirs.layer4[1].conv2.weight)


def test_what_does_not_fit_is_refused() -> None:
    theirs = torchvision.models.resnet18(num_classes=10).state_dict()
    with pytest.raises(RuntimeError, match=r"size mismatch for linear.weight"):
        load_torchvision(small(num_classes=3), theirs)
    with pytest.raises(RuntimeError, match=r"size mismatch for conv.weight"):
        load_torchvision(ResNet(10, (3, 32, 32), depth=18, form="imagenet"), theirs)
    with pytest.raises(RuntimeError, match="Unexpected key"):
        load_torchvision(small(shortcut="A"), theirs)
    with pytest.raises(TypeError, match=r"^load_torchvision: net must be a residual network, got MLP$"):
        load_torchvision(MLP(), theirs)
