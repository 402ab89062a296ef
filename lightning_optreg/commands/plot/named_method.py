"""Methods of parallel SGD as words of a command line: `DDP`, `LocalSGD:period=50`, `Downpour(n_fetch=5)`."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from lightning_optreg._nearest import nearest

if TYPE_CHECKING:  # torch is imported when something is computed: it takes a while
    from torch import Tensor
    from torch.optim import Optimizer

    from lightning_optreg.analysis.parallel_methods import ParallelMethod

__all__ = ["METHODS", "NamedMethod", "read_method"]

METHODS = {
    "DDP": "SimulatedDDP",
    "LocalSGD": "SimulatedLocalSGD",
    "DiLoCo": "SimulatedLocalSGD",
    "ElasticAveraging": "SimulatedElasticAveraging",
    "AsyncElasticAveraging": "SimulatedElasticAveraging",
    "Downpour": "SimulatedDownpour",
    "Hogwild": "SimulatedHogwild",
}
"""What can be named, and the class that simulates it."""

_OUTER = {"outer_lr": 0.7, "outer_momentum": 0.9}  # Douillard et al. 2023


@dataclass(frozen=True)
class NamedMethod:
    """A method as named on a command line.

    Args:
        label: What the picture calls it.
        method: The method with its settings.
        make: Class of the optimizer.
        options: The optimizer's options, except the learning rate if none was given.

    Example:
        >>> read_method("LocalSGD:period=50,lr=0.1").options
        {'lr': 0.1}
    """

    label: str
    method: "ParallelMethod"
    make: Callable[..., "Optimizer"]
    options: Mapping[str, Any]

    def optimizer(self, lr: float) -> "Callable[[list[Tensor]], Optimizer]":
        """Return what makes its optimizer, with this learning rate unless it has its own."""
        return partial(self.make, **{"lr": lr, **self.options})


def read_method(text: str) -> NamedMethod:
    """Read a method and its options.

    Args:
        text: `NAME`, `NAME:key=value,...` or `NAME(key=value, ...)`. The options are those of the class that
            simulates it; for LocalSGD and DiLoCo also `outer_lr` and `outer_momentum` of a Nesterov outer
            optimizer; `optimizer`, the name of a class of torch.optim or of this package (SGD); and the
            options of that optimizer.

    Raises:
        ValueError: If there is no such method or option, or a value is wrong.
    """
    import inspect

    from torch.optim import SGD

    from lightning_optreg.analysis import parallel_methods
    from lightning_optreg.commands.plot.named_optimizer import known_optimizers, read_call

    name, given = read_call(text, "method", bare=True)
    found = next((known for known in METHODS if known.lower() == name.lower()), None)
    if found is None:
        raise ValueError(f"unknown method {name!r}{nearest(name, METHODS, few=len(METHODS))}")
    cls: Any = getattr(parallel_methods, METHODS[found])
    own = [each.name for each in dataclasses.fields(cls) if each.name not in ("make_outer", "asynchronous")]
    settings = {key: given.pop(key) for key in own if key in given}
    if found == "AsyncElasticAveraging":
        settings["asynchronous"] = True
    outer = dict(_OUTER) if found == "DiLoCo" else {}
    if METHODS[found] == "SimulatedLocalSGD":
        own += list(_OUTER)
        outer |= {key: given.pop(key) for key in _OUTER if key in given}
    if outer:
        momentum = outer.get("outer_momentum", 0.0)
        settings["make_outer"] = partial(
            SGD, lr=outer.get("outer_lr", 1.0), momentum=momentum, nesterov=momentum > 0
        )
    chosen = str(given.pop("optimizer", "SGD"))
    optimizers = known_optimizers()
    kind = next((known for known in optimizers if known.lower() == chosen.lower()), None)
    if kind is None:
        raise ValueError(f"{found}: unknown optimizer {chosen!r}{nearest(chosen, optimizers)}")
    options = {"momentum": 0.9} if kind == "Momentum" else {}
    accepted = [key for key in inspect.signature(optimizers[kind]).parameters if key != "params"]
    for key in given:
        if key not in accepted:
            names = [*own, "optimizer", *accepted]
            raise ValueError(f"{found} has no option {key!r}{nearest(key, names, few=len(names))}")
    try:
        return NamedMethod(
            text if text != name else found, cls(**settings), optimizers[kind], options | given
        )
    except TypeError as error:  # a word where a number is compared
        raise ValueError(f"{found}: {error}") from error
