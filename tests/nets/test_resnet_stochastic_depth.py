"""Stochastic depth in ResNet: linear decay, training and test by hand, zero gradients, two processes."""

import math
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_optreg import ImageClassifier
from lightning_optreg.nets import ResNet
from lightning_optreg.nets._residual_blocks import BasicBlock, ResidualBlock

SHAPE = (3, 8, 8)
KINDS = [{}, {"preactivation": True}, {"shortcut": "B"}, {"block": "bottleneck", "depth": 20}]


def make(survival: float = 0.5, **settings: object) -> ResNet:
    torch.manual_seed(0)
    return ResNet(4, SHAPE, **{"depth": 14, "width": 4, "survival": survival} | settings)


def set_survival(net: ResNet, survival: float) -> None:
    for block in net.blocks():
        block.stochastic_depth.survival = survival


def shortcut_only(block: ResidualBlock, x: Tensor) -> Tensor:
    if isinstance(block, BasicBlock) or not hasattr(block, "activate"):
        return block.shortcut(x).relu()
    return block.shortcut(block.bn1(x).relu() if block.activate == "both" else x)


def test_survival_decays_linearly_over_all_blocks() -> None:
    with torch.device("meta"):
        net = ResNet(depth=110, survival=0.5)
    survivals = [block.stochastic_depth.survival for block in net.blocks()]
    assert len(survivals) == 54
    # deathRate_i = i / L * 0.5 in github.com/yueatsprograms/Stochastic_Depth
    assert survivals == pytest.approx([1 - i / 54 * 0.5 for i in range(1, 55)])
    assert net.stage3[-1].stochastic_depth.survival == 0.5


def test_no_survival_below_one_is_neutral_bit_for_bit() -> None:
    x = torch.randn(4, *SHAPE)
    results = []
    for settings in ({}, {"survival": 1.0, "survival_mode": "sample"}):
        torch.manual_seed(0)
        net = ResNet(4, SHAPE, depth=8, **settings)
        state = torch.get_rng_state()
        net(x).square().sum().backward()
        assert torch.equal(torch.get_rng_state(), state)
        results.append([p.grad for p in net.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("mode", ["block", "sample"])
def test_the_state_is_that_of_the_network_without_it(mode: str) -> None:
    plain, deep = make(1.0), make(0.5, survival_mode=mode)
    assert list(plain.state_dict()) == list(deep.state_dict())
    assert [name for name, _ in plain.named_parameters()] == [name for name, _ in deep.named_parameters()]
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), deep.parameters(), strict=True))
    plain.load_state_dict(deep.state_dict())
    deep.load_state_dict(plain.state_dict())


@pytest.mark.parametrize("settings", KINDS)
@pytest.mark.parametrize("mode", ["block", "sample"])
def test_with_every_branch_dropped_all_parameters_get_gradients(
    settings: dict[str, object], mode: str
) -> None:
    net = make(**settings, survival_mode=mode)
    set_survival(net, 0.0)
    x = torch.randn(4, *SHAPE)
    h = net.relu(net.bn(net.conv(x)))
    for block in net.blocks():
        expected = shortcut_only(block, h)
        h = block(h)
        torch.testing.assert_close(h, expected)
    net(x).square().sum().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        in_branch = ".conv" in name or ".bn2" in name or ".bn3" in name
        if in_branch:
            assert not parameter.grad.any(), name
        elif name in ("conv.weight", "linear.weight") or "shortcut" in name:
            assert parameter.grad.any(), name


@pytest.mark.parametrize("settings", KINDS)
def test_with_every_branch_kept_it_is_the_network_without_it(settings: dict[str, object]) -> None:
    x = torch.randn(4, *SHAPE)
    deep, plain = make(0.5, **settings), make(1.0, **settings)
    set_survival(deep, 1.0)
    for net in (deep, plain):
        net(x).square().sum().backward()
    for one, two in zip(deep.parameters(), plain.parameters(), strict=True):
        assert torch.equal(one.grad, two.grad)


@pytest.mark.parametrize("mode", ["block", "sample"])
@pytest.mark.parametrize("settings", KINDS)
def test_at_test_the_branch_counts_with_its_probability(settings: dict[str, object], mode: str) -> None:
    net = make(**settings, survival_mode=mode).double()
    net(torch.randn(16, *SHAPE, dtype=torch.float64))
    net.eval()
    h = torch.randn(3, net.conv.out_channels, 8, 8, dtype=torch.float64).relu()
    state = torch.get_rng_state()
    for block in net.blocks():
        p = block.stochastic_depth.survival
        preactivation = hasattr(block, "activate")
        a = block.bn1(h).relu() if preactivation and block.activate == "both" else h
        expected = p * block.branch(a) + block.shortcut(a)
        expected = expected if preactivation else expected.relu()
        h = block(h)
        torch.testing.assert_close(h, expected)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_dropped_branch_is_not_computed_and_leaves_its_statistics() -> None:
    net = make(0.3)
    calls = dict.fromkeys(net.blocks(), 0)

    def count(module: nn.Module, inputs: object, output: object) -> None:
        calls[next(block for block in calls if block.conv1 is module)] += 1

    for block in calls:
        block.conv1.register_forward_hook(count)
    runs = 400
    x = torch.randn(2, *SHAPE)
    with torch.no_grad():
        for _ in range(runs):
            net(x)
    for block, n in calls.items():
        p = block.stochastic_depth.survival
        assert abs(n / runs - p) < 5 * math.sqrt(p * (1 - p) / runs)
        assert block.bn1.num_batches_tracked == n


def test_by_sample_each_image_has_a_draw_of_its_own() -> None:
    torch.manual_seed(0)
    net = make(0.4, survival_mode="sample", preactivation=True)
    block = net.blocks()[-1]
    x = torch.randn(1000, 16, 2, 2)
    y = block(x)
    kept = (y != x).flatten(1).any(1)
    torch.testing.assert_close(y[kept], (x + block.branch(x))[kept])
    assert abs(kept.float().mean() - 0.4) < 5 * math.sqrt(0.4 * 0.6 / 1000)


def test_a_dropped_block_leaves_its_input_alone() -> None:
    for settings in KINDS:
        net = make(**settings)
        set_survival(net, 0.0)
        x = torch.randn(2, net.conv.out_channels, 8, 8)
        before = x.clone()
        for block in net.blocks()[:1]:
            block(x).sum().backward()
        assert torch.equal(x, before)


class OwnDraws(Callback):
    """Each process drops blocks of its own; what it ends with is written down."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        torch.manual_seed(trainer.global_rank)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        steps, drawn = trainer.global_step, torch.rand(()).item()
        state = {"weights": dict(pl_module.named_parameters()), "drawn": drawn, "steps": steps}
        torch.save(state, self.folder / f"{trainer.global_rank}.pt")


@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="this build of torch has no gloo")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork.*:DeprecationWarning")
def test_two_processes_train_although_they_drop_different_blocks(tmp_path: Path) -> None:
    torch.manual_seed(0)
    data = TensorDataset(torch.randn(32, *SHAPE), torch.randint(4, (32,)))
    module = ImageClassifier(
        make(0.2, depth=8), num_classes=4, optimizer=lambda params: torch.optim.SGD(params, lr=0.01)
    )
    trainer = Trainer(
        max_epochs=2,
        accelerator="cpu",
        devices=2,
        strategy="ddp_fork",  # which waits for the gradients of all parameters
        logger=False,
        callbacks=[OwnDraws(tmp_path)],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    before = module.net.conv.weight.clone()
    trainer.fit(module, DataLoader(data, batch_size=4), DataLoader(data, batch_size=16))
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert first["steps"] == 8
    assert first["drawn"] != second["drawn"]
    assert not torch.equal(first["weights"]["net.conv.weight"], before)
    assert all(torch.equal(first["weights"][name], second["weights"][name]) for name in first["weights"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"survival": 0.0}, r"survival must be in \(0, 1\], got 0.0"),
        ({"survival": 1.1}, r"survival must be in \(0, 1\], got 1.1"),
        ({"survival": float("nan")}, r"survival must be in \(0, 1\], got nan"),
        ({"survival_mode": "row"}, "survival_mode must be 'block' or 'sample', got 'row'"),
        ({"survival": 0.5, "shortcut": "none"}, "without shortcuts, survival must be 1, got 0.5"),
    ],
)
def test_wrong_settings(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=f"^ResNet: {message}$"):
        ResNet(**settings)
