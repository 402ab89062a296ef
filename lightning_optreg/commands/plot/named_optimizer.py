"""Optimizers as words of a command line: `Adam`, `Adam:lr=0.01,betas=(0.9,0.99)` or `Adam(lr=0.01)`.

Options are read as Python literals; nothing is evaluated. The default rates show well on each surface what a
method does; with two variables they are often much larger than those for a network.
"""

import ast
import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from lightning_optreg._nearest import nearest

__all__ = ["METHODS", "STEPS", "NamedOptimizer", "known_optimizers", "read_call", "read_optimizer"]

METHODS = ("SGD", "Momentum", "NAG", "Adagrad", "Adadelta", "RMSprop", "Adam")
"""The lecture's methods, which a picture shows unless others are named."""

STEPS = {"beale": 120, "rosenbrock": 300, "saddle": 100, "ravine": 60, "himmelblau": 60, "rastrigin": 100}
"""Steps of a picture of each surface."""

_PACKAGES = ("lightning_optreg.optimizers", "torch.optim")
# The lecture's name of a class with an option.
_ALIASES: dict[str, tuple[str, dict[str, Any]]] = {"Momentum": ("SGD", {"momentum": 0.9})}
# Learning rates tuned by eye. Methods in the last table take the rate of the one named there.
_RATES = {
    "beale": (1e-3, 2e-3, 2e-3, 0.4, 15.0, 0.04, 0.1),
    "rosenbrock": (1.2e-3, 5e-4, 5e-4, 0.3, 6.0, 0.015, 0.1),
    "saddle": (0.01, 0.01, 0.01, 0.4, 10.0, 0.015, 0.05),
    "ravine": (0.9, 0.1, 0.1, 1.5, 150.0, 0.2, 0.5),
    "himmelblau": (0.01, 4e-3, 4e-3, 0.5, 10.0, 0.1, 0.3),
    "rastrigin": (2e-3, 4e-3, 2e-3, 0.5, 10.0, 0.05, 0.6),
}
_LIKE = {
    "SGD": ("ASGD", "NAGConvex", "NAGStronglyConvex"),
    "Momentum": ("HeavyBall",),
    "Adam": ("AdamW", "NAdam", "RAdam", "Adamax", "SWATS"),
}


@dataclass(frozen=True)
class NamedOptimizer:
    """An optimizer as named on a command line.

    Args:
        label: What the picture calls it: the name, with the options if any were given, and its learning rate.
        make: Its class.
        options: The class's arguments, except the parameters.

    Example:
        >>> read_optimizer("Adam:lr=0.1,betas=(0.9,0.99)", "beale")
        NamedOptimizer(label='Adam:lr=0.1,betas=(0.9,0.99)', make=<class 'torch.optim.adam.Adam'>, \
options={'lr': 0.1, 'betas': (0.9, 0.99)})
    """

    label: str
    make: Callable[..., Optimizer]
    options: Mapping[str, Any]

    def __call__(self, params: list[Tensor]) -> Optimizer:
        """Make the optimizer of these parameters."""
        return self.make(params, **self.options)


def read_optimizer(text: str, surface: str) -> NamedOptimizer:
    """Read an optimizer and its options.

    Args:
        text: `NAME`, `NAME:key=value,...` or `NAME(key=value, ...)`. The name is that of a class of
            torch.optim or of `lightning_optreg.optimizers`, in any case, or `Momentum` for SGD with
            momentum 0.9; values are Python literals.
        surface: The name of the surface, which sets the default learning rate.

    Returns:
        What was read, with the defaults filled in.

    Raises:
        ValueError: If there is no such class, or it has no such option, or a value is not a literal.
    """
    name, given = read_call(text, "optimizer")
    known = known_optimizers()
    by_lower_case = {other.lower(): other for other in known}
    found = by_lower_case.get(name.lower())
    if found is None:
        raise ValueError(f"unknown optimizer {name!r}{nearest(name, known, few=len(known))}")
    make = known[found]
    accepted = [key for key in inspect.signature(make).parameters if key != "params"]
    for key in given:
        if key not in accepted:
            raise ValueError(f"{found} has no option {key!r}{nearest(key, accepted, few=len(accepted))}")
    options = dict(_ALIASES[found][1]) if found in _ALIASES else {}
    rate = _rate(found, surface)
    if rate is not None and "lr" in accepted:
        options["lr"] = rate
    options |= given
    label = text if given else found
    if "lr" in accepted and "lr" not in given:
        lr = options.get("lr", inspect.signature(make).parameters["lr"].default)
        label += f", lr {lr:g}"
    return NamedOptimizer(label, make, options)


def known_optimizers() -> dict[str, Callable[..., Optimizer]]:
    """The optimizers that a name can mean, by their names, sorted.

    Example:
        >>> {"Adam", "Momentum", "SWATS"} <= set(known_optimizers())
        True
        >>> "UpdateRule" in known_optimizers()
        False
    """
    known: dict[str, Callable[..., Optimizer]] = {}
    for package in map(importlib.import_module, _PACKAGES):
        for name, member in vars(package).items():
            if isinstance(member, type) and issubclass(member, Optimizer):
                known.setdefault(name, member)
    for base in ("Optimizer", "UpdateRule"):  # torch's and this package's, without an update of their own
        del known[base]
    known |= {name: known[base] for name, (base, _) in _ALIASES.items()}
    return dict(sorted(known.items(), key=lambda item: item[0].lower()))


def read_call(text: str, what: str, *, bare: bool = False) -> tuple[str, dict[str, Any]]:
    """Read a name and its options; nothing is evaluated.

    Args:
        text: `NAME`, `NAME:key=value,...` or `NAME(key=value, ...)`; values are Python literals.
        what: What it is, for the message.
        bare: Whether a value may also be a name, which is taken as a string.

    Raises:
        ValueError: If it cannot be read.

    Example:
        >>> read_call("Adam:lr=0.1,betas=(0.9, 0.99)", "optimizer")
        ('Adam', {'lr': 0.1, 'betas': (0.9, 0.99)})
        >>> read_call("Downpour:optimizer=Adagrad", "method", bare=True)
        ('Downpour', {'optimizer': 'Adagrad'})
    """
    name, colon, options = text.partition(":") if "(" not in text.partition(":")[0] else (text, "", "")
    try:
        tree = ast.parse(f"{name}({options})" if colon else text.strip(), mode="eval").body
        if isinstance(tree, ast.Name):
            return tree.id, {}
        if isinstance(tree, ast.Call) and isinstance(tree.func, ast.Name) and not tree.args:
            given = {
                word.arg: word.value.id
                if bare and isinstance(word.value, ast.Name)
                else ast.literal_eval(word.value)
                for word in tree.keywords
            }
            if None not in given:  # that would be **options
                return tree.func.id, {str(key): value for key, value in given.items()}
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
        pass  # raised by ast for text that is not an expression or a literal
    raise ValueError(f"cannot read the {what} {text!r}; write NAME or NAME:lr=0.1,momentum=0.9")


def _rate(name: str, surface: str) -> float | None:
    """The learning rate of a method in a surface's picture; None for the class's own default."""
    name = next((model for model, others in _LIKE.items() if name in others), name)
    return dict(zip(METHODS, _RATES[surface], strict=True)).get(name)
