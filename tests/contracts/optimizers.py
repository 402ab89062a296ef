"""The table of optimizers that the contract tests go through. A new one is tested by adding a row."""

import inspect
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch.optim import Optimizer

from lightning_optreg import optimizers

NAN = float("nan")


@dataclass(frozen=True)
class Rule:
    """How the contract tests build an optimizer.

    Attributes:
        arguments: What it is built with; all else at its default.
        sparse: Whether it takes sparse gradients.
        decoupled: Whether weight decay shrinks parameters instead of being added to gradients.
        reads_values: Whether a step decides by values that it reads from the device.
        neutral: Arguments at which a step changes nothing.
        wrong: Wrong arguments, each with a part of the message that must name them.
        around: Name of the optimizer that it is put around, which gets the settings that it has not itself.
    """

    arguments: dict[str, Any] = field(default_factory=dict)
    sparse: bool = False
    decoupled: bool = False
    reads_values: bool = False
    neutral: dict[str, Any] = field(default_factory=lambda: {"lr": 0.0})
    wrong: tuple[tuple[dict[str, Any], str], ...] = ()
    around: str | None = None


BETAS = (({"betas": (0.9, 1.0)}, "betas"), ({"betas": (0.9,)}, "betas"), ({"eps": -1.0}, "eps"))
SIGNS = (
    ({"beta": 1.0}, "beta"),
    ({"decay": "sine"}, "decay"),
    ({"decay": "linear", "decay_steps": None}, "decay_steps"),
    ({"decay_steps": 0}, "decay_steps"),
    ({"periods": NAN}, "periods"),
)

FIRST_ORDER: dict[str, Rule] = {
    "AdaDelay": Rule(sparse=True, wrong=(({"beta": 0.0}, "beta"), ({"variant": "adam"}, "variant"))),
    "AdaptiveRevision": Rule(sparse=True),
    "AddSign": Rule(
        {"lr": 0.01, "decay": "cosine", "decay_steps": 40}, wrong=(*SIGNS, ({"alpha": -1.0}, "alpha"))
    ),
    "FilterMuon": Rule(
        {"lr": 0.02},
        decoupled=True,
        wrong=(
            *BETAS,
            ({"momentum": 1.0}, "momentum"),
            ({"ns_steps": 0}, "ns_steps"),
            ({"others_factor": -1.0}, "others_factor"),
            ({"others": "adam"}, "others"),
            ({"adjust_lr_fn": "none"}, "adjust_lr_fn"),
        ),
    ),
    "HeavyBall": Rule({"lr": 0.02}, wrong=(({"momentum": 1.0}, "momentum"), ({"momentum": NAN}, "momentum"))),
    "LectureAMSGrad": Rule({"lr": 0.02}, wrong=BETAS),
    "LectureAdaMax": Rule({"lr": 0.02}, wrong=BETAS),
    "LectureAdagrad": Rule({"lr": 0.02}, sparse=True, wrong=(({"eps": 0.0}, "eps"),)),
    "LectureAdam": Rule({"lr": 0.02}, wrong=BETAS),
    "LectureNAdam": Rule({"lr": 0.02}, wrong=BETAS),
    "LectureRMSprop": Rule({"lr": 0.02}, wrong=(({"alpha": 1.0}, "alpha"), ({"eps": NAN}, "eps"))),
    "NAG": Rule({"lr": 0.02}, wrong=(({"momentum": 1.0}, "momentum"), ({"momentum": NAN}, "momentum"))),
    "NAGConvex": Rule({"lr": 0.02}, wrong=(({"restart": "loss"}, "restart"),)),
    "NAGStronglyConvex": Rule(
        {"lr": 0.02, "mu": 0.5},
        wrong=(({"mu": -1.0}, "mu"), ({"mu": 100.0}, "mu"), ({"restart": "loss"}, "restart")),
    ),
    "PowerSign": Rule(
        {"lr": 0.005, "decay": "restart", "decay_steps": 40}, wrong=(*SIGNS, ({"base": 0.0}, "base"))
    ),
    "SWATS": Rule(
        {"lr": 0.01, "betas": (0.8, 0.9), "switch_eps": 0.02},
        reads_values=True,
        wrong=(
            ({"betas": (0.9, 1.0)}, "betas"),
            ({"betas": (0.9,)}, "betas"),
            ({"eps": -1.0}, "eps"),
            ({"switch_eps": NAN}, "switch_eps"),
        ),
    ),
}

# Around a first-order rule, of which they keep what its users take for granted.
AROUND: dict[str, Rule] = {"Lookahead": Rule({"lr": 0.02, "k": 3}, around="HeavyBall")}

RULES = {**FIRST_ORDER, **AROUND}

# What every first-order rule refuses.
WRONG: tuple[tuple[dict[str, Any], str], ...] = (
    ({"lr": -1.0}, "lr"),
    ({"lr": NAN}, "lr"),
    ({"weight_decay": -0.1}, "weight_decay"),
)

# Held to tests of their own: they take a closure, and parameters of one group.
SECOND_ORDER: tuple[str, ...] = ("BFGS", "Newton")


def make(name: str, params: Any, **options: Any) -> Optimizer:
    """Build an optimizer of the table; one around another hands the settings on that it has not itself."""
    cls, rule = getattr(optimizers, name), RULES[name]
    arguments = {**rule.arguments, **options}
    if rule.around is not None:
        own = inspect.signature(cls).parameters
        others = {key: arguments.pop(key) for key in list(arguments) if key not in own}
        arguments["optimizer"] = partial(getattr(optimizers, rule.around), **others)
    optimizer: Optimizer = cls(params, **arguments)
    return optimizer
