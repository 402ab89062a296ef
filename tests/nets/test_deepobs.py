"""DeepOBS's networks: sizes, padding and initialisation as TensorFlow has them."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_optreg.nets import DeepOBS2c2d, DeepOBS3c3d


def test_parameters() -> None:
    with torch.device("meta"):
        small, large = DeepOBS2c2d(), DeepOBS3c3d()
    assert [p.numel() for p in small.parameters()] == [800, 32, 51200, 64, 3211264, 1024, 10240, 10]
    assert sum(p.numel() for p in large.parameters()) == 895_210
    assert large.dense1.in_features == 3 * 3 * 128


def test_2c2d_starts_as_published() -> None:
    torch.manual_seed(0)
    net = DeepOBS2c2d()
    for layer in (net.conv1, net.conv2, net.dense1, net.dense2):
        assert layer.weight.abs().max() <= 0.1
        assert torch.equal(layer.bias, torch.full_like(layer.bias, 0.05))
    # A normal distribution cut at two standard deviations keeps 0.8796 of its standard deviation; the
    # standard error of 3.2 million weights' is 1e-5.
    assert net.dense1.weight.std().item() == pytest.approx(0.05 * 0.87962566, abs=1e-4)


def test_3c3d_starts_as_published() -> None:
    torch.manual_seed(0)
    net = DeepOBS3c3d()
    for conv, (fan_in, fan_out) in (
        (net.conv2, (9 * 64, 9 * 96)),
        (net.conv3, (9 * 96, 9 * 128)),
    ):
        std = math.sqrt(2 / (fan_in + fan_out))
        assert conv.weight.std().item() == pytest.approx(std, rel=0.01)
        assert conv.weight.abs().max() <= 2 * std / 0.8796
    bound = math.sqrt(6 / (1152 + 512))
    assert net.dense1.weight.abs().max() <= bound
    assert net.dense1.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.01)
    assert all(not layer.bias.any() for layer in (net.conv1, net.dense3))


def pool_same(x: Tensor) -> Tensor:
    """TensorFlow's "same" max-pooling 3x3, stride 2, from its definition of output size and padding."""
    size = x.shape[-1]
    out = -(-size // 2)
    total = max((out - 1) * 2 + 3 - size, 0)
    before, after = total // 2, total - total // 2
    padded = F.pad(x, (before, after, before, after), value=-math.inf)
    return F.max_pool2d(padded, 3, 2)


@pytest.mark.parametrize("size", [32, 31, 28, 17])
def test_3c3d_pads_as_tensorflow(size: int) -> None:
    torch.manual_seed(0)
    net = DeepOBS3c3d(input_shape=(3, size, size))
    x = images = torch.randn(2, 3, size, size)
    for conv in (net.conv1, net.conv2, net.conv3):
        x = pool_same(F.relu(conv(x)))
    expected = net.dense3(F.relu(net.dense2(F.relu(net.dense1(x.flatten(1))))))
    torch.testing.assert_close(net(images), expected)
    if size == 32:
        assert x.shape == (2, 128, 3, 3)


def test_too_small_images() -> None:
    with pytest.raises(ValueError, match="DeepOBS3c3d: input_shape must have height and width >= 14, got"):
        DeepOBS3c3d(input_shape=(3, 13, 32))
    with pytest.raises(ValueError, match="DeepOBS2c2d: input_shape must have height and width >= 4, got"):
        DeepOBS2c2d(input_shape=(1, 28, 3))
