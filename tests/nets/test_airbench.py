"""AirbenchNet: sizes of the published network, what is frozen, how it starts, a forward pass step by step."""

import pytest
import torch
from torch import Tensor, nn

from lightning_optreg.nets import AirbenchNet


def test_parameters() -> None:
    """1.97 million, as published, in seven convolutions and one dense layer."""
    with torch.device("meta"):
        net = AirbenchNet()
    sizes = {name: p.numel() for name, p in net.named_parameters() if p.requires_grad}
    assert [n for name, n in sizes.items() if "conv" in name] == [
        9 * n * m for n, m in ((24, 64), (64, 64), (64, 256), (256, 256), (256, 256), (256, 256))
    ]
    assert {name for name in sizes if "norm" in name} == {
        f"blocks.{block}.norm{i}.bias" for block in range(3) for i in (1, 2)
    }
    assert sizes["whiten.bias"] == 24
    assert sizes["head.weight"] == 2560
    assert sum(sizes.values()) == 1_971_352
    frozen = {name for name, p in net.named_parameters() if not p.requires_grad}
    assert frozen == {"whiten.weight"} | {f"blocks.{b}.norm{i}.weight" for b in range(3) for i in (1, 2)}


def test_settings_of_batch_normalisation() -> None:
    norms = [each for each in AirbenchNet().modules() if isinstance(each, nn.BatchNorm2d)]
    assert len(norms) == 6
    for norm in norms:
        assert (norm.eps, norm.momentum) == (1e-12, 0.4)
        assert torch.equal(norm.weight, torch.ones_like(norm.weight))


def test_convolutions_start_as_the_identity_as_far_as_possible() -> None:
    net = AirbenchNet()
    for block in net.blocks:
        for conv in (block.conv1, block.conv2):
            inputs = conv.in_channels
            x = torch.randn(2, inputs, 5, 5)
            y = conv(x)
            torch.testing.assert_close(y[:, :inputs], x)
            rest = conv.weight[inputs:]
            if len(rest):  # uniform within 1 / sqrt(9 n), torch's
                bound = (9 * inputs) ** -0.5
                assert rest.abs().max() <= bound
                assert rest.std().item() == pytest.approx(bound / 3**0.5, rel=0.05)


def test_more_inputs_than_outputs_start_as_the_first_channels() -> None:
    conv = AirbenchNet(widths=(8, 8, 8)).blocks[0].conv1
    x = torch.randn(2, 24, 5, 5)
    torch.testing.assert_close(conv(x), x[:, :8])


def step_by_step(net: AirbenchNet, x: Tensor) -> Tensor:
    """The published layers in their order, with a fixed final pooling of 3x3."""
    gelu = nn.GELU()
    x = gelu(nn.functional.conv2d(x, net.whiten.weight, net.whiten.bias))
    for block in net.blocks:
        x = nn.MaxPool2d(2)(block.conv1(x))
        x = gelu((x - x.mean((0, 2, 3), keepdim=True)) / x.var((0, 2, 3), correction=0, keepdim=True).sqrt())
        x = block.conv2(x)
        x = gelu((x - x.mean((0, 2, 3), keepdim=True)) / x.var((0, 2, 3), correction=0, keepdim=True).sqrt())
    x = nn.MaxPool2d(3)(x)
    assert x.shape[2:] == (1, 1)
    return x.flatten(1) @ net.head.weight.T / 9


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 28)])
def test_forward(shape: tuple[int, int, int]) -> None:
    net = AirbenchNet(7, shape, width=0.1).double()
    x = torch.randn(4, *shape, dtype=torch.float64)
    net.whiten.whiten(x)
    torch.testing.assert_close(net(x), step_by_step(net, x))


def test_width_multiplies_the_widths() -> None:
    net = AirbenchNet(width=0.1, widths=(64, 128, 4))
    assert [block.conv2.out_channels for block in net.blocks] == [6, 13, 1]


@pytest.mark.parametrize("size", [(9, 9), (33, 40), (64, 64)])
def test_takes_images_of_any_size(size: tuple[int, int]) -> None:
    net = AirbenchNet(width=0.1).eval()
    assert net(torch.zeros(2, 3, *size)).shape == (2, 10)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"input_shape": (3, 8, 32)}, "input_shape must have height and width >= 9, got"),
        ({"widths": (64, 256)}, "widths must be three numbers >= 1, got"),
        ({"widths": (64, 0, 64)}, "widths must be three numbers >= 1, got"),
        ({"width": 0.0}, r"width must be in \(0, inf\), got 0.0"),
        ({"eps": -1.0}, r"eps must be in \(0, inf\), got -1.0"),
        ({"momentum": 1.5}, r"momentum must be in \[0, 1\], got 1.5"),
        ({"head_scale": float("nan")}, r"head_scale must be in \(0, inf\), got nan"),
    ],
)
def test_wrong_settings(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=f"^AirbenchNet: {message}"):
        AirbenchNet(**settings)
