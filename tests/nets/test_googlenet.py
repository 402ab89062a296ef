"""GoogLeNet: table 1 of the paper, counts, torchvision's twin, auxiliary heads, small images."""

import math

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from lightning_optreg.nets import GoogLeNet
from lightning_optreg.nets._inception import AuxiliaryHead, Inception

# Table 1: module and output size (height, width, channels).
TABLE_1 = [
    ("conv1", (112, 112, 64)),
    ("maxpool1", (56, 56, 64)),
    ("norm1", (56, 56, 64)),
    ("conv2", (56, 56, 64)),
    ("conv3", (56, 56, 192)),
    ("norm2", (56, 56, 192)),
    ("maxpool2", (28, 28, 192)),
    ("inception3a", (28, 28, 256)),
    ("inception3b", (28, 28, 480)),
    ("maxpool3", (14, 14, 480)),
    ("inception4a", (14, 14, 512)),
    ("inception4b", (14, 14, 512)),
    ("inception4c", (14, 14, 512)),
    ("inception4d", (14, 14, 528)),
    ("inception4e", (14, 14, 832)),
    ("maxpool4", (7, 7, 832)),
    ("inception5a", (7, 7, 832)),
    ("inception5b", (7, 7, 1024)),
    ("avgpool", (1, 1, 1024)),
    ("dropout", (1024,)),
    ("fc", (1000,)),
]
SMALL = {"width": 0.06, "aux_hidden": 12}


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def their_googlenet(**settings: object) -> nn.Module:
    return torchvision.models.GoogLeNet(init_weights=False, **settings)


def test_sizes_are_those_of_the_papers_table() -> None:
    with torch.device("meta"):
        net = GoogLeNet(aux=False)
    rows = []
    for name, layer in net.named_children():
        layer.register_forward_hook(
            lambda _, __, output, name=name: rows.append((name, (*output.shape[2:], output.shape[1])))
        )
    net(torch.empty(1, 3, 224, 224, device="meta"))
    assert rows == TABLE_1


def test_counts_by_hand() -> None:
    def conv(inputs: int, outputs: int, kernel: int) -> int:
        return outputs * (inputs * kernel**2 + 1)

    modules = {  # table 1
        "inception3a": (192, 64, 96, 128, 16, 32, 32),
        "inception3b": (256, 128, 128, 192, 32, 96, 64),
        "inception4a": (480, 192, 96, 208, 16, 48, 64),
        "inception4b": (512, 160, 112, 224, 24, 64, 64),
        "inception4c": (512, 128, 128, 256, 24, 64, 64),
        "inception4d": (512, 112, 144, 288, 32, 64, 64),
        "inception4e": (528, 256, 160, 320, 32, 128, 128),
        "inception5a": (832, 256, 160, 320, 32, 128, 128),
        "inception5b": (832, 384, 192, 384, 48, 128, 128),
    }
    expected = {
        name: conv(n, one, 1)
        + conv(n, reduce3, 1)
        + conv(reduce3, three, 3)
        + conv(n, reduce5, 1)
        + conv(reduce5, five, 5)
        + conv(n, pool, 1)
        for name, (n, one, reduce3, three, reduce5, five, pool) in modules.items()
    }
    expected |= {"conv1": conv(3, 64, 7), "conv2": conv(64, 64, 1), "conv3": conv(64, 192, 3)}
    expected |= {"fc": 1000 * 1025}
    heads = {
        name: conv(n, 128, 1) + 1024 * (4 * 4 * 128 + 1) + 1000 * 1025
        for name, n in (("aux1", 512), ("aux2", 528))
    }
    with torch.device("meta"):
        net = GoogLeNet()
    counts = {name: count(layer) for name, layer in net.named_children() if count(layer)}
    assert counts == expected | heads
    # As the class says: without heads, of this stem and modules, with heads.
    assert sum(expected.values()) == 6_998_552
    assert sum(expected.values()) - expected["fc"] == 5_973_552
    assert count(net) == 13_378_280


@pytest.mark.parametrize(
    ("form", "without", "with_heads"),
    [("batch_norm", 7_005_832, 13_385_816), ("torchvision", 6_624_904, 13_004_888)],
)
def test_counts_of_the_other_forms(form: str, without: int, with_heads: int) -> None:
    with torch.device("meta"):
        assert count(GoogLeNet(form=form, aux=False)) == without
        assert count(GoogLeNet(form=form)) == with_heads
        assert form != "torchvision" or count(their_googlenet()) == with_heads


def test_names_are_torchvisions() -> None:
    with torch.device("meta"):
        nets = GoogLeNet(form="torchvision"), their_googlenet()
    ours, theirs = ({name: value.shape for name, value in net.state_dict().items()} for net in nets)
    assert ours == theirs


@pytest.mark.parametrize("size", [(64, 64), (97, 75)])
def test_torchvisions_weights_give_torchvisions_scores(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    theirs = their_googlenet(num_classes=7)
    settings = {"stem": "imagenet", "dropout": 0.2}
    ours = GoogLeNet(7, (3, *size), form="torchvision", **settings)
    for name, parameter in theirs.named_parameters():
        if name.endswith("conv.weight"):
            nn.init.kaiming_normal_(parameter)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 3, *size)
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(x), theirs.eval()(x), rtol=1e-5, atol=1e-5)
        # In training: theirs are the scores, then the later head's, then the earlier one's.
        for net in (ours, theirs):
            for layer in net.modules():
                if isinstance(layer, nn.Dropout):
                    layer.p = 0.0
        our_scores, our_first, our_second = ours.train()(x)
        their_scores, their_second, their_first = theirs.train()(x)
    torch.testing.assert_close(our_scores, their_scores, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(our_first, their_first, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(our_second, their_second, rtol=1e-5, atol=1e-5)


def test_an_inception_module_against_the_formulas() -> None:
    torch.manual_seed(0)
    module = Inception(6, (2, 3, 4, 2, 5, 3), "paper").double()
    x = torch.randn(2, 6, 9, 7, dtype=torch.float64)
    w = module.state_dict()

    def conv(x: torch.Tensor, name: str) -> torch.Tensor:
        weight = w[f"{name}.conv.weight"]
        return F.conv2d(x, weight, w[f"{name}.conv.bias"], padding=weight.shape[-1] // 2).relu()

    expected = torch.cat(
        [
            conv(x, "branch1"),
            conv(conv(x, "branch2.0"), "branch2.1"),
            conv(conv(x, "branch3.0"), "branch3.1"),
            conv(F.max_pool2d(x, 3, stride=1, padding=1), "branch4.1"),
        ],
        dim=1,
    )
    torch.testing.assert_close(module(x), expected)
    assert module.branch3[1].conv.kernel_size == (5, 5)
    assert module.out_channels == expected.shape[1] == 14


def test_an_auxiliary_head_against_the_formulas() -> None:
    torch.manual_seed(0)
    head = AuxiliaryHead(6, (14, 11), 4, 8, 3, 0.7, "paper").double().eval()
    x = torch.randn(2, 6, 14, 11, dtype=torch.float64)
    w = head.state_dict()
    h = torch.stack([x[:, :, i : i + 5, j : j + 5].mean((2, 3)) for i in (0, 3, 6, 9) for j in (0, 3, 6)], 2)
    h = torch.einsum("oc,ncp->nop", w["conv.conv.weight"][:, :, 0, 0], h) + w["conv.conv.bias"][:, None]
    h = (h.relu().flatten(1) @ w["fc1.weight"].T + w["fc1.bias"]).relu()
    torch.testing.assert_close(head(x), h @ w["fc2.weight"].T + w["fc2.bias"])
    assert head.dropout.p == 0.7


@pytest.mark.parametrize("form", ["paper", "batch_norm", "torchvision"])
def test_heads_give_scores_in_training_only(form: str) -> None:
    torch.manual_seed(0)
    net = GoogLeNet(4, (3, 20, 16), form=form, **SMALL)
    x = torch.randn(3, 3, 20, 16)
    outputs = net(x)
    assert isinstance(outputs, tuple)
    assert [scores.shape for scores in outputs] == [(3, 4)] * 3
    sum(scores.square().sum() for scores in outputs).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    assert net.eval()(x).shape == (3, 4)
    assert net(torch.randn(3, 3, 33, 40)).shape == (3, 4)  # any size, without the heads
    with pytest.raises(ValueError, match=r"^GoogLeNet: images must be of shape \(N, 3, 20, 16\)"):
        net.train()(torch.randn(3, 3, 33, 40))


def test_heads_are_where_the_paper_has_them() -> None:
    net = GoogLeNet(4, (3, 20, 16), **SMALL, dropout=0.0, aux_dropout=0.0)
    seen = {}
    for name in ("inception4a", "inception4d", "aux1", "aux2"):
        net.get_submodule(name).register_forward_hook(
            lambda _, inputs, output, name=name: seen.update({name: (inputs[0], output)})
        )
    scores, first, second = net(torch.randn(2, 3, 20, 16))
    assert seen["aux1"][0] is seen["inception4a"][1]
    assert seen["aux2"][0] is seen["inception4d"][1]
    assert first is seen["aux1"][1]
    assert second is seen["aux2"][1]
    torch.testing.assert_close(net.eval()(torch.zeros(1, 3, 20, 16)).shape, scores[:1].shape)


def test_without_heads_the_rest_is_the_same() -> None:
    with_heads = GoogLeNet(4, (3, 20, 16), **SMALL)
    without = GoogLeNet(4, (3, 20, 16), aux=False, **SMALL)
    without.load_state_dict(
        {name: value for name, value in with_heads.state_dict().items() if not name.startswith("aux")}
    )
    x = torch.randn(2, 3, 20, 16)
    assert torch.equal(with_heads.eval()(x), without.eval()(x))


@pytest.mark.parametrize(("size", "places"), [(28, [14, 7]), (32, [16, 8])])
def test_the_small_form(size: int, places: list[int]) -> None:
    net = GoogLeNet(10, (1, size, size), form="batch_norm", **SMALL)
    sizes = []
    for pool in (net.maxpool3, net.maxpool4):
        pool.register_forward_hook(lambda _, __, output: sizes.append(output.shape[-1]))
    assert [scores.shape for scores in net(torch.zeros(2, 1, size, size))] == [(2, 10)] * 3
    assert sizes == places
    assert [name for name, _ in net.named_children()][:2] == ["conv1", "inception3a"]
    assert net.conv1.conv.stride == (1, 1)


def test_auto_takes_the_stem_that_suits_the_size() -> None:
    for shape, kernel in (((3, 95, 200), 3), ((3, 96, 96), 7)):
        net = GoogLeNet(10, shape, **SMALL)
        assert net.conv1.conv.kernel_size == (kernel, kernel)
        assert net(torch.zeros(2, *shape))[0].shape == (2, 10)


@pytest.mark.parametrize(("stem", "smallest", "for_heads"), [("imagenet", 31, 79), ("small", 4, 10)])
def test_smallest_image(stem: str, smallest: int, for_heads: int) -> None:
    for n, aux in ((smallest, False), (for_heads, True)):
        outputs = GoogLeNet(10, (1, n, n), stem=stem, aux=aux, **SMALL)(torch.zeros(2, 1, n, n))
        assert all(scores.shape == (2, 10) for scores in (outputs if aux else (outputs,)))
    message = f"^GoogLeNet: images of 90x{smallest - 1} are too small for stem '{stem}'"
    with pytest.raises(ValueError, match=message):
        GoogLeNet(10, (1, 90, smallest - 1), stem=stem, aux=False, **SMALL)
    message = (
        f"^GoogLeNet: images of 90x{for_heads - 1} are too small for the auxiliary heads, which need maps"
    )
    with pytest.raises(ValueError, match=message):
        GoogLeNet(10, (1, 90, for_heads - 1), stem=stem, **SMALL)


def test_initial_weights() -> None:
    torch.manual_seed(0)
    net = GoogLeNet(8, (3, 96, 96), width=0.2, aux_hidden=8)
    outputs = (net.fc, net.aux1.fc2, net.aux2.fc2)
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            variance = (1 if layer in outputs else 2) / layer.weight[0].numel()
            ratio = layer.weight.var().item() / variance
            assert abs(ratio - 1) < 5 * math.sqrt(2 / layer.weight.numel())
            assert not layer.bias.any()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"form": "bn"}, "^GoogLeNet: form must be 'paper', 'batch_norm' or 'torchvision', got 'bn'$"),
        ({"width": 0.0}, r"^GoogLeNet: width must be in \(0, inf\), got 0.0$"),
        ({"width": math.nan}, r"^GoogLeNet: width must be in \(0, inf\), got nan$"),
        ({"aux_hidden": 0}, "^GoogLeNet: aux_hidden must be >= 1, got 0$"),
        ({"dropout": 1.0}, r"^GoogLeNet: dropout must be in \[0, 1\), got 1.0$"),
        ({"aux_dropout": -1.0}, r"^GoogLeNet: aux_dropout must be in \[0, 1\), got -1.0$"),
        ({"stem": "tiny"}, "^GoogLeNet: stem must be 'auto', 'imagenet' or 'small', got 'tiny'$"),
    ],
)
def test_wrong_settings(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GoogLeNet(**settings)


def test_a_head_refuses_small_maps() -> None:
    with pytest.raises(ValueError, match=r"^AuxiliaryHead: maps must be at least 5x5, got 4x9$"):
        AuxiliaryHead(4, (4, 9), 4, 4, 2, 0.5, "paper")
