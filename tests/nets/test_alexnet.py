"""AlexNet and what ZFNet shares with it: the lecture's sizes, counts by hand, groups, first weights."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lightning_optreg.layers import LocalResponseNorm
from lightning_optreg.nets import AlexNet
from lightning_optreg.nets._sizes import map_size

# Layer, output as the lecture writes it (height, width, channels), weights and biases with one tower.
LECTURE = [
    ("features.conv1", (55, 55, 96), 96 * 11 * 11 * 3 + 96),
    ("features.pool1", (27, 27, 96), 0),
    ("features.norm1", (27, 27, 96), 0),
    ("features.conv2", (27, 27, 256), 256 * 5 * 5 * 96 + 256),
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
SMALL = {"channels": (4, 8, 12, 12, 8), "hidden": 16}


def outputs(net: nn.Module, shape: tuple[int, int, int]) -> list[tuple[str, tuple[int, ...], int]]:
    """Name, output (height, width, channels) and parameters of each layer, ReLU and dropout left out."""
    rows: list[tuple[str, tuple[int, ...], int]] = []

    def note(layer: nn.Module, _: object, output: torch.Tensor) -> None:
        size = tuple(output.shape[1:])
        count = sum(p.numel() for p in layer.parameters())
        rows.append((names[layer], (*size[1:], size[0]), count))

    names = {layer: name for name, layer in net.named_modules() if not list(layer.children())}
    for layer in names:
        if not isinstance(layer, nn.ReLU | nn.Dropout):
            layer.register_forward_hook(note)
    net(torch.empty(1, *shape, device="meta"))
    return rows


def test_the_lectures_list() -> None:
    with torch.device("meta"):
        net = AlexNet()
    assert outputs(net, (3, 227, 227)) == LECTURE
    assert sum(p.numel() for p in net.parameters()) == sum(row[2] for row in LECTURE) == 62_378_344


def test_the_papers_two_towers_and_order() -> None:
    with torch.device("meta"):
        net = AlexNet(groups=2, order="norm_pool")
    names, sizes, counts = zip(*outputs(net, (3, 227, 227)), strict=True)
    assert [name.partition(".")[2] for name in names[:6]] == [
        *("conv1", "norm1", "pool1", "conv2", "norm2", "pool2")
    ]
    assert sizes[:3] == ((55, 55, 96), (55, 55, 96), (27, 27, 96))
    # CONV2, CONV4 and CONV5 see half of the maps before them.
    halved = 256 * 5 * 5 * 48 + 384 * 3 * 3 * 192 + 256 * 3 * 3 * 192
    assert sum(counts) == 62_378_344 - halved == 60_965_224


def test_groups_are_two_towers_beside_each_other() -> None:
    torch.manual_seed(0)
    net = AlexNet(5, (3, 67, 67), groups=2, stem="imagenet", init="he", **SMALL).features
    x = torch.randn(2, 4, 7, 7)
    halves = [
        F.conv2d(x[:, 2 * i : 2 * i + 2], net.conv2.weight[4 * i : 4 * i + 4], padding=2) for i in (0, 1)
    ]
    expected = torch.cat(halves, dim=1) + net.conv2.bias.view(-1, 1, 1)
    torch.testing.assert_close(net.conv2(x), expected)
    assert (net.conv1.groups, net.conv3.groups) == (1, 1)


@pytest.mark.parametrize("order", ["pool_norm", "norm_pool"])
def test_scores_against_the_formulas(order: str) -> None:
    torch.manual_seed(0)
    net = AlexNet(5, (3, 67, 75), order=order, stem="imagenet", init="he", **SMALL).double().eval()
    for name, parameter in net.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter, std=0.1)
    w = net.state_dict()

    def conv(x: torch.Tensor, i: int, **settings: int) -> torch.Tensor:
        return F.conv2d(x, w[f"features.conv{i}.weight"], w[f"features.conv{i}.bias"], **settings).relu()

    def norm(a: torch.Tensor) -> torch.Tensor:  # the paper's formula, section 3.3
        sums = torch.zeros_like(a)
        maps = a.shape[1]
        for i in range(maps):
            sums[:, i] = a[:, max(0, i - 2) : min(maps - 1, i + 2) + 1].square().sum(1)
        return a / (2 + 1e-4 * sums) ** 0.75

    def pool_and_norm(a: torch.Tensor) -> torch.Tensor:
        return norm(F.max_pool2d(a, 3, 2)) if order == "pool_norm" else F.max_pool2d(norm(a), 3, 2)

    def fc(x: torch.Tensor, i: int) -> torch.Tensor:
        return x @ w[f"classifier.fc{i}.weight"].T + w[f"classifier.fc{i}.bias"]

    x = torch.randn(2, 3, 67, 75, dtype=torch.float64) * 30  # far from where normalisation is a constant
    h = pool_and_norm(conv(x, 1, stride=4))
    h = pool_and_norm(conv(h, 2, padding=2))
    h = F.max_pool2d(conv(conv(conv(h, 3, padding=1), 4, padding=1), 5, padding=1), 3, 2)
    h = fc(fc(fc(h.flatten(1), 6).relu(), 7).relu(), 8)
    torch.testing.assert_close(net(x), h)


def test_initial_weights() -> None:
    torch.manual_seed(0)
    net = AlexNet(10, (3, 67, 67), stem="imagenet", **SMALL)
    ones = {name for name, p in net.named_parameters() if name.endswith("bias") and (p == 1).all()}
    zeros = {name for name, p in net.named_parameters() if name.endswith("bias") and (p == 0).all()}
    assert {name.split(".")[1] for name in ones} == {"conv2", "conv4", "conv5", "fc6", "fc7"}
    assert {name.split(".")[1] for name in zeros} == {"conv1", "conv3", "fc8"}
    he = AlexNet(10, (3, 67, 67), stem="imagenet", init="he", **SMALL)
    for name, layer in he.named_modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            n = layer.weight.numel()
            normal = net.get_submodule(name).weight
            assert abs(normal.var().item() / 1e-4 - 1) < 5 * math.sqrt(2 / n)
            variance = (1 if name == "classifier.fc8" else 2) / layer.weight[0].numel()
            assert abs(layer.weight.var().item() / variance - 1) < 5 * math.sqrt(2 / n)
            assert not layer.bias.any()


def test_dropout_is_before_the_second_and_third_fully_connected_layer() -> None:
    net = AlexNet(10, (1, 28, 28), **SMALL)
    assert [name for name, _ in net.classifier.named_children()] == [
        *("fc6", "relu6", "drop6", "fc7", "relu7", "drop7", "fc8")
    ]
    assert (net.classifier.drop6.p, net.classifier.drop7.p) == (0.5, 0.5)
    norms = [layer for layer in net.modules() if isinstance(layer, LocalResponseNorm)]
    assert [(n.size, n.alpha, n.beta, n.k) for n in norms] == [(5, 1e-4, 0.75, 2.0)] * 2


@pytest.mark.parametrize(("size", "last"), [(28, 3), (32, 4)])
def test_the_small_form(size: int, last: int) -> None:
    net = AlexNet(10, (1, size, size), **SMALL)
    assert net.features.conv1.stride == (1, 1)
    assert net.features(torch.zeros(1, 1, size, size)).shape == (1, 8, last, last)
    assert net(torch.zeros(2, 1, size, size)).shape == (2, 10)


def test_auto_takes_the_stem_that_suits_the_size() -> None:
    for shape, kernel in (((3, 95, 200), 5), ((3, 96, 96), 11), ((1, 300, 96), 11)):
        net = AlexNet(10, shape, **SMALL)
        assert net.features.conv1.kernel_size == (kernel, kernel)
        assert net(torch.zeros(1, *shape)).shape == (1, 10)


@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding"), [(2, 2, 0), (3, 2, 0), (3, 2, 1), (3, 3, 1), (2, 3, 0)]
)
def test_map_sizes_are_torchs(kernel: int, stride: int, padding: int, ceil_mode: bool) -> None:
    pool = nn.MaxPool2d(kernel, stride, padding, ceil_mode=ceil_mode)
    conv = nn.Conv2d(1, 1, kernel, stride, padding)
    for layer in (pool, conv):
        for n in range(kernel, 20):
            size = (n, kernel)
            assert map_size([layer], size) == layer(torch.zeros(1, 1, *size)).shape[2:]
    assert map_size([nn.Conv2d(1, 1, (3, 5), stride=(1, 2), padding=(0, 1)), nn.ReLU()], (8, 9)) == (6, 4)


@pytest.mark.parametrize(("stem", "smallest"), [("imagenet", 67), ("small", 8)])
def test_smallest_image(stem: str, smallest: int) -> None:
    assert AlexNet(10, (1, smallest, smallest), stem=stem, **SMALL)(
        torch.zeros(1, 1, smallest, smallest)
    ).shape == (1, 10)
    with pytest.raises(ValueError, match=f"^AlexNet: images of 80x{smallest - 1} are too small for stem"):
        AlexNet(10, (1, 80, smallest - 1), stem=stem, **SMALL)


@pytest.mark.parametrize(("stem", "init"), [("imagenet", "normal"), ("small", "he")])
def test_auto_takes_the_weights_that_suit_the_stem(stem: str, init: str) -> None:
    nets = []
    for setting in ("auto", init):
        torch.manual_seed(0)
        nets.append(AlexNet(10, (3, 96, 96), stem=stem, init=setting, **SMALL).state_dict())
    assert all(torch.equal(nets[0][name], nets[1][name]) for name in nets[0])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"groups": 3}, "^AlexNet: groups must be 1 or 2, got 3$"),
        ({"order": "norm"}, "^AlexNet: order must be 'pool_norm' or 'norm_pool', got 'norm'$"),
        ({"channels": (1, 2, 3)}, r"^AlexNet: channels must be five numbers >= 1, got \(1, 2, 3\)$"),
        ({"channels": (0, 2, 2, 2, 2)}, "^AlexNet: channels must be five numbers >= 1"),
        ({"channels": (2, 2, 3, 2, 2), "groups": 2}, "^AlexNet: with two groups, channels must be even"),
        ({"hidden": 0}, "^AlexNet: hidden must be >= 1, got 0$"),
        ({"dropout": 1.0}, r"^AlexNet: dropout must be in \[0, 1\), got 1.0$"),
        ({"init": "zero"}, "^AlexNet: init must be 'auto', 'normal' or 'he', got 'zero'$"),
        ({"stem": "tiny"}, "^AlexNet: stem must be 'auto', 'imagenet' or 'small', got 'tiny'$"),
    ],
)
def test_wrong_settings(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AlexNet(**settings)
