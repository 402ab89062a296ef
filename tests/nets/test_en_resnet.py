"""EnResNet: the authors' network written out, noise by image and by batch, joint members, settings."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_optreg.layers import GaussianNoise
from lightning_optreg.nets import EnResNet, ResNet
from lightning_optreg.nets.en_resnet import NoisyBlock
from lightning_optreg.nets.residual_network import ResidualNetwork

SHAPE = (3, 12, 10)


def count(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def test_parameter_counts() -> None:
    with torch.device("meta"):
        members = {n: EnResNet(10, (3, 32, 32), members=n) for n in (1, 2, 5)}
        resnet = ResNet(10, (3, 32, 32), preactivation=True, shortcut="B")
    assert count(members[1]) == count(resnet)
    assert count(members[2]) == 2 * count(resnet)
    assert count(members[5]) == 5 * count(resnet)


@pytest.mark.parametrize("std", ["image", "batch"])
def test_scores_and_gradients_are_those_of_the_authors_network(std: str) -> None:
    torch.manual_seed(0)
    net = EnResNet(5, SHAPE, depth=14, members=2, width=3, noise=0.3, std=std).double()
    x = torch.randn(6, *SHAPE, dtype=torch.float64)
    values = {name: value.clone() for name, value in net.state_dict().items()}
    for name, _ in net.named_parameters():
        values[name].requires_grad_()
    torch.manual_seed(1)
    scores = net(x)
    torch.manual_seed(1)
    expected = sum(_reference(values, x, f"members.{i}", std) for i in (0, 1)) / 2
    torch.testing.assert_close(scores, expected, rtol=1e-8, atol=1e-8)
    scores.square().sum().backward()
    expected.square().sum().backward()
    for name, parameter in net.named_parameters():
        torch.testing.assert_close(parameter.grad, values[name].grad, rtol=1e-6, atol=1e-6)


def _reference(w: dict[str, Tensor], x: Tensor, member: str, std: str) -> Tensor:
    """`Ensemble_PreAct_ResNet_Cifar` of github.com/BaoWangMath/EnResNet with two blocks a stage."""

    def activate(x: Tensor, name: str) -> Tensor:
        weight, bias = w[f"{member}.{name}.weight"], w[f"{member}.{name}.bias"]
        return F.batch_norm(x, None, None, weight, bias, training=True).relu()

    x = F.conv2d(x, w[f"{member}.conv.weight"], padding=1)
    for stage in (1, 2, 3):
        for i in (0, 1):
            name = f"{member}.stage{stage}.{i}"
            stride = 2 if stage > 1 and i == 0 else 1
            a = activate(x, name.removeprefix(f"{member}.") + ".bn1")
            y = F.conv2d(a, w[f"{name}.conv1.weight"], stride=stride, padding=1)
            y = activate(y, name.removeprefix(f"{member}.") + ".bn2")
            y = F.conv2d(y, w[f"{name}.conv2.weight"], padding=1)
            y = y + (F.conv2d(a, w[f"{name}.shortcut.weight"], stride=2) if stride == 2 else x)
            spread = y.std() if std == "batch" else y.std((1, 2, 3), keepdim=True)
            x = y + 0.3 * spread * torch.randn_like(y)
    x = activate(x, "final_bn").mean((2, 3))
    return x @ w[f"{member}.linear.weight"].T + w[f"{member}.linear.bias"]


@pytest.mark.parametrize(("std", "depends"), [("image", False), ("batch", True)])
def test_only_std_over_the_batch_makes_a_score_depend_on_the_other_images(std: str, depends: bool) -> None:
    torch.manual_seed(0)
    net = EnResNet(4, SHAPE, depth=8, width=4, std=std).eval()
    x = torch.randn(3, *SHAPE)
    torch.manual_seed(1)
    scores = net(x)
    x[1:] *= 3
    torch.manual_seed(1)
    others = net(x)
    assert torch.equal(scores[0], others[0]) != depends


def test_noise_at_test_is_a_choice() -> None:
    torch.manual_seed(0)
    x = torch.randn(3, *SHAPE)
    for noise_at_test in (True, False):
        net = EnResNet(4, SHAPE, depth=8, width=4, noise_at_test=noise_at_test)
        assert not torch.equal(net(x), net(x))
        net.eval()
        assert torch.equal(net(x), net(x)) != noise_at_test
    quiet = EnResNet(4, SHAPE, depth=8, width=4, noise_at_test=False).eval()
    silent = EnResNet(4, SHAPE, depth=8, width=4, noise=0.0).eval()
    silent.load_state_dict(quiet.state_dict())
    assert torch.equal(quiet(x), silent(x))


def test_without_noise_it_is_the_mean_of_its_members_and_draws_nothing() -> None:
    torch.manual_seed(0)
    net = EnResNet(4, SHAPE, depth=8, width=4, members=3, noise=0.0)
    x = torch.randn(3, *SHAPE)
    state = torch.get_rng_state()
    scores = net(x)
    assert torch.equal(torch.get_rng_state(), state)
    torch.testing.assert_close(scores, torch.stack([member(x) for member in net.members]).mean(0))
    assert len({member.conv.weight.sum().item() for member in net.members}) == 3


def test_size_of_the_noise() -> None:
    torch.manual_seed(0)
    block = NoisyBlock(8, 8, noise=0.1).eval()
    block.noise.sampling = True
    x = torch.randn(2, 8, 16, 16) * torch.tensor([1.0, 5.0])[:, None, None, None]
    noisy = block(x)
    block.noise.sampling = False
    quiet = block(x)
    ratio = (noisy - quiet).std((1, 2, 3)) / quiet.std((1, 2, 3))
    assert ((ratio - 0.1).abs() < 5 * 0.1 / (2 * 8 * 16 * 16) ** 0.5).all()


def test_each_block_ends_with_noise() -> None:
    net = EnResNet(depth=20, members=2)
    for member in net.members:
        assert isinstance(member, ResidualNetwork)
        assert len(member.blocks()) == 9
        assert all(isinstance(block, NoisyBlock) for block in member.blocks())
    layers = [m for m in net.modules() if isinstance(m, GaussianNoise)]
    assert len(layers) == 18


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"depth": 21}, r"depth must be 6n \+ 2 with n >= 1 \(8, 14, 20, 32, ...\), got 21"),
        ({"members": 0}, "members must be >= 1, got 0"),
        ({"noise": -0.1}, r"noise must be in \[0, inf\), got -0.1"),
        ({"noise": float("nan")}, r"noise must be in \[0, inf\), got nan"),
        ({"std": "channel"}, "std must be 'image' or 'batch', got 'channel'"),
        ({"width": 0}, "width must be >= 1, got 0"),
    ],
)
def test_wrong_settings(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=f"^EnResNet: {message}$"):
        EnResNet(**settings)


def test_probabilities_of_the_members_can_be_averaged() -> None:
    torch.manual_seed(0)
    net = EnResNet(5, SHAPE, depth=8, members=3, width=3, noise=0.0, average="probabilities").double().eval()
    x = torch.randn(4, *SHAPE, dtype=torch.float64)
    wanted = torch.stack([member(x).softmax(1) for member in net.members]).mean(0)
    torch.testing.assert_close(net(x).softmax(1), wanted)
    net.average = "outputs"
    torch.testing.assert_close(net(x), torch.stack([member(x) for member in net.members]).mean(0))
    with pytest.raises(ValueError, match="average must be 'outputs' or 'probabilities', got 'median'"):
        EnResNet(average="median")  # type: ignore[arg-type]
