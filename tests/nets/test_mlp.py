"""MLP against its formula, its initialisation and its options."""

import math

import pytest
import torch
from torch import nn

from lightning_optreg.layers import DropConnect
from lightning_optreg.nets import MLP
from lightning_optreg.nets.mlp import ACTIVATIONS


def test_scores_are_those_of_the_formula() -> None:
    torch.manual_seed(0)
    net = MLP(num_classes=3, input_shape=(2, 3, 3), hidden=[7, 5], activation="Tanh").double()
    x = torch.randn(4, 2, 3, 3, dtype=torch.float64)
    linear = [layer for layer in net.layers if isinstance(layer, nn.Linear)]
    h = x.reshape(4, 18)
    for layer in linear[:-1]:
        h = torch.tanh(h @ layer.weight.T + layer.bias)
    torch.testing.assert_close(net(x), h @ linear[-1].weight.T + linear[-1].bias)


def test_parameter_count() -> None:
    net = MLP(num_classes=10, input_shape=(1, 28, 28), hidden=(256, 128))
    assert sum(p.numel() for p in net.parameters()) == 784 * 256 + 256 + 256 * 128 + 128 + 128 * 10 + 10


def test_no_hidden_layer_is_a_linear_classifier() -> None:
    net = MLP(num_classes=10, input_shape=(1, 4, 4), hidden=[])
    assert [type(layer) for layer in net.layers] == [nn.Linear]
    assert net(torch.zeros(2, 1, 4, 4)).shape == (2, 10)


def test_he_initialisation_keeps_the_size_of_activations() -> None:
    torch.manual_seed(0)
    net = MLP(num_classes=10, input_shape=(1, 40, 40), hidden=[1000] * 6)
    for layer in net.layers:
        if isinstance(layer, nn.Linear):
            gain = 1.0 if layer is net.layers[-1] else 2.0
            std = math.sqrt(gain / layer.in_features)
            # The standard error of a standard deviation is std / sqrt(2 n); five of them.
            assert abs(layer.weight.std().item() - std) < 5 * std / math.sqrt(2 * layer.weight.numel())
            assert not layer.bias.any()
    second_moments = []
    h = torch.randn(256, 1600)
    for layer in net.layers[:-1]:
        h = layer(h)
        if isinstance(layer, nn.ReLU):
            second_moments.append(h.square().mean().item())
    assert all(0.7 < moment < 1.4 for moment in second_moments)  # 1 in expectation, at every depth


def test_dropout_acts_in_training_only() -> None:
    torch.manual_seed(0)
    net = MLP(num_classes=2, input_shape=(1, 10, 10), hidden=[50], dropout=0.5)
    x = torch.randn(3, 1, 10, 10)
    assert not torch.equal(net(x), net(x))
    net.eval()
    assert torch.equal(net(x), net(x))
    assert not any(isinstance(layer, nn.Dropout) for layer in MLP(dropout=0.0).layers)
    assert [layer.p for layer in net.layers if isinstance(layer, nn.Dropout)] == [0.5]


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation(activation: str) -> None:
    net = MLP(num_classes=2, input_shape=(1, 2, 2), hidden=[3], activation=activation)
    assert type(net.layers[1]) is getattr(nn, activation)
    assert net(torch.randn(2, 1, 2, 2)).isfinite().all()


def test_the_list_of_activations_is_torchs() -> None:
    # Left out: those that mix units, have no use without arguments or aren't exported by torch.nn.
    others = {"GLU", "LogSoftmax", "MultiheadAttention", "Softmax", "Softmax2d", "Softmin", "Threshold"}
    assert set(ACTIVATIONS) == set(nn.modules.activation.__all__) - others


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hidden": [10, 0]}, r"^MLP: hidden must be numbers of units >= 1, got \[10, 0\]$"),
        ({"dropout": 1.0}, r"^MLP: dropout must be in \[0, 1\), got 1.0$"),
        ({"dropout": -0.1}, r"^MLP: dropout must be in \[0, 1\), got -0.1$"),
        ({"dropout": float("nan")}, r"^MLP: dropout must be in \[0, 1\), got nan$"),
        ({"drop_connect": float("nan")}, r"^MLP: drop_connect must be in \[0, 1\), got nan$"),
        ({"drop_connect": 0.5, "hidden": [9]}, r"^MLP: drop_connect must be 0 with .*, got 0.5$"),
        ({"drop_connect": 0.5, "batch_norm": True}, r"^MLP: drop_connect must be 0 with .*, got 0.5$"),
        ({"activation": "relu"}, r"^MLP: activation must be .*, got 'relu'; did you mean ReLU"),
        ({"activation": "Linear"}, r"^MLP: activation must be .*, got 'Linear'; known: CELU"),
    ],
)
def test_wrong_settings(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MLP(**settings)


@pytest.mark.parametrize(("activation", "inference"), [("ReLU", "relu"), ("Tanh", "sampling")])
def test_drop_connect_is_in_all_hidden_layers_but_the_first(activation: str, inference: str) -> None:
    net = MLP(2, (1, 2, 2), hidden=[6, 5, 4], activation=activation, drop_connect=0.3)
    kinds = ["Linear", activation, "DropConnect", "DropConnect", "Linear"]
    assert [type(layer).__name__ for layer in net.layers] == kinds
    layers = [layer for layer in net.layers if isinstance(layer, DropConnect)]
    assert {(layer.p, layer.inference, type(layer.activation).__name__) for layer in layers} == {
        (0.3, inference, activation)
    }
    plain = MLP(2, (1, 2, 2), hidden=[6, 5, 4], activation=activation)
    assert [p.shape for p in net.parameters()] == [p.shape for p in plain.parameters()]


def test_batch_norm_stands_before_the_nonlinearity() -> None:
    net = MLP(2, (1, 2, 2), hidden=[6], batch_norm=True, dropout=0.1)
    kinds = ["Linear", "BatchNorm1d", "ReLU", "Dropout", "Linear"]
    assert [type(layer).__name__ for layer in net.layers] == kinds
    hidden, output = net.layers[0], net.layers[-1]
    assert hidden.bias is None
    assert output.bias is not None
    x = torch.randn(50, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    u = x.flatten(1) @ hidden.weight.T
    h = torch.relu((u - u.mean(0)) / (u.var(0, unbiased=False) + 1e-5).sqrt())
    torch.testing.assert_close(net.layers[:3](x.flatten(1)), h)
