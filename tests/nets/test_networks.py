"""What every network keeps: scores of the right shape, seeds, memory formats, precisions, export, errors."""

import copy
import inspect
import io
from functools import partial

import jsonargparse
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lightning_optreg import nets
from lightning_optreg.nets import (
    MLP,
    VGG,
    AirbenchNet,
    AlexNet,
    DeepOBS2c2d,
    DeepOBS3c3d,
    EnResNet,
    GoogLeNet,
    LeNet5,
    Network,
    ResNet,
    ResNeXt,
    SoftmaxRegression,
    WideResNet,
    ZFNet,
)
from lightning_optreg.nets.lenet5_units import CodeDistance

SHAPE = (3, 20, 16)
# No strided 1x1 convolution of fewer than 8 channels: in channels-last its gradient writes past its memory
# on CPUs without AVX-512 (oneDNN 3.12, https://github.com/uxlfoundation/oneDNN/issues/6035).
NARROW = {"channels": (8, 16, 16, 16, 16), "hidden": 32}
NETS = {
    "softmax_regression": partial(SoftmaxRegression, num_classes=4, input_shape=SHAPE),
    "mlp": partial(MLP, num_classes=4, input_shape=SHAPE, hidden=[12, 8], activation="GELU", dropout=0.3),
    "lenet5": partial(LeNet5, num_classes=4, input_shape=SHAPE),
    "lenet5_1998": partial(LeNet5, num_classes=4, input_shape=SHAPE, activation="tanh", pool="average"),
    "lenet5_rbf": partial(
        LeNet5,
        num_classes=4,
        input_shape=SHAPE,
        activation="tanh",
        pool="trainable",
        c3="table",
        output="rbf",
    ),
    "airbench": partial(AirbenchNet, num_classes=4, input_shape=SHAPE, width=0.2),
    "alexnet": partial(AlexNet, num_classes=4, input_shape=SHAPE, groups=2, dropout=0.1, **NARROW),
    "zfnet": partial(ZFNet, num_classes=4, input_shape=SHAPE, dropout=0.1, **NARROW),
    "googlenet": partial(GoogLeNet, num_classes=4, input_shape=SHAPE, aux=False, width=0.1, dropout=0.0),
    "googlenet_bn": partial(
        GoogLeNet, num_classes=4, input_shape=SHAPE, form="batch_norm", aux=False, width=0.06
    ),
    "resnet_a": partial(ResNet, num_classes=4, input_shape=SHAPE, depth=8, width=4),
    "resnet_b": partial(ResNet, num_classes=4, input_shape=SHAPE, depth=8, width=8, shortcut="B"),
    "resnet_preactivation": partial(
        ResNet, num_classes=4, input_shape=SHAPE, depth=11, width=8, block="bottleneck", preactivation=True
    ),
    "resnet_imagenet": partial(
        ResNet, num_classes=4, input_shape=SHAPE, depth=18, width=8, form="imagenet", preactivation=True
    ),
    "resnet_imagenet_stem": partial(
        ResNet, num_classes=4, input_shape=SHAPE, depth=18, width=8, form="imagenet", stem="imagenet"
    ),
    "resnet_stochastic_depth": partial(
        ResNet, num_classes=4, input_shape=SHAPE, depth=8, width=4, survival=0.8
    ),
    "deepobs_2c2d": partial(DeepOBS2c2d, num_classes=4, input_shape=SHAPE),
    "deepobs_3c3d": partial(DeepOBS3c3d, num_classes=4, input_shape=SHAPE),
    "en_resnet": partial(EnResNet, num_classes=4, input_shape=SHAPE, depth=8, width=8, noise_at_test=False),
    "resnext": partial(
        ResNeXt, num_classes=4, input_shape=SHAPE, depth=11, cardinality=2, width=4, channels=32
    ),
    "vgg": partial(VGG, num_classes=4, input_shape=SHAPE, depth=11, width=4, dropout=0.1),
    "vgg_bn": partial(VGG, num_classes=4, input_shape=SHAPE, depth=11, width=4, batch_norm=True),
    "wide_resnet": partial(WideResNet, num_classes=4, input_shape=SHAPE, depth=10, widen_factor=1),
}
# Those made for ImageNet and CIFAR-10, with their papers' image shapes; the others are for small grey images.
FOR_IMAGENET = {
    "AlexNet": (3, 227, 227),
    "GoogLeNet": (3, 224, 224),
    "VGG": (3, 224, 224),
    "ZFNet": (3, 224, 224),
}
FOR_CIFAR10 = {"AirbenchNet": (3, 32, 32), "DeepOBS3c3d": (3, 32, 32)}
every_net = pytest.mark.parametrize("make", NETS.values(), ids=NETS.keys())
# One of each kind of layers; the others, which take long, are slow tests.
FEW = ("mlp", "lenet5_rbf", "resnet_b", "deepobs_2c2d")
few_nets = pytest.mark.parametrize(
    "make",
    [pytest.param(make, marks=[pytest.mark.slow] * (name not in FEW)) for name, make in NETS.items()],
    ids=NETS.keys(),
)


def default_shape(name: str) -> tuple[int, int, int]:
    return {**FOR_IMAGENET, **FOR_CIFAR10}.get(name, (1, 28, 28))


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(6, *SHAPE, generator=torch.Generator().manual_seed(0))


def test_every_public_network_is_in_the_table() -> None:
    tested = {make.func.__name__ for make in NETS.values()}
    assert tested == set(nets.__all__) - {"Network"}
    assert all(issubclass(getattr(nets, name), Network) for name in tested)


@every_net
def test_defaults_are_those_of_the_papers_images_or_of_the_smallest(make: partial[Network]) -> None:
    name = make.func.__name__
    classes = 1000 if name in FOR_IMAGENET else 10
    shape = default_shape(name)
    parameters = inspect.signature(make.func).parameters
    assert parameters["num_classes"].default == classes
    assert parameters["input_shape"].default == shape
    with torch.device("meta"):
        assert make.func().eval()(torch.zeros(2, *shape)).shape == (2, classes)


@every_net
def test_scores_and_gradients(make: partial[Network], images: torch.Tensor) -> None:
    net = make()
    assert (net.num_classes, net.input_shape) == (4, SHAPE)
    scores = net(images)
    assert scores.shape == (6, 4)
    F.cross_entropy(scores, torch.tensor([0, 1, 2, 3, 0, 1])).backward()
    trained = {name: each for name, each in net.named_parameters() if each.requires_grad}
    for name, parameter in trained.items():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    first_layer = next(iter(trained.values()))
    assert first_layer.grad.abs().max() > 0


@every_net
def test_initial_weights_follow_the_seed_and_nothing_else(make: partial[Network]) -> None:
    torch.manual_seed(3)
    first = make().state_dict()
    torch.manual_seed(3)
    second = make().state_dict()
    torch.manual_seed(4)
    third = make().state_dict()
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)
    if make.func is not SoftmaxRegression:  # it starts at zero whatever the seed
        assert any(not torch.equal(first[key], third[key]) for key in first)


@every_net
def test_state_dict_round_trip(make: partial[Network], images: torch.Tensor) -> None:
    net = make()
    for parameter in net.parameters():
        nn.init.normal_(parameter)
    net(images)  # moves running statistics, if there are any
    file = io.BytesIO()
    torch.save(net.state_dict(), file)
    file.seek(0)
    other = make()
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(net.eval()(images), other.eval()(images))
    assert torch.equal(net(images), copy.deepcopy(net)(images))


@every_net
def test_channels_last_gives_the_same_scores_and_gradients(
    make: partial[Network], images: torch.Tensor
) -> None:
    net = _randomised(make).eval()
    other = copy.deepcopy(net).to(memory_format=torch.channels_last)
    scores = net(images)
    other_scores = other(images.to(memory_format=torch.channels_last))
    torch.testing.assert_close(scores, other_scores)
    scores.square().sum().backward()
    other_scores.square().sum().backward()
    trained = [[p for p in each.parameters() if p.requires_grad] for each in (net, other)]
    for one, two in zip(*trained, strict=True):
        torch.testing.assert_close(one.grad, two.grad, rtol=1e-4, atol=1e-4)


@every_net
def test_bfloat16_autocast(make: partial[Network], images: torch.Tensor) -> None:
    net = _randomised(make).eval()
    exact = net(images)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores = net(images)
    # Distances to fixed codes are no matrix product: they are computed in float32.
    exact_output = isinstance(getattr(net, "output", None), CodeDistance)
    assert scores.dtype == (torch.float32 if exact_output else torch.bfloat16)
    # bfloat16 keeps 8 bits: errors of 2^-8 of the scores' size a layer, eight or so layers.
    assert (scores - exact).abs().max() < 0.03 * exact.abs().max()
    scores.float().square().sum().backward()
    assert all(p.grad.dtype == torch.float32 for p in net.parameters() if p.requires_grad)


@every_net
def test_meta_device(make: partial[Network]) -> None:
    with torch.device("meta"):
        net = make()
    assert all(tensor.is_meta for tensor in net.state_dict().values())
    assert net(torch.empty(5, *SHAPE, device="meta")).shape == (5, 4)


@few_nets
def test_export_with_any_batch_size(make: partial[Network], images: torch.Tensor) -> None:
    net = _randomised(make).eval()
    program = torch.export.export(net, (images,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.testing.assert_close(program.module()(images[:5]), net(images[:5]))


@pytest.mark.parametrize(
    "make",
    [pytest.param(make, marks=[] if name == "resnet_b" else pytest.mark.slow) for name, make in NETS.items()],
    ids=NETS.keys(),
)
def test_onnx(make: partial[Network], images: torch.Tensor) -> None:
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    net = _randomised(make).eval()
    shapes = ({0: torch.export.Dim("batch")},)
    program = torch.onnx.export(net, (images,), dynamo=True, dynamic_shapes=shapes, verbose=False)
    session = runtime.InferenceSession(program.model_proto.SerializeToString())
    (scores,) = session.run(None, {session.get_inputs()[0].name: images[:5].numpy()})
    torch.testing.assert_close(torch.from_numpy(scores), net(images[:5]), rtol=1e-4, atol=1e-4)


@few_nets
def test_training_separates_a_toy_problem(make: partial[Network]) -> None:
    torch.manual_seed(0)
    labels = torch.arange(4).repeat(8)
    templates = torch.randn(4, *SHAPE)
    images = templates[labels] + 0.3 * torch.randn(32, *SHAPE)
    net = make()
    # 22 layers without batch normalisation or shortcuts bear smaller steps only; scores over 9 need larger.
    lr = {NETS["googlenet"]: 0.003, NETS["airbench"]: 0.1}.get(make, 0.02)
    optimizer = torch.optim.SGD(net.parameters(), lr=lr, momentum=0.9)
    losses = []
    for _ in range(50):
        loss = F.cross_entropy(net(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]
    net.eval()
    assert (net(images).argmax(1) == labels).float().mean() >= 0.9


@pytest.mark.parametrize("name", ["softmax_regression", "mlp", "lenet5", "alexnet", "zfnet"])
@pytest.mark.parametrize("shape", [(2, 3, 20, 20), (2, 1, 20, 16), (3, 20, 16)])
def test_images_of_another_size_are_refused_by_name(name: str, shape: tuple[int, ...]) -> None:
    net = NETS[name]()
    with pytest.raises(ValueError, match=r"images must be of shape \(N, 3, 20, 16\), got \("):
        net(torch.zeros(shape))


@pytest.mark.parametrize("name", [name for name in NETS if "resne" in name])
@pytest.mark.parametrize("size", [(1, 1), (7, 9), (33, 32)])
def test_resnet_takes_images_of_any_size(name: str, size: tuple[int, int]) -> None:
    net = NETS[name]().eval()
    assert net(torch.zeros(2, 3, *size)).shape == (2, 4)
    with pytest.raises(RuntimeError, match="to have 3 channels, but got 1 channels"):
        net(torch.zeros(2, 1, *size))


@every_net
def test_settings_of_the_data_are_checked(make: partial[Network]) -> None:
    name = make.func.__name__
    with pytest.raises(ValueError, match=f"^{name}: num_classes must be >= 2, got 1$"):
        make(num_classes=1)
    for shape in ((3, 0, 32), (3, 32), (3, 32, -1)):
        with pytest.raises(ValueError, match=f"^{name}: input_shape must be three numbers >= 1"):
            make(input_shape=shape)


@every_net
def test_built_from_yaml_by_its_short_name(make: partial[Network]) -> None:
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_argument(
        "--net", type=Network | nn.Module
    )  # torchvision has a ResNet too: ours is found first
    values = parser.parse_args(["--net", make.func.__name__, "--net.num_classes", "3"])
    with torch.device("meta"):
        net = parser.instantiate(parser.parse_string(parser.dump(values))).net
    assert type(net) is make.func
    assert net.num_classes == 3
    assert net.input_shape == default_shape(make.func.__name__)


def test_network_itself_has_no_forward() -> None:
    with pytest.raises(NotImplementedError):
        Network(num_classes=2, input_shape=(1, 2, 2))(torch.zeros(1, 1, 2, 2))


def _randomised(make: partial[Network]) -> Network:
    """A network whose weights are all random, also where the first ones are zero."""
    torch.manual_seed(1)
    net = make()
    if isinstance(net, SoftmaxRegression):
        nn.init.normal_(net.linear.weight, std=0.05)
    return net
