"""ResNet: published sizes, a float64 reference, torchvision's block, both shortcuts, initialisation."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock as TorchvisionBlock

from lightning_optreg.nets import ResNet
from lightning_optreg.nets._residual_blocks import BasicBlock
from lightning_optreg.nets._shortcuts import PaddedSubsampling

PARAMETERS = {20: 269_722, 32: 464_154, 44: 658_586, 56: 853_018, 110: 1_727_962, 1202: 19_421_274}


@pytest.mark.parametrize(
    "depth", [pytest.param(depth, marks=[pytest.mark.slow] * (depth > 110)) for depth in PARAMETERS]
)
def test_parameter_counts(depth: int) -> None:
    with torch.device("meta"):
        net = ResNet(num_classes=10, input_shape=(3, 32, 32), depth=depth)
    assert sum(p.numel() for p in net.parameters()) == PARAMETERS[depth]
    assert sum(isinstance(m, nn.Conv2d | nn.Linear) for m in net.modules()) == depth


def test_parameters_of_option_b_and_other_widths() -> None:
    def count(**settings: object) -> int:
        with torch.device("meta"):
            return sum(p.numel() for p in ResNet(input_shape=(3, 32, 32), **settings).parameters())

    # Two projections: weights and the weight and bias of their batch normalisations.
    assert count(depth=20, shortcut="B") - count(depth=20) == (16 * 32 + 2 * 32) + (32 * 64 + 2 * 64)
    w, n = 5, 2
    convolutions = 9 * (3 * w + 2 * n * w**2 + (w * 2 * w + (2 * n - 1) * 4 * w**2))
    convolutions += 9 * (2 * w * 4 * w + (2 * n - 1) * 16 * w**2)
    norms = 2 * (w + 2 * n * (w + 2 * w + 4 * w))
    assert count(depth=6 * n + 2, width=w) == convolutions + norms + 10 * (4 * w + 1)


def test_stage_sizes() -> None:
    net = ResNet(input_shape=(3, 32, 32), depth=14).eval()
    x = net.relu(net.bn(net.conv(torch.zeros(2, 3, 32, 32))))
    shapes = [x.shape[1:]]
    for stage in (net.stage1, net.stage2, net.stage3):
        assert len(stage) == 2
        x = stage(x)
        shapes.append(x.shape[1:])
    assert shapes == [(16, 32, 32), (16, 32, 32), (32, 16, 16), (64, 8, 8)]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shortcut", ["A", "B"])
def test_scores_and_gradients_against_a_plain_float64_reference(shortcut: str, training: bool) -> None:
    torch.manual_seed(0)
    net = ResNet(num_classes=5, input_shape=(3, 13, 10), depth=14, width=3, shortcut=shortcut).double()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    net.train(training)
    x = torch.randn(6, 3, 13, 10, dtype=torch.float64)
    values = {name: value.clone() for name, value in net.state_dict().items()}
    for name, _ in net.named_parameters():
        values[name].requires_grad_()
    expected = _reference(values, x, n=2, training=training)
    torch.testing.assert_close(net(x), expected, rtol=1e-9, atol=1e-9)
    net(x).square().sum().backward()
    expected.square().sum().backward()
    for name, parameter in net.named_parameters():
        torch.testing.assert_close(parameter.grad, values[name].grad, rtol=1e-7, atol=1e-7)


def _reference(w: dict[str, Tensor], x: Tensor, *, n: int, training: bool) -> Tensor:
    """The paper's network written out, without anything in place."""

    def norm(x: Tensor, name: str) -> Tensor:
        if training:
            mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
        else:
            mean, var = w[f"{name}.running_mean"], w[f"{name}.running_var"]
        x = (x - mean[:, None, None]) / (var + 1e-5).sqrt()[:, None, None]
        return x * w[f"{name}.weight"][:, None, None] + w[f"{name}.bias"][:, None, None]

    x = norm(F.conv2d(x, w["conv.weight"], padding=1), "bn").clamp(min=0)
    for stage in (1, 2, 3):
        for block in range(n):
            name = f"stage{stage}.{block}"
            stride = 2 if stage > 1 and block == 0 else 1
            y = F.conv2d(x, w[f"{name}.conv1.weight"], stride=stride, padding=1)
            y = norm(y, f"{name}.bn1").clamp(min=0)
            y = norm(F.conv2d(y, w[f"{name}.conv2.weight"], padding=1), f"{name}.bn2")
            if f"{name}.shortcut.0.weight" in w:
                projected = F.conv2d(x, w[f"{name}.shortcut.0.weight"], stride=stride)
                x = norm(projected, f"{name}.shortcut.1")
            elif stride == 2:
                x = torch.cat([x[:, :, ::2, ::2], torch.zeros_like(x[:, :, ::2, ::2])], 1)
            x = (y + x).clamp(min=0)
    return x.mean((2, 3)) @ w["linear.weight"].T + w["linear.bias"]


@pytest.mark.parametrize(("channels", "stride"), [((8, 8), 1), ((8, 16), 2)])
def test_option_b_block_is_torchvisions(channels: tuple[int, int], stride: int) -> None:
    torch.manual_seed(0)
    downsample = None
    if stride == 2:
        downsample = nn.Sequential(nn.Conv2d(*channels, 1, stride=2, bias=False), nn.BatchNorm2d(channels[1]))
    theirs = TorchvisionBlock(*channels, stride=stride, downsample=downsample)
    ours = BasicBlock(*channels, stride=stride, shortcut="B")
    state = {name.replace("downsample", "shortcut"): value for name, value in theirs.state_dict().items()}
    ours.load_state_dict(state)
    x = torch.randn(4, 8, 9, 9)
    assert torch.equal(ours(x), theirs(x))
    assert torch.equal(ours.bn2.running_var, theirs.bn2.running_var)
    assert torch.equal(ours.eval()(x), theirs.eval()(x))


@pytest.mark.parametrize("size", [(8, 8), (9, 7), (1, 1)])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_shortcut_a_subsamples_and_appends_zeros(
    size: tuple[int, int], memory_format: torch.memory_format
) -> None:
    x = torch.randn(2, 4, *size).to(memory_format=memory_format)
    y = PaddedSubsampling(extra_channels=3)(x)
    kept = x[:, :, ::2, ::2]
    assert torch.equal(y, torch.cat([kept, torch.zeros(2, 3, *kept.shape[2:])], 1))
    block = BasicBlock(4, 7, stride=2)
    assert isinstance(block.shortcut, PaddedSubsampling)
    assert not list(block.shortcut.parameters())
    assert block.eval()(x).shape == y.shape


def test_shortcut_is_the_identity_where_shapes_agree() -> None:
    for shortcut in ("A", "B"):
        net = ResNet(depth=20, shortcut=shortcut)
        blocks = [m for m in net.modules() if isinstance(m, BasicBlock)]
        changed = [i for i, block in enumerate(blocks) if not isinstance(block.shortcut, nn.Identity)]
        assert len(blocks) == 9
        assert changed == [3, 6]


def test_zero_initialised_residuals_leave_the_shortcut() -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 3, 12, 12)
    for shortcut in ("A", "B"):
        net = ResNet(input_shape=(3, 12, 12), depth=14, shortcut=shortcut, zero_init_residual=True)
        h = net.relu(net.bn(net.conv(x)))
        for block in (*net.stage1, *net.stage2, *net.stage3):
            assert not block.bn2.weight.any()
            expected = block.shortcut(h).relu()
            h = block(h)
            assert torch.equal(h, expected)
    assert all(block.bn2.weight.eq(1).all() for block in ResNet(depth=14).stage3)


def test_initial_weights() -> None:
    torch.manual_seed(0)
    net = ResNet(input_shape=(3, 32, 32), depth=20, shortcut="B")
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            std = math.sqrt(2 / (module.kernel_size[0] ** 2 * module.out_channels))
            n = module.weight.numel()
            assert abs(module.weight.std().item() - std) < 5 * std / math.sqrt(2 * n)
            assert module.bias is None
        elif isinstance(module, nn.BatchNorm2d):
            assert module.weight.eq(1).all()
            assert not module.bias.any()
    assert not net.linear.bias.any()


def test_input_is_left_alone() -> None:
    x = torch.randn(2, 3, 8, 8)
    before = x.clone()
    ResNet(input_shape=(3, 8, 8), depth=8)(x).sum().backward()
    assert torch.equal(x, before)
    block = BasicBlock(3, 3)
    block(x).sum().backward()
    assert torch.equal(x, before)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"depth": 21}, r"^ResNet: depth must be 6n \+ 2 with n >= 1 \(8, 14, 20, 32, ...\), got 21$"),
        ({"depth": 2}, r"^ResNet: depth must be 6n \+ 2 .*, got 2$"),
        ({"depth": -4}, r"^ResNet: depth must be 6n \+ 2 .*, got -4$"),
        ({"width": 0}, "^ResNet: width must be >= 1, got 0$"),
        ({"shortcut": "C"}, "^ResNet: shortcut must be 'auto', 'A', 'B' or 'none', got 'C'$"),
    ],
)
def test_wrong_settings(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ResNet(**settings)
