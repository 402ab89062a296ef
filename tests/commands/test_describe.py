"""The table of layers against hand-computed LeNet-5 and VGG-16, and the command's answers."""

import subprocess
import sys
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torchvision
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from lightning_optreg import nets
from lightning_optreg.analysis import LayerRow, describe, format_table, total
from lightning_optreg.commands.describe import main
from lightning_optreg.nets import MLP, LeNet5, ResNet, SoftmaxRegression

# name, kind, output, activations, parameters, multiply-adds, biases
LENET5 = [
    ("input", "", (1, 1, 28, 28), 28 * 28, 0, 0),
    ("c1", "Conv2d", (1, 6, 28, 28), 6 * 28 * 28, 6 * (25 + 1), 6 * 28 * 28 * 25, 6),
    ("activation", "ReLU", (1, 6, 28, 28), 6 * 28 * 28, 0, 0),
    ("s2", "MaxPool2d", (1, 6, 14, 14), 6 * 14 * 14, 0, 0),
    ("c3", "Conv2d", (1, 16, 10, 10), 16 * 100, 16 * (6 * 25 + 1), 16 * 100 * 6 * 25, 16),
    ("activation", "ReLU", (1, 16, 10, 10), 16 * 100, 0, 0),
    ("s4", "MaxPool2d", (1, 16, 5, 5), 400, 0, 0),
    ("c5", "Linear", (1, 120), 120, 120 * 401, 120 * 400, 120),
    ("activation", "ReLU", (1, 120), 120, 0, 0),
    ("f6", "Linear", (1, 84), 84, 84 * 121, 84 * 120, 84),
    ("activation", "ReLU", (1, 84), 84, 0, 0),
    ("output", "Linear", (1, 10), 10, 10 * 85, 10 * 84, 10),
]


def test_lenet5_by_hand() -> None:
    rows = describe(LeNet5(), (1, 28, 28))
    assert rows == [LayerRow(*row) for row in LENET5]
    assert total(rows).parameters == 61_706
    assert total(rows).weights == 61_706 - 236
    assert total(rows).multiply_adds == 416_520
    assert [row.memory for row in rows[:2]] == [4 * 784, 4 * 4704]


# Memory in numbers, as rounded by the lecture, and weights of VGG-16.
LECTURE_VGG16 = [
    ("INPUT", "150K", 0),
    ("CONV3-64", "3.2M", 1_728),
    ("CONV3-64", "3.2M", 36_864),
    ("POOL2", "800K", 0),
    ("CONV3-128", "1.6M", 73_728),
    ("CONV3-128", "1.6M", 147_456),
    ("POOL2", "400K", 0),
    ("CONV3-256", "800K", 294_912),
    ("CONV3-256", "800K", 589_824),
    ("CONV3-256", "800K", 589_824),
    ("POOL2", "200K", 0),
    ("CONV3-512", "400K", 1_179_648),
    ("CONV3-512", "400K", 2_359_296),
    ("CONV3-512", "400K", 2_359_296),
    ("POOL2", "100K", 0),
    ("CONV3-512", "100K", 2_359_296),
    ("CONV3-512", "100K", 2_359_296),
    ("CONV3-512", "100K", 2_359_296),
    ("POOL2", "25K", 0),
    ("FC", "4096", 102_760_448),
    ("FC", "4096", 16_777_216),
    ("FC", "1000", 4_096_000),
]


def lecture_rounds(count: int) -> str:
    """Two digits, as the lecture rounds: 3,211,264 is 3.2M, 802,816 is 800K, 4,096 stays."""
    if count >= 1_000_000:
        return f"{count / 1e6:.1f}M"
    if count >= 200_000:
        return f"{count / 1e5:.0f}00K"
    return f"{5 * round(count / 5e3)}K" if count >= 10_000 else str(count)


def test_the_command_prints_the_lectures_vgg16_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--net", "VGG", "--net.depth", "16"]) == 0
    title, header, _, *lines, _, last = capsys.readouterr().out.splitlines()
    assert title == "VGG on 1x3x224x224"
    assert header.split()[3:] == ["activations", "memory", "weights", "parameters", "multiply-adds"]
    rows = [line.split() for line in lines]
    # What writes no numbers has no line in the lecture: ReLU in place, dropout.
    shown = [row for row in rows if row[-6] != "0"]
    numbers = [
        (lecture_rounds(int(row[-6].replace(",", ""))), int(row[-3].replace(",", ""))) for row in shown
    ]
    assert numbers == [line[1:] for line in LECTURE_VGG16]
    assert {row[1] for row in rows if row[-6] == "0"} == {"ReLU", "Dropout"}
    kinds = {"INPUT": "1x3x224x224", "CONV": "Conv2d", "POOL": "MaxPool2d", "FC": "Linear"}
    for row, (name, *_) in zip(shown, LECTURE_VGG16, strict=True):
        assert row[1] == next(kind for start, kind in kinds.items() if name.startswith(start))
        if name.startswith("CONV"):
            assert row[2].split("x")[1] == name.partition("-")[2]
    # 138M parameters. The lecture's total of 24M numbers in memory is not its lines' sum: that is 15.2M.
    activations, _, _, weights, parameters, _ = last.split()[1:]
    assert (weights, parameters) == ("138,344,128", "138,357,544")
    assert activations == "15,237,608"


def test_torchvisions_vgg16_has_the_lectures_table_too() -> None:
    with torch.device("meta"):
        net = torchvision.models.vgg16()
    rows = describe(net, (3, 224, 224))
    shown = [row for row in rows if row.kind in ("", "Conv2d", "MaxPool2d", "Linear")]
    weights = {
        name: module.weight.numel() for name, module in net.named_modules() if hasattr(module, "weight")
    }
    # Layer by layer: activations and weights (the lecture counts no biases).
    expected = [(224 * 224 * 3, 0)]
    size, channels = 224, 3
    for width, convolutions in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(convolutions):
            expected.append((size * size * width, 9 * channels * width))
            channels = width
        size //= 2
        expected.append((size * size * width, 0))
    expected += [(4096, 7 * 7 * 512 * 4096), (4096, 4096 * 4096), (1000, 4096 * 1000)]
    assert [(row.activations, weights.get(row.name, 0)) for row in shown] == expected
    assert total(rows).parameters == sum(p.numel() for p in net.parameters()) == 138_357_544
    # In-place ReLUs and dropout in evaluation write nothing.
    assert {row.activations for row in rows if row.kind in ("ReLU", "Dropout")} == {0}
    # Every weight of a convolution is used at each of its output positions, of a linear layer once.
    products = sum(
        weights[row.name] * (row.output[2] * row.output[3] if row.kind == "Conv2d" else 1)
        for row in shown
        if row.name in weights
    )
    assert total(rows).multiply_adds == products


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (SoftmaxRegression, (1, 28, 28)),
        (partial(MLP, dropout=0.5), (1, 28, 28)),
        (partial(LeNet5, input_shape=(3, 32, 32)), (3, 32, 32)),
        (partial(ResNet, input_shape=(3, 32, 32), shortcut="B"), (3, 32, 32)),
        (torchvision.models.vit_b_32, (3, 224, 224)),  # attention uses weights of a layer it never calls
        pytest.param(torchvision.models.densenet121, (3, 64, 64), marks=pytest.mark.slow),
        pytest.param(torchvision.models.swin_t, (3, 64, 64), marks=pytest.mark.slow),
        pytest.param(  # side outputs that are not used
            partial(torchvision.models.googlenet, init_weights=False), (3, 224, 224), marks=pytest.mark.slow
        ),
    ],
)
def test_rows_add_up_to_the_whole(make: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    with torch.device("meta"):
        net = make()
    rows = describe(net, shape)
    assert total(rows).parameters == sum(p.numel() for p in net.parameters())
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net.eval()(torch.empty(1, *shape, device="meta"))
    assert 2 * total(rows).multiply_adds == counter.get_total_flops() > 0


def test_activations_and_multiply_adds_grow_with_the_batch() -> None:
    one, many = (describe(LeNet5(), (1, 28, 28), batch_size) for batch_size in (1, 64))
    for row, rows in zip(one, many, strict=True):
        assert rows.output == (64, *row.output[1:])
        assert rows.activations == 64 * row.activations
        assert rows.multiply_adds == 64 * row.multiply_adds
        assert rows.parameters == row.parameters


def test_shared_layers_and_tied_weights_are_counted_once() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(4, 4)
            self.tied = nn.Linear(4, 4, bias=False)
            self.tied.weight = self.first.weight
            self.unused = nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.tied(self.first(self.first(x)))

    net = Shared()
    rows = describe(net, (4,))
    assert [(row.name, row.parameters, row.multiply_adds) for row in rows] == [
        ("input", 0, 0),
        ("first", 20, 16),
        ("first", 0, 16),
        ("tied", 0, 16),
        ("unused", 10, 0),
    ]
    assert rows[-1].kind == "Linear (not called)"
    assert total(rows).parameters == sum(p.numel() for p in net.parameters()) == 30


def test_modules_with_weights_of_their_own_have_a_row() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(5, 3))
            self.child = nn.Linear(5, 2)

        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"scores": self.child(x @ self.weight.T)}

    rows = describe(nn.Sequential(nn.Identity(), Own()), (3,), batch_size=2)
    assert [(row.name, row.output, row.parameters, row.multiply_adds) for row in rows] == [
        ("input", (2, 3), 0, 0),
        ("0", (2, 3), 0, 0),
        ("1.child", (2, 2), 12, 20),
        ("1", (2, 2), 15, 30),
    ]
    assert rows[1].activations == 0  # the identity hands its input on


def test_the_network_is_left_as_it_was() -> None:
    torch.manual_seed(0)
    net = ResNet(input_shape=(3, 8, 8), depth=8)
    net.stage1.eval()
    state = {name: value.clone() for name, value in net.state_dict().items()}
    modes = [module.training for module in net.modules()]
    random_state = torch.get_rng_state()
    rows = describe(net, (3, 8, 8))
    with pytest.raises(RuntimeError):
        describe(net, (1, 8, 8))
    assert [module.training for module in net.modules()] == modes
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random_state)
    assert next(net.parameters()).device.type == "cpu"
    count = len(rows)
    net(torch.zeros(2, 3, 8, 8))  # a hook left behind would add rows
    assert len(rows) == count


# ---- what is no part of the network ------------------------------------------------------------------------


class Net(nn.Module):
    """Calls a function with itself and its input."""

    def __init__(self, forward: Callable[["Net", torch.Tensor], torch.Tensor], **attributes: object) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.call = forward
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.call(self, self.first(x))


def counts(net: nn.Module) -> list[tuple[str, str, int]]:
    return [(row.name, row.kind, row.parameters) for row in describe(net, (4,))[1:]]


def test_tensors_in_plain_attributes() -> None:
    scale, shifts = torch.rand(4), {"a": [torch.rand(4)], "b": (torch.rand(1),)}
    net = Net(
        lambda net, x: x * net.scale + net.shifts["a"][0] + net.shifts["b"][0], scale=scale, shifts=shifts
    )
    assert counts(net) == [("first", "Linear", 20)]
    assert net.scale is scale
    assert net.shifts is shifts
    assert net.shifts["a"][0].device.type == "cpu"
    shared = Net(lambda net, x: x @ net.again[0])
    shared.again = [shared.first.weight]  # a second reference to what is registered
    assert counts(shared) == [
        ("first", "Linear", 20),
        ("", "Net", 0),
    ]  # which has a matrix product of its own


def test_tensors_made_on_the_way() -> None:
    assert counts(Net(lambda net, x: x + torch.arange(4))) == [("first", "Linear", 20)]
    assert counts(Net(lambda net, x: x * torch.arange(4)[2].item())) == [("first", "Linear", 20)]


@pytest.mark.parametrize(
    ("attribute", "call", "message"),
    [
        ([nn.Linear(4, 2)], lambda net, x: net.more[0](x), "layers in a plain list.*nn.ModuleList"),
        ((nn.Linear(4, 2),), lambda net, x: net.more[0](x), "layers in a plain tuple.*nn.ModuleList"),
        ([[nn.Linear(4, 2)]], lambda net, x: net.more[0][0](x), "layers in a plain list.*nn.ModuleList"),
        ({"a": nn.Linear(4, 2)}, lambda net, x: net.more["a"](x), "layers in a plain dict.*nn.ModuleDict"),
        ([nn.Sequential(nn.Linear(4, 2))], lambda net, x: net.more[0][0](x), "layers in a plain list"),
        (
            [nn.Parameter(torch.ones(4))],
            lambda net, x: x * net.more[0],
            "parameters in a plain list.*ParameterList",
        ),
    ],
)
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_layers_that_are_not_registered_are_refused(
    attribute: object, call: Any, message: str, device: str
) -> None:
    with torch.device(device):
        net = nn.Sequential(Net(call, more=attribute))
    with pytest.raises(ValueError, match=rf"^describe: 0\.more of Sequential holds {message}") as error:
        describe(net, (4,))
    assert "\n" not in str(error.value)
    if device == "cpu":
        net(torch.zeros(1, 4))  # nothing is left behind


def test_layers_that_are_only_kept_may_be_anywhere() -> None:
    net = Net(lambda net, x: net.named(x), teacher=[nn.Linear(4, 4)], named=nn.ReLU())
    net.layers = [net.first, net.named]  # for going through them
    assert counts(net) == [("first", "Linear", 20), ("named", "ReLU", 0)]


def test_lazy_layers_get_their_size() -> None:
    net = nn.Sequential(nn.LazyConv2d(6, 5), nn.LazyBatchNorm2d(), nn.Flatten(), nn.LazyLinear(10))
    rows = describe(net, (3, 8, 8), batch_size=2)
    assert [(row.kind, row.output, row.parameters) for row in rows[1:]] == [
        ("Conv2d", (2, 6, 4, 4), 6 * (3 * 25 + 1)),
        ("BatchNorm2d", (2, 6, 4, 4), 12),
        ("Flatten", (2, 96), 0),
        ("Linear", (2, 10), 970),
    ]
    assert [type(layer) for layer in net] == [nn.LazyConv2d, nn.LazyBatchNorm2d, nn.Flatten, nn.LazyLinear]
    assert net(torch.zeros(2, 1, 9, 9)).shape == (2, 10)  # still free to take another size
    with pytest.raises(ValueError, match=r"^describe: unused is a lazy layer that is never called"):
        describe(Net(lambda net, x: x, unused=nn.LazyLinear(3)), (4,))


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (nn.Sequential(nn.Identity(), nn.Linear(3, 2)), r"1 \(Linear\) fails: .*same reduction dim"),
        (Net(lambda net, x: x if x.sum() > 0 else -x), r"the network \(Net\) needs the numbers in a tensor"),
        (nn.Sequential(Net(lambda net, x: torch.from_numpy(x.numpy()))), r"0 \(Net\) needs the numbers"),
        (
            Net(lambda net, x: x * OUTSIDE),
            r"the network \(Net\) uses a tensor that is not part of .* \(register_buffer\)",
        ),
        (
            Net(lambda net, x: net.missing(x)),
            r"the network \(Net\) fails: 'Net' object has no attribute 'missing'",
        ),
        (nn.Sequential(nn.LazyLinear(3), nn.Linear(2, 2)), "Sequential fails: .*same reduction dim"),
    ],
)
def test_a_layer_that_fails_is_named(net: nn.Module, message: str) -> None:
    with pytest.raises(RuntimeError, match=f"^describe: {message}") as error:
        describe(net, (4,))
    assert "\n" not in str(error.value)


OUTSIDE = torch.ones(4)


def test_script_modules_are_refused() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net = torch.jit.script(nn.Linear(4, 4))
    with pytest.raises(ValueError, match=r"^describe: a ScriptModule can't be watched"):
        describe(net, (4,))


def test_wrong_sizes() -> None:
    with pytest.raises(ValueError, match=r"^describe: input_shape must be numbers >= 1, got \(1, 0, 28\)$"):
        describe(LeNet5(), (1, 0, 28))
    with pytest.raises(ValueError, match=r"^describe: batch_size must be >= 1, got 0$"):
        describe(LeNet5(), (1, 28, 28), 0)


def test_memory_has_units_that_suit_it() -> None:
    rows = [LayerRow("x", "X", (n,), n, 0, 0) for n in (1, 255, 256, 2**18, 2**28, 2**38, 2**50)]
    lines = format_table(rows).splitlines()[2:-2]
    assert [line.split()[4:6] for line in lines] == [
        ["4", "B"],
        ["1020", "B"],
        ["1.0", "KiB"],
        ["1.0", "MiB"],
        ["1.0", "GiB"],
        ["1.0", "TiB"],
        ["4096.0", "TiB"],
    ]


def test_command_prints_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--net", "ResNet", "--net.depth", "20", "--input_shape", "3", "32", "32"]) == 0
    output, errors = capsys.readouterr()
    with torch.device("meta"):
        rows = describe(ResNet(input_shape=(3, 32, 32), depth=20), (3, 32, 32))
    assert output == f"ResNet on 1x3x32x32\n{format_table(rows)}\n"
    assert errors == ""
    stem = 9 * 3 * 16 * 32**2
    stage1 = 6 * 9 * 16 * 16 * 32**2
    stage2 = 9 * (16 * 32 + 5 * 32 * 32) * 16**2
    stage3 = 9 * (32 * 64 + 5 * 64 * 64) * 8**2
    products = stem + stage1 + stage2 + stage3 + 64 * 10
    assert output.splitlines()[-1].split()[-2:] == ["269,722", f"{products:,}"]


@pytest.mark.parametrize(
    "shape", [["3", "32", "32"], ["[3,32,32]"], ["[3, 32, 32]"], ["3,32,32"], ["3x32x32"]]
)
def test_command_gives_the_network_its_input_shape(
    shape: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--input_shape", *shape, "--net", "MLP", "--net.hidden=[7]", "--batch_size", "2"]) == 0
    output = capsys.readouterr().out
    assert output.startswith("MLP on 2x3x32x32\n")
    assert f"{3072 * 7 + 7:,}" in output


def test_command_uses_the_networks_own_input_shape(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--net", "LeNet5"]) == 0
    assert capsys.readouterr().out.startswith("LeNet5 on 1x1x28x28\n")
    assert main(["--net", "lightning_optreg.nets.LeNet5", "--net.input_shape", "[2,16,20]"]) == 0
    assert capsys.readouterr().out.startswith("LeNet5 on 1x2x16x20\n")


@pytest.mark.parametrize("name", ["resnet18", pytest.param("swin_t", marks=pytest.mark.slow)])
def test_command_takes_anyones_network(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["--net", f"torchvision.models.{name}", "--net.num_classes", "7", "--input_shape", "3", "64", "64"]
    assert main(argv) == 0
    parameters = sum(p.numel() for p in getattr(torchvision.models, name)(num_classes=7).parameters())
    assert capsys.readouterr().out.splitlines()[-1].split()[-2] == f"{parameters:,}"


def test_command_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    assert "usage: lightning-optreg describe --net NAME" in capsys.readouterr().out
    assert main(["--net", "ResNet", "--help"]) == 0
    assert "--net.shortcut {auto,A,B,none}" in capsys.readouterr().out


NETS = ", ".join(sorted(set(nets.__all__) - {"Network"}, key=str.lower))
RESNET18 = "torchvision.models.resnet18"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], f"--net is missing; known: {NETS}, or the path of"),
        (["--net"], "--net: expected one argument"),
        (["--net", "resnet"], "unknown network 'resnet'; did you mean ResNet"),
        (["--net", "Zebra"], f"unknown network 'Zebra'; known: {NETS}, or"),
        (["--net", "..ResNet"], "unknown network '..ResNet'; did you mean ResNet"),
        (["--net", "torchvison.models.vgg16"], "cannot import 'torchvison.models' for --net torchvison"),
        (
            ["--net", "torchvision.models.resnet19"],
            "has no class or function 'resnet19'; did you mean resnet18",
        ),
        (["--net", "torchvision.models.resnet"], "has no class or function 'resnet'; did you mean ResNet"),
        (["--net", "builtins.dict"], "builtins.dict is neither a torch.nn.Module nor a function"),
        (["--net", "torch.relu", "--input_shape", "1", "2", "3"], "torch.relu is neither a torch.nn.Module"),
        (["--net", RESNET18], f"{RESNET18} does not say what images it takes; give --input_shape C H W"),
        (["--net", RESNET18, "--input_shape", "1", "8", "8"], "cannot take an input of 1x1x8x8: "),
        (
            ["--net", "ResNet", "--net.dept", "20"],
            "unknown option --net.dept for ResNet; did you mean --net.depth",
        ),
        (["--net", "ResNet", "--dept=20"], "unknown option --dept for ResNet"),
        (["--net", "ResNet", "--net.depth"], "--net.depth: expected one argument"),
        (["--net", "ResNet", "--net.depth", "x"], "net.depth"),
        (["--net", "ResNet", "--net.depth", "21"], "ResNet: depth must be 6n + 2 with n >= 1"),
        (["--net", "ResNet", "--net.shortcut", "C"], "net.shortcut"),
        (["--net", "ResNet", "20"], "unrecognized arguments: 20"),
        (["--net", "LeNet5", "--input_shape", "1", "8", "8"], "height and width must be >= 12, got 8x8"),
        (["--net", "LeNet5", "--input_shape", "28", "28"], "--input_shape must be three whole numbers >= 1"),
        (["--net", "LeNet5", "--input_shape", "1", "0", "28"], "--input_shape must be three whole numbers"),
        (["--net", "LeNet5", "--input_shape", "1", "-2", "28"], "--input_shape must be three whole numbers"),
        (["--net", "LeNet5", "--input_shape", "a,b,c"], "--input_shape must be three whole numbers"),
        (
            ["--net", "LeNet5", "--input_shape", "1", "28", "28", "--net.input_shape", "[1,28,28]"],
            "give --input_shape or --net.input_shape, not both",
        ),
        (["--net", "LeNet5", "--batch_size", "0"], "--batch_size must be >= 1, got 0"),
        (["--net", "LeNet5", "--batch_size", "many"], "--batch_size: invalid int value: 'many'"),
    ],
)
def test_wrong_arguments_end_in_one_line(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(argv) == 2
    output, errors = capsys.readouterr()
    assert output == ""
    assert len(errors.splitlines()) == 1
    assert errors.startswith("error: ")
    assert message in errors


def test_the_command_needs_no_lightning_and_no_torchvision() -> None:
    program = (
        "import sys; from lightning_optreg.commands.describe import main; "
        "status = main(['--net', 'LeNet5']); "
        "heavy = {'lightning', 'torchvision', 'torchmetrics', 'matplotlib'} & set(sys.modules); "
        "sys.exit(f'imported {heavy}' if heavy else status)"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert "61,706" in run.stdout


@pytest.mark.slow
def test_resnet_1202_takes_no_memory_for_its_weights() -> None:
    with torch.device("meta"):
        net = ResNet(input_shape=(3, 32, 32), depth=1202)
    rows = describe(net, (3, 32, 32))
    assert total(rows).parameters == 19_421_274
    assert sum(row.kind == "Conv2d" for row in rows) == 1201
