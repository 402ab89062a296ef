"""Pre-activation: published sizes, the paper written out, who sees the activation, initial blocks."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_optreg.nets import ResNet
from lightning_optreg.nets._preactivation_blocks import PreactBasicBlock, PreactBottleneck
from lightning_optreg.nets._residual_blocks import ResidualBlock


@pytest.mark.parametrize(
    ("depth", "block", "millions"),
    # Millions of weights without those of batch normalisation: table 4 of Zagoruyko and Komodakis 2016
    [(110, "basic", 1.7), (164, "bottleneck", 1.7), (1001, "bottleneck", 10.2)],
)
def test_parameter_counts(depth: int, block: str, millions: float) -> None:
    with torch.device("meta"):
        net = ResNet(10, (3, 32, 32), depth=depth, block=block, preactivation=True, shortcut="B")
    weights = sum(p.numel() for p in net.parameters() if p.dim() > 1)
    assert round(weights / 1e6, 1) == millions
    on_the_path = [m for n, m in net.named_modules() if "shortcut" not in n]
    assert sum(isinstance(m, nn.Conv2d | nn.Linear) for m in on_the_path) == depth


def test_each_convolution_but_the_stem_follows_a_norm() -> None:
    for settings in ({}, {"form": "imagenet", "depth": 50}, {"form": "imagenet", "depth": 18}):
        with torch.device("meta"):
            net = ResNet(preactivation=True, **settings)
        path = [m for n, m in net.named_modules() if "shortcut" not in n]
        norms = sum(isinstance(m, nn.BatchNorm2d) for m in path)
        assert norms == sum(isinstance(m, nn.Conv2d) for m in path)  # one a convolution's input, and the last


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shortcut", ["A", "B", "none"])
@pytest.mark.parametrize("block", ["basic", "bottleneck"])
def test_scores_and_gradients_against_a_plain_float64_reference(
    block: str, shortcut: str, training: bool
) -> None:
    torch.manual_seed(0)
    depth = 14 if block == "basic" else 20
    settings = {"depth": depth, "width": 3, "block": block, "shortcut": shortcut}
    net = ResNet(num_classes=5, input_shape=(3, 13, 10), preactivation=True, **settings).double()
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
    expected = _reference(values, x, block=block, shortcut=shortcut, training=training)
    torch.testing.assert_close(net(x), expected, rtol=1e-8, atol=1e-8)
    net(x).square().sum().backward()
    expected.square().sum().backward()
    for name, parameter in net.named_parameters():
        torch.testing.assert_close(parameter.grad, values[name].grad, rtol=1e-6, atol=1e-6)


def _reference(w: dict[str, Tensor], x: Tensor, *, block: str, shortcut: str, training: bool) -> Tensor:
    """Figure 4e of the paper written out, two blocks a stage, without anything in place."""

    def activate(x: Tensor, name: str) -> Tensor:
        if training:
            mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
        else:
            mean, var = w[f"{name}.running_mean"], w[f"{name}.running_var"]
        x = (x - mean[:, None, None]) / (var + 1e-5).sqrt()[:, None, None]
        return (x * w[f"{name}.weight"][:, None, None] + w[f"{name}.bias"][:, None, None]).clamp(min=0)

    x = F.conv2d(x, w["conv.weight"], padding=1)
    for stage in (1, 2, 3):
        for i in (0, 1):
            name = f"stage{stage}.{i}"
            stride = 2 if stage > 1 and i == 0 else 1
            first = stage == 1 and i == 0
            a = activate(x, "bn" if first else f"{name}.bn1")
            if block == "basic":
                y = F.conv2d(a, w[f"{name}.conv1.weight"], stride=stride, padding=1)
                y = F.conv2d(activate(y, f"{name}.bn2"), w[f"{name}.conv2.weight"], padding=1)
            else:
                y = activate(F.conv2d(a, w[f"{name}.conv1.weight"]), f"{name}.bn2")
                y = F.conv2d(y, w[f"{name}.conv2.weight"], stride=stride, padding=1)
                y = F.conv2d(activate(y, f"{name}.bn3"), w[f"{name}.conv3.weight"])
            if shortcut == "none":
                x = y
                continue
            # The first unit of the network and those that change the shape activate before splitting.
            same = y.shape == x.shape and not first
            s = x if same else a
            if f"{name}.shortcut.weight" in w:
                s = F.conv2d(s, w[f"{name}.shortcut.weight"], stride=stride)
            elif s.shape != y.shape:
                s = s[:, :, ::stride, ::stride]
                s = torch.cat([s, s.new_zeros(len(s), y.shape[1] - s.shape[1], *s.shape[2:])], 1)
            x = y + s
    x = activate(x, "final_bn")
    return x.mean((2, 3)) @ w["linear.weight"].T + w["linear.bias"]


def test_who_sees_the_activation() -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 6, 5, 5)
    for activate, seen in (("branch", x), ("none", x), ("both", F.batch_norm(x, None, None, training=True))):
        block = PreactBasicBlock(6, 6, activate=activate)
        block.zero_branch()
        torch.testing.assert_close(block(x), seen.relu() if activate == "both" else seen)
    assert PreactBottleneck(8, 8, width=2).activate == "branch"
    assert PreactBottleneck(8, 9, width=2).activate == "both"
    assert PreactBottleneck(8, 8, width=2, stride=2).activate == "both"


def test_input_of_a_block_is_left_alone() -> None:
    for activate in ("branch", "both", "none"):
        x = torch.randn(2, 3, 8, 8)
        before = x.clone()
        PreactBasicBlock(3, 3, activate=activate)(x).sum().backward()
        assert torch.equal(x, before)


def test_zero_initialised_residuals_leave_the_shortcut() -> None:
    net = ResNet(input_shape=(3, 8, 8), depth=14, preactivation=True, zero_init_residual=True)
    x = torch.randn(2, 16, 8, 8)
    assert all(torch.equal(block(x), x) for block in net.stage1)
    assert len([m for m in net.modules() if isinstance(m, ResidualBlock)]) == 6


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dropout": 1.0}, r"^PreactBasicBlock: dropout must be in \[0, 1\), got 1.0$"),
        ({"dropout": float("nan")}, r"^PreactBasicBlock: dropout must be in \[0, 1\), got nan$"),
        (
            {"activate": "x"},
            "^PreactBasicBlock: activate must be 'auto', 'branch', 'both' or 'none', got 'x'$",
        ),
        ({"shortcut": "C"}, "^make_shortcut: kind must be 'A', 'B' or 'none', got 'C'$"),
    ],
)
def test_wrong_settings(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PreactBasicBlock(4, 4, **settings)
    with pytest.raises(ValueError, match=r"^make_shortcut: with A, out_channels must be >= in_channels"):
        PreactBasicBlock(4, 3)
