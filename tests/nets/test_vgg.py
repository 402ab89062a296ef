"""VGG against torchvision: names, counts, scores; its small form; its first weights."""

import math

import pytest
import torch
import torchvision
from torch import nn

from lightning_optreg.nets import VGG

PARAMETERS = {  # of torchvision's documentation
    (11, False): 132_863_336,
    (11, True): 132_868_840,
    (13, False): 133_047_848,
    (13, True): 133_053_736,
    (16, False): 138_357_544,
    (16, True): 138_365_992,
    (19, False): 143_667_240,
    (19, True): 143_678_248,
}


@pytest.mark.parametrize(("depth", "batch_norm"), PARAMETERS.keys())
def test_names_and_counts_are_torchvisions(depth: int, batch_norm: bool) -> None:
    with torch.device("meta"):
        ours = VGG(depth=depth, batch_norm=batch_norm)
        theirs = torchvision.models.get_model(f"vgg{depth}{'_bn' if batch_norm else ''}")
    shapes = [{name: value.shape for name, value in net.state_dict().items()} for net in (ours, theirs)]
    assert shapes[0] == shapes[1]
    assert sum(p.numel() for p in ours.parameters()) == PARAMETERS[depth, batch_norm]


@pytest.mark.parametrize(
    "size",
    [
        (32, 32),
        pytest.param((40, 75), marks=pytest.mark.slow),
        pytest.param((224, 224), marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("batch_norm", [pytest.param(False, marks=pytest.mark.slow), True])
def test_torchvisions_weights_give_torchvisions_scores(size: tuple[int, int], batch_norm: bool) -> None:
    torch.manual_seed(0)
    stages = torchvision.models.vgg.cfgs["A"]
    narrow = [stage if stage == "M" else stage // 16 for stage in stages]
    theirs = torchvision.models.VGG(torchvision.models.vgg.make_layers(narrow, batch_norm), num_classes=5)
    theirs.classifier = nn.Sequential(
        *(nn.Linear(32 * 7 * 7, 24), nn.ReLU(), nn.Dropout()),
        *(nn.Linear(24, 24), nn.ReLU(), nn.Dropout(), nn.Linear(24, 5)),
    )
    ours = VGG(5, (3, *size), depth=11, width=4, hidden=24, batch_norm=batch_norm, stem="imagenet")
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 3, *size)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x), rtol=1e-5, atol=1e-5)
    # In training both draw the same masks: the same layers in the same order.
    torch.manual_seed(1)
    scores = ours.train()(x)
    torch.manual_seed(1)
    torch.testing.assert_close(scores, theirs.train()(x), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vgg11", "vgg16_bn"])
def test_the_whole_network_with_torchvisions_weights(name: str) -> None:
    theirs = torchvision.models.get_model(name).eval()
    ours = VGG(depth=int(name[3:5]), batch_norm=name.endswith("bn")).eval()
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("depth", [11, 13, 16, 19])
@pytest.mark.parametrize("size", [(28, 28), (32, 32), (1, 1), (50, 64), (95, 200)])
def test_the_small_form_takes_any_size(depth: int, size: tuple[int, int]) -> None:
    net = VGG(10, (1, *size), depth=depth, width=1)
    assert net(torch.zeros(2, 1, *size)).shape == (2, 10)
    assert [type(layer) for layer in net.classifier] == [nn.Dropout, nn.Linear]


def test_the_small_form_is_the_known_one() -> None:
    # github.com/kuangliu/pytorch-cifar has 14,728,266 parameters for VGG-16 on CIFAR-10.
    with torch.device("meta"):
        net = VGG(10, (3, 32, 32), depth=16, batch_norm=True)
        shapes = []
        x = torch.empty(1, 3, 28, 28)
        for layer in net.features:
            x = layer(x)
            shapes += [x.shape[-1]] if isinstance(layer, nn.MaxPool2d) else []
    assert sum(p.numel() for p in net.parameters()) == 14_728_266
    assert shapes == [14, 7, 4, 2, 1]


def test_auto_takes_the_form_that_suits_the_size() -> None:
    with torch.device("meta"):
        forms = {
            size: len(VGG(10, (3, *size), width=1).classifier) for size in ((95, 200), (96, 96), (224, 224))
        }
        small = VGG(10, (3, 224, 224), width=1, stem="small")
    assert forms == {(95, 200): 2, (96, 96): 7, (224, 224): 7}
    assert len(small.classifier) == 2


@pytest.mark.parametrize("stem", ["imagenet", "small"])
def test_initial_weights(stem: str) -> None:
    torch.manual_seed(0)
    for init in ("he", "glorot"):
        net = VGG(10, (3, 96, 96), depth=11, width=8, hidden=64, init=init, stem=stem)
        for layer in net.modules():
            if not isinstance(layer, nn.Conv2d | nn.Linear):
                continue
            window = 9 if isinstance(layer, nn.Conv2d) else 1
            fan_in, fan_out = (window * layer.weight.shape[i] for i in (1, 0))
            if init == "glorot":
                bound = math.sqrt(6 / (fan_in + fan_out))
                assert 0.9 * bound < layer.weight.abs().max() <= bound
                std, kurtosis = bound / math.sqrt(3), 1.8
            else:
                linear = 0.01 if stem == "imagenet" else math.sqrt(1 / fan_in)
                std, kurtosis = (math.sqrt(2 / fan_out) if window == 9 else linear), 3.0
            n = layer.weight.numel()
            # The standard error of a variance is sqrt((kurtosis - 1) / n) of it.
            assert abs(layer.weight.var().item() / std**2 - 1) < 5 * math.sqrt((kurtosis - 1) / n)
            assert not layer.bias.any()


def test_dropout() -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 3, 32, 32)
    net = VGG(10, (3, 32, 32), depth=11, width=4)
    assert not torch.equal(net(x), net(x))
    assert torch.equal(net.eval()(x), net(x))
    neutral = VGG(10, (3, 32, 32), depth=11, width=4, dropout=0.0)
    neutral.load_state_dict(net.state_dict())
    assert torch.equal(neutral(x), net(x))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"depth": 12}, "^VGG: depth must be 11, 13, 16 or 19, got 12$"),
        ({"width": 0}, "^VGG: width must be >= 1, got 0$"),
        ({"hidden": 0}, "^VGG: hidden must be >= 1, got 0$"),
        ({"dropout": 1.0}, r"^VGG: dropout must be in \[0, 1\), got 1.0$"),
        ({"dropout": math.nan}, r"^VGG: dropout must be in \[0, 1\), got nan$"),
        ({"init": "normal"}, "^VGG: init must be 'he' or 'glorot', got 'normal'$"),
        ({"stem": "cifar"}, "^VGG: stem must be 'auto', 'imagenet' or 'small', got 'cifar'$"),
    ],
)
def test_wrong_settings(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VGG(**settings)
