"""LeNet5 of 1998: the paper's counts, its formulas unit by unit, its criterion, its first weights."""

import math

import pytest
import torch
import torch.nn.functional as F

from lightning_optreg.nets import LeNet5
from lightning_optreg.nets.lenet5_units import C3_TABLE, CodeDistance, Subsampling, TableConv2d

PAPER = {"activation": "tanh", "pool": "trainable", "c3": "table", "output": "rbf", "init": "uniform"}
# Table I of the paper: rows are maps of S2, columns maps of C3.
TABLE_I = """
X . . . X X X . . X X X X . X X
X X . . . X X X . . X X X X . X
X X X . . . X X X . . X . X X X
. X X X . . X X X X . . X . X X
. . X X X . . X X X X . X X . X
. . . X X X . . X X X X . X X X
"""


def test_parameters_are_those_of_the_paper() -> None:
    net = LeNet5(**PAPER)
    counts = {name: sum(p.numel() for p in layer.parameters()) for name, layer in net.named_children()}
    assert {name: count for name, count in counts.items() if count} == {
        "c1": 156,
        "s2": 12,
        "c3": 1_516,
        "s4": 32,
        "c5": 48_120,
        "f6": 10_164,
    }
    assert sum(counts.values()) == 60_000
    assert sum(p.numel() for p in net.parameters() if p.requires_grad) == 60_000


def test_c3_has_the_papers_table() -> None:
    rows = [line.split() for line in TABLE_I.split("\n") if line]
    columns = [tuple(s2 for s2, row in enumerate(rows) if row[c3] == "X") for c3 in range(16)]
    assert tuple(columns) == C3_TABLE
    assert sum(map(len, C3_TABLE)) == 60


def test_a_table_convolution_sees_its_maps_and_no_others() -> None:
    torch.manual_seed(0)
    layer = TableConv2d(6, C3_TABLE, 5).double()
    torch.nn.init.normal_(layer.weight)
    torch.nn.init.normal_(layer.bias)
    x = torch.randn(2, 6, 14, 14, dtype=torch.float64)
    outputs, kernel = [], 0
    for to, row in enumerate(C3_TABLE):
        kernels = layer.weight[kernel : kernel + len(row)]
        outputs.append(F.conv2d(x[:, list(row)], kernels[None], layer.bias[to : to + 1]))
        kernel += len(row)
    torch.testing.assert_close(layer(x), torch.cat(outputs, dim=1))
    assert torch.autograd.gradcheck(
        TableConv2d(2, [(0,), (0, 1)], 2).double(),
        torch.randn(1, 2, 3, 3, dtype=torch.float64, requires_grad=True),
    )
    full = TableConv2d(3, [(0, 1, 2)] * 4, 3)
    torch.nn.init.normal_(full.weight)
    torch.testing.assert_close(full.full_weight(), full.weight.view(4, 3, 3, 3), rtol=0, atol=0)


def test_subsampling_adds_multiplies_and_adds() -> None:
    layer = Subsampling(3)
    x = torch.randn(2, 3, 7, 6)
    torch.testing.assert_close(layer(x), F.avg_pool2d(x, 2))  # its first coefficients
    torch.nn.init.normal_(layer.weight)
    torch.nn.init.normal_(layer.bias)
    sums = sum(x[:, :, i:6:2, j::2] for i in (0, 1) for j in (0, 1))
    torch.testing.assert_close(layer(x), sums * layer.weight.view(3, 1, 1) + layer.bias.view(3, 1, 1))


def test_scores_against_the_formulas() -> None:
    torch.manual_seed(0)
    net = LeNet5(**PAPER).double()
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    w = net.state_dict()

    def f(a: torch.Tensor) -> torch.Tensor:
        return 1.7159 * torch.tanh(2 * a / 3)

    def subsample(z: torch.Tensor, name: str) -> torch.Tensor:
        sums = sum(z[:, :, i::2, j::2] for i in (0, 1) for j in (0, 1))
        coefficient, bias = (w[f"{name}.0.{kind}"].view(-1, 1, 1) for kind in ("weight", "bias"))
        return f(coefficient * sums + bias)

    x = torch.randn(3, 1, 28, 28, dtype=torch.float64)
    z = subsample(f(F.conv2d(x, w["c1.weight"], w["c1.bias"], padding=2)), "s2")
    z = subsample(f(F.conv2d(z, net.c3.full_weight(), w["c3.bias"])), "s4")
    z = f(z.flatten(1) @ w["c5.weight"].T + w["c5.bias"])
    z = f(z @ w["f6.weight"].T + w["f6.bias"])
    distances = torch.stack([(z - code).square().sum(1) for code in w["output.codes"]], dim=1)
    torch.testing.assert_close(net(x), -distances)
    # Equation 9 without the rubbish class: y of the true class + log sum exp(-y).
    labels = torch.tensor([3, 1, 9])
    criterion = distances[range(3), labels] + torch.log(torch.exp(-distances).sum(1))
    torch.testing.assert_close(F.cross_entropy(net(x), labels), criterion.mean())


def test_codes_are_fixed_different_and_balanced() -> None:
    state = torch.get_rng_state()
    codes = CodeDistance(84, 10).codes
    assert torch.equal(torch.get_rng_state(), state)
    assert codes.shape == (10, 84)
    assert set(codes.unique().tolist()) == {-1.0, 1.0}
    assert torch.equal(codes, CodeDistance(84, 10).codes)
    # Random codes differ in 42 of 84 places, standard deviation sqrt(84) / 2 = 4.6.
    distances = torch.cdist(codes, codes).square()[~torch.eye(10, dtype=torch.bool)] / 4
    assert abs(distances.mean() - 42) < 5
    assert distances.min() > 42 - 5 * 4.6
    small = CodeDistance(2, 4).codes  # as many as there are
    assert sorted(map(tuple, small.tolist())) == [(-1, -1), (-1, 1), (1, -1), (1, 1)]


def test_scores_of_a_code_are_best_for_its_class() -> None:
    output = CodeDistance(84, 10)
    scores = output(output.codes)
    assert torch.equal(scores.diagonal(), torch.zeros(10))
    assert torch.equal(scores.argmax(1), torch.arange(10))


def test_initial_weights() -> None:
    torch.manual_seed(0)
    net = LeNet5(**PAPER)
    for layer, fan_in in ((net.c1, 25), (net.c5, 400), (net.f6, 120), (net.s2[0], 4), (net.s4[0], 4)):
        bound = 2.4 / fan_in
        largest = layer.weight.abs().max()
        # All of n values stay below a part q of the bound with probability q^n.
        assert bound * 1e-6 ** (1 / layer.weight.numel()) < largest <= bound
    for init in ("uniform", "normal"):
        net = LeNet5(**PAPER | {"init": init})
        for weights, row in zip(net.c3.weights_of_maps(), C3_TABLE, strict=True):
            fan_in = 25 * len(row)
            std = 2.4 / fan_in / math.sqrt(3) if init == "uniform" else math.sqrt(1 / fan_in)
            kurtosis = 1.8 if init == "uniform" else 3.0
            ratio = weights.var().item() / std**2
            assert abs(ratio - 1) < 5 * math.sqrt((kurtosis - 1) / fan_in)
        assert not any(layer.bias.any() for layer in (net.c1, net.s2[0], net.c3, net.s4[0], net.c5, net.f6))


def test_the_default_draws_what_it_always_drew() -> None:
    torch.manual_seed(0)
    net = LeNet5()
    torch.manual_seed(0)
    shapes = [(6, 1, 5, 5), (16, 6, 5, 5), (120, 400), (84, 120), (10, 84)]
    convolutions = [torch.nn.Conv2d(1, 6, 5), torch.nn.Conv2d(6, 16, 5)]
    linear = [torch.nn.Linear(*reversed(shape)) for shape in shapes[2:]]
    for layer in (*convolutions, *linear):
        torch.nn.init.kaiming_normal_(layer.weight, nonlinearity="linear" if layer is linear[-1] else "relu")
    weights = [value for name, value in net.state_dict().items() if name.endswith("weight")]
    assert [tuple(weight.shape) for weight in weights] == shapes
    assert all(
        torch.equal(*pair)
        for pair in zip(weights, [layer.weight for layer in (*convolutions, *linear)], strict=True)
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Subsampling(0), "^Subsampling: maps must be >= 1, got 0$"),
        (lambda: TableConv2d(6, [], 5), "^TableConv2d: in_channels, kernel_size and the table's length"),
        (lambda: TableConv2d(2, [(0,), ()], 5), r"different numbers in \[0, 2\), got \(\)$"),
        (lambda: TableConv2d(2, [(0, 2)], 5), r"different numbers in \[0, 2\), got \(0, 2\)$"),
        (lambda: TableConv2d(2, [(1, 1)], 5), r"different numbers in \[0, 2\), got \(1, 1\)$"),
        (lambda: CodeDistance(0, 2), "^CodeDistance: features must be >= 1, got 0$"),
        (lambda: CodeDistance(2, 5), r"^CodeDistance: num_classes must be in \[2, 2\^features = 4\], got 5$"),
    ],
)
def test_wrong_settings(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
