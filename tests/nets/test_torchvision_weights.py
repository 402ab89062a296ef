"""Torchvision's names: every entry finds its place; heads may stay; what does not fit is refused."""

import pytest
import torch
import torchvision

from lightning_optreg.nets import MLP, VGG, GoogLeNet, ResNet
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


def test_vgg_without_the_head() -> None:
    theirs = {name: value + 1.0 for name, value in VGG(10, width=1, hidden=4).state_dict().items()}
    ours = VGG(3, width=1, hidden=4)
    head = ours.classifier[6].weight.clone()
    with pytest.raises(RuntimeError, match=r"size mismatch for classifier\.6\.weight"):
        load_torchvision(ours, theirs)
    load_torchvision(ours, theirs, head=False)
    assert torch.equal(ours.classifier[6].weight, head)
    assert torch.equal(ours.classifier[3].weight, theirs["classifier.3.weight"])
    assert torch.equal(ours.features[0].weight, theirs["features.0.weight"])


@pytest.mark.parametrize("aux", [True, False])
def test_googlenet_with_and_without_heads(aux: bool) -> None:
    theirs = torchvision.models.GoogLeNet(num_classes=10, init_weights=False).eval()
    settings = {"form": "torchvision", "stem": "imagenet", "aux": aux}
    ours = GoogLeNet(10, (3, 64, 64), **settings).eval()
    load_torchvision(ours, theirs.state_dict())
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-5)
    other = GoogLeNet(3, (3, 64, 64), **settings)
    own = {name: value.clone() for name, value in other.state_dict().items() if value.shape[:1] == (3,)}
    assert len(own) == (6 if aux else 2)
    load_torchvision(other, theirs.state_dict(), head=False)
    assert all(torch.equal(other.state_dict()[name], value) for name, value in own.items())
    assert torch.equal(other.inception5b.branch1.conv.weight, theirs.inception5b.branch1.conv.weight)


def test_what_does_not_fit_is_refused() -> None:
    theirs = torchvision.models.resnet18(num_classes=10).state_dict()
    with pytest.raises(RuntimeError, match=r"size mismatch for linear.weight"):
        load_torchvision(small(num_classes=3), theirs)
    with pytest.raises(RuntimeError, match=r"size mismatch for conv.weight"):
        load_torchvision(ResNet(10, (3, 32, 32), depth=18, form="imagenet"), theirs)
    with pytest.raises(RuntimeError, match="Unexpected key"):
        load_torchvision(small(shortcut="A"), theirs)
    with pytest.raises(
        TypeError, match=r"^load_torchvision: net must be a residual network, a VGG or a GoogLeNet, got MLP$"
    ):
        load_torchvision(MLP(), theirs)
