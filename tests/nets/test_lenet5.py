"""LeNet5: the paper's sizes and counts by hand, its historical units, image sizes."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lightning_optreg.nets import LeNet5
from lightning_optreg.nets.lenet5 import ScaledTanh


def test_parameters_are_those_of_the_paper_with_a_full_c3() -> None:
    by_hand = {
        "c1": 6 * (1 * 5 * 5 + 1),
        "c3": 16 * (6 * 5 * 5 + 1),
        "c5": 120 * (16 * 5 * 5 + 1),
        "f6": 84 * (120 + 1),
        "output": 10 * (84 + 1),
    }
    # The paper: C1 has 156 trainable parameters, C5 48,120, F6 10,164.
    assert (by_hand["c1"], by_hand["c5"], by_hand["f6"]) == (156, 48_120, 10_164)
    net = LeNet5()
    counts = {name: sum(p.numel() for p in layer.parameters()) for name, layer in net.named_children()}
    assert {name: count for name, count in counts.items() if count} == by_hand
    assert sum(by_hand.values()) == 61_706


@pytest.mark.parametrize(("size", "padding"), [(28, 2), (32, 0)])
def test_layer_sizes_are_those_of_the_paper(size: int, padding: int) -> None:
    net = LeNet5(input_shape=(1, size, size), padding=padding)
    shapes: dict[str, tuple[int, ...]] = {}

    def note(layer: nn.Module, _: object, output: torch.Tensor) -> None:
        shapes.setdefault(names[layer], tuple(output.shape[1:]))

    names = {layer: name for name, layer in net.named_children()}
    for layer in names:
        layer.register_forward_hook(note)
    net(torch.zeros(1, 1, size, size))
    assert shapes == {
        "c1": (6, 28, 28),
        "activation": (6, 28, 28),
        "s2": (6, 14, 14),
        "c3": (16, 10, 10),
        "s4": (16, 5, 5),
        "c5": (120,),
        "f6": (84,),
        "output": (10,),
    }


def test_scores_against_the_formulas() -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 1, 28, 28, dtype=torch.float64)
    for activation, pool in (("relu", "max"), ("tanh", "average")):
        net = LeNet5(activation=activation, pool=pool).double()
        w = net.state_dict()

        def phi(z: torch.Tensor, activation: str = activation) -> torch.Tensor:
            return z.clamp(min=0) if activation == "relu" else 1.7159 * torch.tanh(2 * z / 3)

        def subsample(z: torch.Tensor, pool: str = pool) -> torch.Tensor:
            corners = torch.stack([z[:, :, i::2, j::2] for i in (0, 1) for j in (0, 1)])
            return corners.amax(0) if pool == "max" else corners.mean(0)

        h = F.pad(x, (2, 2, 2, 2))
        h = subsample(phi(F.conv2d(h, w["c1.weight"], w["c1.bias"])))
        h = subsample(phi(F.conv2d(h, w["c3.weight"], w["c3.bias"])))
        # C5 is a convolution whose 5x5 kernel covers the whole map.
        h = phi(F.conv2d(h, w["c5.weight"].reshape(120, 16, 5, 5), w["c5.bias"])).reshape(3, 120)
        h = phi(h @ w["f6.weight"].T + w["f6.bias"])
        h = h @ w["output.weight"].T + w["output.bias"]
        torch.testing.assert_close(net(x), h)


def test_historical_units() -> None:
    net = LeNet5(activation="tanh", pool="average")
    assert isinstance(net.activation, ScaledTanh)
    assert isinstance(net.s2, nn.AvgPool2d)
    assert isinstance(net.s4, nn.AvgPool2d)
    x = torch.linspace(-5, 5, 101, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(ScaledTanh()(x), 1.7159 * torch.tanh(x * 2 / 3), rtol=1e-14, atol=0)
    assert torch.autograd.gradcheck(ScaledTanh(), (x,))
    # The constants make f(1) = 1 and f(-1) = -1.
    torch.testing.assert_close(
        ScaledTanh()(torch.tensor([-1.0, 1.0])), torch.tensor([-1.0, 1.0]), atol=1e-4, rtol=0
    )


def test_initial_weights() -> None:
    torch.manual_seed(0)
    for activation, gain in (("relu", 2.0), ("tanh", 1.0)):
        net = LeNet5(activation=activation, input_shape=(3, 64, 64))
        for layer, fan_in, layer_gain in (
            (net.c1, 75, gain),
            (net.c3, 150, gain),
            (net.c5, 16 * 14 * 14, gain),
            (net.f6, 120, gain),
            (net.output, 84, 1.0),
        ):
            std = math.sqrt(layer_gain / fan_in)
            n = layer.weight.numel()
            assert abs(layer.weight.std().item() - std) < 5 * std / math.sqrt(2 * n)
            assert not layer.bias.any()


@pytest.mark.parametrize(("padding", "smallest"), [(2, 12), (0, 16), (8, 1)])
def test_smallest_image(padding: int, smallest: int) -> None:
    for height, width in ((smallest, smallest), (smallest, 31), (45, smallest)):
        net = LeNet5(input_shape=(2, height, width), padding=padding)
        assert net(torch.zeros(1, 2, height, width)).shape == (1, 10)
    if smallest > 1:
        message = rf"height and width must be >= {smallest}, got 40x{smallest - 1}$"
        with pytest.raises(ValueError, match=f"^LeNet5: with padding {padding}, {message}"):
            LeNet5(input_shape=(1, 40, smallest - 1), padding=padding)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"activation": "ReLU"}, "^LeNet5: activation must be 'relu' or 'tanh', got 'ReLU'$"),
        ({"pool": "min"}, "^LeNet5: pool must be 'max', 'average' or 'trainable', got 'min'$"),
        ({"c3": "sparse"}, "^LeNet5: c3 must be 'full' or 'table', got 'sparse'$"),
        ({"output": "softmax"}, "^LeNet5: output must be 'linear' or 'rbf', got 'softmax'$"),
        ({"init": "he"}, "^LeNet5: init must be 'normal' or 'uniform', got 'he'$"),
        ({"padding": -1}, "^LeNet5: padding must be >= 0, got -1$"),
    ],
)
def test_wrong_settings(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LeNet5(**settings)
