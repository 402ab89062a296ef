"""Auxiliary heads: the loss by hand, what is logged, torchvision's networks, what is refused."""

import copy
import math
from functools import partial
from typing import Any

import pytest
import torch
import torchvision
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD
from torch.utils.data import DataLoader, TensorDataset

from lightning_optreg.classifier import ImageClassifier
from lightning_optreg.nets import GoogLeNet
from tests.classifier.small_models import loader, small_net, trainer_for

pytestmark = pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`")


class WithHeads(nn.Module):
    """Three linear classifiers, of which two are for training only."""

    def __init__(self, always: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Tanh())
        self.heads = nn.ModuleList([nn.Linear(8, 3) for _ in range(3)])
        self.always = always

    def forward(self, x: Tensor) -> Any:
        scores = tuple(head(self.body(x)) for head in self.heads)
        return scores if self.training or self.always else scores[0]


@pytest.mark.parametrize("aux_weight", [0.3, 0.0, 1.0])
def test_a_step_minimises_the_weighted_sum(aux_weight: float) -> None:
    net = WithHeads()
    twin = copy.deepcopy(net)
    optimizer = SGD(twin.parameters(), lr=0.5)
    first_losses, right = 0.0, 0
    for x, y in loader():
        scores, *others = twin(x)
        loss = F.cross_entropy(scores, y)
        first_losses += loss.item() * len(y)
        right += int((scores.argmax(1) == y).sum())
        for other in others:
            loss = loss + aux_weight * F.cross_entropy(other, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model = ImageClassifier(net, num_classes=3, optimizer=partial(SGD, lr=0.5), aux_weight=aux_weight)
    trainer = trainer_for()
    trainer.fit(model, loader())
    for one, two in zip(net.parameters(), twin.parameters(), strict=True):
        assert torch.equal(one, two)
    # Logged are loss and accuracy of the network's own scores, comparable with those of validation.
    assert trainer.callback_metrics["train/loss"].item() == pytest.approx(first_losses / 10)
    assert trainer.callback_metrics["train/accuracy"].item() == pytest.approx(right / 10)


def test_validation_test_and_prediction_use_the_first_entry() -> None:
    model = ImageClassifier(WithHeads(), num_classes=3)
    trainer = trainer_for()
    (values,) = trainer.validate(model, loader(), verbose=False)
    scores = torch.cat([model.net.eval()(x) for x, _ in loader()])
    labels = torch.cat([y for _, y in loader()])
    assert values["val/loss"] == pytest.approx(F.cross_entropy(scores, labels).item())
    predictions = torch.cat(trainer.predict(model, loader()))
    torch.testing.assert_close(predictions, scores.softmax(1))


def test_without_heads_nothing_changes() -> None:
    states = []
    for aux_weight in (0.3, 7.0):
        model = ImageClassifier(
            small_net(), num_classes=3, optimizer=partial(SGD, lr=0.1), aux_weight=aux_weight
        )
        trainer_for().fit(model, loader())
        states.append(model.net.state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.parametrize("name", ["ours", "googlenet", "googlenet_without_heads"])
def test_known_networks_train(name: str) -> None:
    torch.manual_seed(0)
    heads = 0 if name == "googlenet_without_heads" else 2
    if name == "ours":
        net: nn.Module = GoogLeNet(3, (3, 32, 32), width=0.05, aux_hidden=8)
    else:
        net = torchvision.models.GoogLeNet(num_classes=3, init_weights=False, aux_logits=heads > 0)
    x, y = torch.randn(2, 3, 32, 32), torch.tensor([0, 2])
    model = ImageClassifier(net, num_classes=3, optimizer=partial(SGD, lr=0.01))
    losses: list[float] = []
    model.loss.register_forward_hook(lambda *call: losses.append(call[-1].item()))
    trainer_for().fit(model, DataLoader(TensorDataset(x, y), batch_size=2))
    assert len(losses) == 1 + heads
    assert all(math.isfinite(loss) for loss in losses)
    assert all(p.grad is not None for p in net.parameters())  # those of the heads too


class Returns(nn.Module):
    def __init__(self, value: Any) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 3)
        self.value = value

    def forward(self, x: Tensor) -> Any:
        return self.value(self.layer(x.flatten(1)))


@pytest.mark.parametrize("auxiliary", [True, False])
def test_what_torchvisions_inception_v3_returns(auxiliary: bool) -> None:
    make = torchvision.models.inception.InceptionOutputs
    net = Returns(lambda scores: make(scores, 2 * scores if auxiliary else None))
    twin = copy.deepcopy(net.layer)
    trainer_for(max_steps=1).fit(
        ImageClassifier(net, num_classes=3, optimizer=partial(SGD, lr=1.0)), loader()
    )
    x, y = next(iter(loader()))
    scores = twin(x.flatten(1))
    loss = F.cross_entropy(scores, y)
    (loss + 0.3 * F.cross_entropy(2 * scores, y) if auxiliary else loss).backward()
    torch.testing.assert_close(net.layer.weight, twin.weight - twin.weight.grad)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (lambda s: {"scores": s}, "must return scores, or in training a tuple of scores, .* got dict$"),
        (lambda s: (s, "x"), "must return scores, or in training a tuple of scores, .* got tuple$"),
        (lambda s: (None,), "must return scores, or in training a tuple of scores, .* got tuple$"),
        (lambda s: (s, s[:, :2]), r"scores must have shape \(N, 3\) for num_classes=3, got \(4, 2\)$"),
        (lambda s: (s, s[:2]), r"labels must be int64 of shape \(2,\), one per image"),
    ],
)
def test_what_is_no_scores_is_refused_before_the_first_step(value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^ImageClassifier: .*{message}"):
        trainer_for().fit(ImageClassifier(Returns(value), num_classes=3), loader())


def test_a_tuple_in_evaluation_is_refused() -> None:
    model = ImageClassifier(WithHeads(always=True), num_classes=3)
    message = "^ImageClassifier: in evaluation the network must return one tensor of scores, got tuple$"
    with pytest.raises(MisconfigurationException, match=message):
        trainer_for().validate(model, loader(), verbose=False)


@pytest.mark.parametrize("aux_weight", [-0.1, math.inf, math.nan])
def test_the_weight_has_a_range(aux_weight: float) -> None:
    message = rf"^ImageClassifier: aux_weight must be in \[0, inf\), got {aux_weight}$"
    with pytest.raises(ValueError, match=message):
        ImageClassifier(small_net(), num_classes=3, aux_weight=aux_weight)
