from functools import partial

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import nn
from torch.optim import LBFGS, SGD, Adadelta, Adagrad, Adam, AdamW, NAdam, Optimizer, RAdam, RMSprop, Rprop

from lightning_optreg.classifier import ImageClassifier
from lightning_optreg.nets import ResNet
from lightning_optreg.optimizers.param_groups import NORMALISATIONS, param_groups


def names(module: nn.Module) -> tuple[set[str], set[str]]:
    """The names in the group that decays and in that which doesn't."""
    by_id = {id(parameter): name for name, parameter in module.named_parameters()}
    found: tuple[set[str], set[str]] = (set(), set())
    for group in param_groups(module, no_decay=True):
        found["weight_decay" in group].update(by_id[id(parameter)] for parameter in group["params"])
        assert group.get("weight_decay", 0.0) == 0.0
    return found


def test_biases_and_normalisations_are_spared() -> None:
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4),
        nn.GroupNorm(2, 4),
        nn.PReLU(),
        nn.Linear(4, 4),
        nn.LayerNorm(4, bias=False),
        nn.RMSNorm(4),
    )
    decayed, spared = names(net)
    assert decayed == {"0.weight", "3.weight", "4.weight"}
    assert spared == {"0.bias", "1.weight", "1.bias", "2.weight", "2.bias", "4.bias", "5.weight", "6.weight"}


def test_biases_of_other_names() -> None:
    decayed, spared = names(
        nn.ModuleDict({"a": nn.MultiheadAttention(4, 2, add_bias_kv=True), "r": nn.RNN(2, 3)})
    )
    assert decayed == {"a.in_proj_weight", "a.out_proj.weight", "r.weight_ih_l0", "r.weight_hh_l0"}
    assert spared == {
        "a.in_proj_bias",
        "a.bias_k",
        "a.bias_v",
        "a.out_proj.bias",
        "r.bias_ih_l0",
        "r.bias_hh_l0",
    }


def test_every_normalisation_of_torch_is_known() -> None:
    """A new torch may bring one; lazy ones become one of these at their first batch."""
    of_torch = {
        cls
        for name, cls in vars(nn).items()
        if isinstance(cls, type) and "Norm" in name and "Lazy" not in name and cls is not nn.LocalResponseNorm
    }
    assert of_torch <= {nn.CrossMapLRN2d, *NORMALISATIONS}


def test_a_resnet() -> None:
    decayed, spared = names(ResNet(depth=8, input_shape=(3, 32, 32)))
    net = ResNet(depth=8, input_shape=(3, 32, 32))
    assert decayed == {name for name, parameter in net.named_parameters() if parameter.ndim > 1}
    assert spared == {name for name, parameter in net.named_parameters() if parameter.ndim == 1}


def test_each_parameter_once() -> None:
    """Shared layers and frozen parameters."""
    layer = nn.Linear(3, 3)
    net = nn.Sequential(layer, nn.ReLU(), layer, nn.BatchNorm1d(3))
    layer.weight.requires_grad_(False)
    groups = param_groups(net, no_decay=True)
    assert [len(group["params"]) for group in groups] == [3]
    assert groups[0]["weight_decay"] == 0.0
    (everything,) = param_groups(net, no_decay=False)
    assert len(everything["params"]) == 3
    assert "weight_decay" not in everything


@pytest.mark.parametrize(
    "optimizer", [SGD, Adam, AdamW, NAdam, RAdam, RMSprop, Adagrad, Adadelta], ids=lambda cls: cls.__name__
)
def test_without_gradient_only_decay_moves_parameters(optimizer: type[Optimizer]) -> None:
    """With gradient 0 what is spared stays bit for bit, and the rest shrinks."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.LayerNorm(3)).double()
    model = ImageClassifier(
        net, num_classes=3, optimizer=partial(optimizer, lr=1e-4, weight_decay=0.5), no_decay=True
    )
    before = {name: parameter.detach().clone() for name, parameter in net.named_parameters()}
    for parameter in net.parameters():
        parameter.grad = torch.zeros_like(parameter)
    model.configure_optimizers().step()
    for name, parameter in net.named_parameters():
        if name == "1.weight":
            assert bool((parameter.detach().abs() < before[name].abs()).all())
        else:
            assert torch.equal(parameter, before[name]), name


@pytest.mark.parametrize("optimizer", [LBFGS, Rprop], ids=lambda cls: cls.__name__)
def test_optimizers_without_weight_decay(optimizer: type[Optimizer]) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    model = ImageClassifier(net, optimizer=optimizer, no_decay=True)
    message = f"no_decay needs an optimizer with weight_decay; {optimizer.__name__} has none$"
    with pytest.raises(MisconfigurationException, match=message):
        model.configure_optimizers()
    ImageClassifier(net, optimizer=optimizer).configure_optimizers()


# ---- learning rates ----------------------------------------------------------------------------------------


class OwnNorm(nn.BatchNorm2d):
    """A layer derived from torch's."""


def factors(module: nn.Module, lr_factors: dict[str, float], *, no_decay: bool = False) -> dict[str, float]:
    """The factor of each parameter by its name."""
    by_id = {id(parameter): name for name, parameter in module.named_parameters()}
    groups = param_groups(module, no_decay=no_decay, lr_factors=lr_factors)
    return {by_id[id(parameter)]: group["lr_factor"] for group in groups for parameter in group["params"]}


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Sequential(nn.Conv2d(4, 4, 1), OwnNorm(4)))


@pytest.mark.parametrize(
    ("patterns", "found"),
    [
        ({"2.1.bias": 3}, {"2.1.bias": 3.0}),
        ({"BatchNorm2d.bias": 64}, {"1.bias": 64.0, "2.1.bias": 64.0}),
        ({"OwnNorm.*": 2}, {"2.1.weight": 2.0, "2.1.bias": 2.0}),
        ({"2.*.weight": 0.5}, {"2.0.weight": 0.5, "2.1.weight": 0.5}),
        ({"*.bias": 2, "BatchNorm?d.*": 3, "2.1.bias": 5}, {"0.bias": 2, "1.weight": 3, "1.bias": 6}),
        ({"[01].bias": 2}, {"0.bias": 2.0, "1.bias": 2.0}),
    ],
    ids=lambda value: str(value)[:40],
)
def test_factors_by_name_and_by_kind(patterns: dict[str, float], found: dict[str, float]) -> None:
    everything = factors(network(), patterns)
    if len(patterns) == 3:
        found |= {"2.0.bias": 2, "2.1.weight": 3, "2.1.bias": 30}
    assert everything == {name: found.get(name, 1.0) for name, _ in network().named_parameters()}


def test_groups_of_factors_and_of_weight_decay() -> None:
    net = network()
    groups = param_groups(net, no_decay=True, lr_factors={"BatchNorm2d.bias": 64, "0.weight": 0.5})
    assert [(g["name"], g["lr_factor"], g.get("weight_decay"), len(g["params"])) for g in groups] == [
        ("x1", 1.0, None, 1),
        ("x1-no_decay", 1.0, 0.0, 4),
        ("x0.5", 0.5, None, 1),
        ("x64-no_decay", 64.0, 0.0, 2),
    ]


def test_shared_and_frozen_parameters() -> None:
    layer = nn.Linear(3, 3)
    net = nn.Sequential(nn.Linear(3, 3), layer, nn.ModuleList([layer]))
    net[0].requires_grad_(False)
    assert factors(net, {"2.0.weight": 2.0, "1.weight": 3.0}) == {"1.weight": 6.0, "1.bias": 1.0}
    with pytest.raises(ValueError, match=r"^param_groups: lr_factors must match trainable .* got '0.weight'"):
        factors(net, {"0.weight": 2.0})


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        ({"BatchNrm2d.bias": 2}, r"got 'BatchNrm2d.bias'; did you mean BatchNorm2d.bias"),
        ({"*.gain": 2}, r"got '\*.gain'"),
        ({"*.bias": 0.0}, r"lr_factors\['\*.bias'\] must be in \(0, inf\), got 0.0"),
    ],
    ids=str,
)
def test_wrong_factors(patterns: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=f"^param_groups: .*{message}"):
        param_groups(network(), no_decay=False, lr_factors=patterns)
