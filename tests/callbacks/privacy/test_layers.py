"""Layers and losses of anyone's modules: the private step is right, or there is none."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_optreg.callbacks import DifferentialPrivacy
from lightning_optreg.callbacks.privacy._apart import refuse_mixing
from lightning_optreg.callbacks.privacy._observer import LinearSampler
from lightning_optreg.nets import ResNet
from tests.callbacks.privacy.private_runs import Small, fit, loader

pytestmark = pytest.mark.filterwarnings("ignore:GDP accounting is experimental")  # and the quickest
MODES: Any = pytest.mark.parametrize("mode", ["hooks", "functorch"])


def unbounded(**options: Any) -> DifferentialPrivacy:
    """Without noise and bound, its step is that of SGD."""
    return DifferentialPrivacy(0.0, max_grad_norm=float("inf"), accountant="gdp", **options)


def assert_a_step_is_that_of_sgd(make: Callable[[], Small], mode: Any = "hooks") -> None:
    data = loader(shuffle="every_epoch")
    plain, _ = fit([], make(), data, max_steps=1)
    found, _ = fit([unbounded(mode=mode)], make(), data, max_steps=1)
    for name, weight in plain.items():
        # Sums in float32 over 8 examples in another order.
        torch.testing.assert_close(found[name], weight, rtol=0, atol=1e-5)


def with_group_norm(net: nn.Module) -> nn.Module:
    for name, child in net.named_children():
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            setattr(net, name, nn.GroupNorm(4, child.num_features))
        else:
            with_group_norm(child)
    return net


class Net(nn.Module):
    """A network whose `forward` is given, with three layers to use in it."""

    def __init__(self, forward: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.first, self.second, self.last = nn.Linear(36, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.apply_layers = forward

    def forward(self, x: Tensor) -> Tensor:
        return self.apply_layers(self, x.flatten(1))


def in_place(net: Any, x: Tensor) -> Tensor:
    hidden = F.relu(net.first(x), inplace=True)
    other = net.second(hidden)
    other += hidden
    other.clamp_(max=2.0)
    scores: Tensor = net.last(F.relu(other, inplace=True))
    return scores


@MODES
def test_outputs_of_layers_may_be_changed_in_place(mode: Any) -> None:
    assert_a_step_is_that_of_sgd(lambda: Small(Net(in_place)), mode)


@MODES
def test_residual_networks_that_change_in_place(mode: Any) -> None:
    from torchvision.models import resnet18

    def ours() -> Small:
        torch.manual_seed(4)
        return Small(with_group_norm(ResNet(num_classes=3, input_shape=(1, 6, 6), depth=8)))

    def theirs() -> Small:  # its ReLUs are in place
        torch.manual_seed(4)
        net = resnet18(num_classes=3, norm_layer=lambda channels: nn.GroupNorm(4, channels))
        net.conv1, net.maxpool = nn.Conv2d(1, 64, 3), nn.Identity()
        net.layer3, net.layer4, net.fc = nn.Identity(), nn.Identity(), nn.Linear(128, 3)
        return Small(net)

    assert_a_step_is_that_of_sgd(ours, mode)
    assert_a_step_is_that_of_sgd(theirs, mode)


@MODES
def test_a_layer_that_is_called_twice_and_one_that_shares_its_weight(mode: Any) -> None:
    def twice(net: Any, x: Tensor) -> Tensor:
        scores: Tensor = net.last(net.second(torch.tanh(net.second(torch.tanh(net.first(x))))))
        return scores

    assert_a_step_is_that_of_sgd(lambda: Small(Net(twice)), mode)

    def tied() -> Small:
        torch.manual_seed(4)
        net = nn.Sequential(nn.Flatten(), nn.Linear(36, 3), nn.Tanh(), nn.Linear(3, 3), nn.Linear(3, 3))
        net[4].weight = net[3].weight
        return Small(net)

    assert_a_step_is_that_of_sgd(tied, mode)


class Words(Small):
    """Pixels are words, some of them padding."""

    def __init__(self) -> None:
        torch.manual_seed(2)
        super().__init__(nn.Sequential(nn.Embedding(16, 4, padding_idx=3), nn.Flatten(), nn.Linear(144, 3)))

    def scores(self, pixels: Tensor) -> Tensor:
        found: Tensor = self.net(pixels.long().flatten(1) // 16)
        return found


@pytest.mark.filterwarnings("ignore:In CPU autocast")  # of Opacus 1.6, with functorch
@MODES
def test_padding_is_not_trained(mode: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opacus 1.6 alone trains it, and changes a global flag, which torch allows to forbid."""
    with monkeypatch.context() as patch:
        patch.setitem(torch.backends.flags_frozen.__globals__, "__allow_nonbracketed_mutation_flag", False)
        assert_a_step_is_that_of_sgd(Words, mode)


@pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
def test_samples_of_linear_layers_are_those_of_opacus(shape: tuple[int, ...]) -> None:
    """In memory that batches of other sizes have used, and for a second call in a step."""
    layer, ours = nn.Linear(5, 4).double(), LinearSampler()
    theirs = pytest.importorskip("opacus.grad_sample").GradSampleHooks.GRAD_SAMPLERS[nn.Linear]
    for n in (6, 3, 8):
        x, gradient = (torch.randn(n, *shape, size, dtype=torch.float64) for size in (5, 4))
        torch.testing.assert_close(ours(layer, [x], gradient), theirs(layer, [x], gradient))
    first = ours(layer, [x], gradient)[layer.weight]
    kept = first.clone()
    layer.weight.grad_sample = first  # type: ignore[assignment]  # Opacus's attribute
    ours(layer, [2 * x], gradient)
    assert torch.equal(first, kept)
    del layer.weight.grad_sample
    assert ours(layer, [x], gradient)[layer.weight].data_ptr() == first.data_ptr()


# ---- examples that meet ------------------------------------------------------------------------------------


def centred(net: Any, x: Tensor) -> Tensor:
    hidden = net.first(x)
    scores: Tensor = net.last(torch.tanh(hidden - hidden.mean(0)))
    return scores


def neighbours(net: Any, x: Tensor) -> Tensor:
    hidden = torch.tanh(net.first(x))
    scores: Tensor = net.last(torch.tanh(net.second(hidden)) * hidden.roll(1, 0))
    return scores


def batch_norm(net: Any, x: Tensor) -> Tensor:
    scores: Tensor = net.last(F.batch_norm(net.first(x), None, None, training=True))
    return scores


def contrastive(scores: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(scores @ scores.T, torch.arange(len(scores)))


class AttentionAmongExamples(nn.Module):
    """Batches come first, but the layer takes the first dimension for the sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.last = nn.MultiheadAttention(6, 2), nn.Linear(36, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1, 2)
        scores: Tensor = self.last(self.inner(x, x, x)[0].flatten(1))
        return scores


MEETING: dict[str, tuple[Callable[[], Small], dict[str, Any]]] = {
    "centred": (lambda: Small(Net(centred)), {}),
    "neighbours": (lambda: Small(Net(neighbours)), {}),
    "batch norm as a function": (lambda: Small(Net(batch_norm)), {}),
    "contrastive loss": (lambda: Small(loss=contrastive), {}),
    "spread": (lambda: Small(loss=lambda scores, labels: scores.std()), {}),
    "attention": (lambda: Small(AttentionAmongExamples()), {"convert": True}),
}


@pytest.mark.parametrize("case", MEETING)
def test_examples_that_meet_are_refused_before_the_first_step(case: str) -> None:
    make, options = MEETING[case]
    module = make()
    private = DifferentialPrivacy(1.0, accountant="gdp", **options)
    before: dict[str, Tensor] = {}
    module.on_train_start = lambda: before.update(  # type: ignore[method-assign]
        {name: weight.clone() for name, weight in module.state_dict().items()}
    )
    with pytest.raises(
        MisconfigurationException, match=r"^DifferentialPrivacy: the loss of an example depends on others"
    ):
        fit([private], module)
    assert all(torch.equal(weight, before[name]) for name, weight in module.state_dict().items())


def test_what_can_not_be_checked_is_said() -> None:
    def attention(net: Any, x: Tensor) -> Tensor:
        hidden = net.first(x).view(-1, 1, 2, 4)  # torch 2.14 has no second derivative of the function
        scores: Tensor = net.last(F.scaled_dot_product_attention(hidden, hidden, hidden).flatten(1))
        return scores

    with pytest.warns(UserWarning, match="it can't be checked that the loss of each example"):
        fit([unbounded()], Small(Net(attention)), max_steps=1)


def test_the_check_finds_one_example_in_many() -> None:
    scores = torch.linspace(0, 1, 4096)[:, None].requires_grad_()
    refuse_mixing(F.mse_loss(torch.sin(scores), scores.detach() + 1), [scores], "X")
    met = scores - scores.mean(0)
    with pytest.raises(MisconfigurationException, match="depends on others"):
        refuse_mixing(met.square().mean(), [scores], "X")
    with pytest.raises(MisconfigurationException, match="depends on others"):
        refuse_mixing(scores.square().mean() + scores[7].prod() * scores[100].prod(), [scores], "X")


# ---- layers without gradients of examples ------------------------------------------------------------------


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.last = nn.RNN(6, 4, batch_first=True), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.last(self.inner(x.flatten(1, 2))[0][:, -1])
        return scores


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Bilinear(36, 36, 3)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.inner(x.flatten(1), x.flatten(1))
        return scores


def by_name(net: Any, x: Tensor) -> Tensor:
    scores: Tensor = net.last(net.first(input=x))
    return scores


def of_some(net: Any, x: Tensor) -> Tensor:
    hidden = net.first(x)
    scores: Tensor = net.last(torch.cat([hidden[:1], net.second(hidden[1:])]))
    return scores


REFUSED: dict[str, tuple[Callable[[], Small], str]] = {
    "recurrent": (lambda: Small(Recurrent()), r"net\.inner \(RNN\) .*use opacus\.layers\.DPRNN"),
    "two inputs": (lambda: Small(Pair()), r"net\.inner \(Bilinear\) is called with 2 inputs"),
    "by name": (lambda: Small(Net(by_name)), r"net\.first \(Linear\) .* not called with tensors by position"),
    "some rows": (lambda: Small(Net(of_some)), "a layer is called with [57] rows for the [68] examples"),
    "counted words": (
        lambda: Small(nn.Embedding(6, 3, scale_grad_by_freq=True)),
        r"net \(Embedding\) divides by counts of the whole batch; set its scale_grad_by_freq=False",
    ),
    "shrunk words": (
        lambda: Small(nn.Embedding(6, 3, max_norm=1.0)),
        r"net \(Embedding\) changes weights when it is called, without noise; set its max_norm=None",
    ),
    "class weights": (
        lambda: Small(loss=nn.CrossEntropyLoss(torch.ones(3))),
        r"loss \(CrossEntropyLoss\) with weight or ignore_index",
    ),
    "ignored labels": (
        lambda: Small(loss=nn.NLLLoss(ignore_index=1)),
        r"loss \(NLLLoss\) with weight or ignore_index",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_layers_without_gradients_of_examples_are_refused_in_a_sentence(case: str) -> None:
    make, says = REFUSED[case]
    module = make()
    before = {name: weight.clone() for name, weight in module.state_dict().items()}
    with pytest.raises(MisconfigurationException, match=f"^DifferentialPrivacy: {says}") as error:
        fit([DifferentialPrivacy(1.0, accountant="gdp")], module)
    assert "\n" not in str(error.value)
    assert all(torch.equal(weight, before[name]) for name, weight in module.state_dict().items())
