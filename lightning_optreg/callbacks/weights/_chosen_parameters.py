"""Choose the parameters that a callback works on: by name, by type of layer, or all weights.

Layers may be frozen at first or created later, and optimizers then get their parameters during the run. So
the choice is made among all parameters, and again when an optimizer has a new one.
"""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import nn
from torch.optim import Optimizer

from lightning_optreg._nearest import close_names
from lightning_optreg.optimizers.param_groups import biases_and_norms

__all__ = ["Chosen", "ChosenParameters", "check_choice", "choose_parameters"]

_SHOWN, _CLOSE = 6, 3  # names in an error


class Chosen(NamedTuple):
    """A parameter, its full name and the layer it belongs to."""

    name: str
    parameter: nn.Parameter
    layer: nn.Module


def check_choice(owner: str, names: Sequence[str], types: Sequence[str]) -> None:
    """Raise TypeError if these aren't lists of strings."""
    for argument, texts in (("names", names), ("types", types)):
        listed = isinstance(texts, Sequence) and not isinstance(texts, str)
        if not (listed and all(isinstance(text, str) and text for text in texts)):
            raise TypeError(f"{owner}: {argument} must be a list of strings, got {texts!r}")


def choose_parameters(
    owner: str, module: nn.Module, names: Sequence[str] = (), types: Sequence[str] = ()
) -> list[Chosen]:
    """Choose parameters of a module, each once, including frozen ones.

    Args:
        owner: Name of the calling class, for the error.
        module: Any module.
        names: Patterns with `*` and `?` ("net.layer1.*"); a parameter's full name must match one. If given,
            biases and the parameters of normalisation layers can be chosen too. A pruned weight, which torch
            renames to "weight_orig", keeps its name here.
        types: Names of layers' classes or of their bases ("Linear"); the layer must be of one.

    Raises:
        MisconfigurationException: If no parameter is chosen.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Conv1d(3, 2, 1))
        >>> [name for name, _, _ in choose_parameters("L1Penalty", net)]
        ['0.weight', '2.weight']
        >>> [name for name, _, _ in choose_parameters("L1Penalty", net, names=["0.*"], types=["Linear"])]
        ['0.weight', '0.bias']
    """
    spared = set() if names else biases_and_norms(module)
    chosen: dict[int, Chosen] = {}
    for prefix, layer in module.named_modules():
        if types and not {cls.__name__ for cls in type(layer).__mro__} & set(types):
            continue
        for short, parameter in layer.named_parameters(recurse=False):
            name = f"{prefix}.{short}" if prefix else short
            if id(parameter) in spared:
                continue
            if hasattr(layer, f"{short.removesuffix('_orig')}_mask"):
                name = name.removesuffix("_orig")
            if not names or any(fnmatchcase(name, pattern) for pattern in names):
                chosen.setdefault(id(parameter), Chosen(name, parameter, layer))
    if not chosen:
        raise MisconfigurationException(f"{owner}: {_why_none(module, names, types)}")
    return list(chosen.values())


def _why_none(module: nn.Module, names: Sequence[str], types: Sequence[str]) -> str:
    """Say that nothing is chosen, and which names or classes are close to those given."""
    known = [name for name, _ in module.named_parameters()]
    if not known:
        return "the module has no parameters"
    shown = f"{', '.join(known[:_SHOWN])}{', ...' if len(known) > _SHOWN else ''} ({len(known)} in all)"
    if not (names or types):
        return f"all parameters are biases or of normalisation layers; give names to choose some of {shown}"
    given = " and ".join(
        f"{argument}={list(texts)}" for argument, texts in (("names", names), ("types", types)) if texts
    )
    layers = {type(layer).__name__ for layer in module.modules() if list(layer.parameters(recurse=False))}
    close = [near for text in types if text not in layers for near in close_names(text, sorted(layers))]
    above = [f"{name.rpartition('.')[0]}.*" for name in known if "." in name]
    roots = [f"{name.partition('.')[0]}.*" for name in known if "." in name]
    for text in names:
        if not any(fnmatchcase(name, text) for name in known):
            close += close_names(text, [*roots, *above, *known])
    close = list(dict.fromkeys(close))[:_CLOSE]
    hint = f"; did you mean {' or '.join(close)}?" if close else ""
    return f"{given} choose none of the parameters {shown}{hint}"


class ChosenParameters:
    """A choice of a module's parameters that follows the module when layers are frozen, unfrozen or added.

    Args:
        owner: Name of the calling class, for the error.
        module: Any module.
        names: Patterns of names.
        types: Names of layers' classes.

    Raises:
        MisconfigurationException: If none is chosen.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)).requires_grad_(False)
        >>> chosen = ChosenParameters("MaxNorm", net)
        >>> _ = net[1].requires_grad_(True)
        >>> [name for name, _, _ in chosen.now()]
        ['1.weight']
    """

    def __init__(
        self, owner: str, module: nn.Module, names: Sequence[str] = (), types: Sequence[str] = ()
    ) -> None:
        self._owner, self._module, self._names, self._types = owner, module, names, types
        self._known: dict[int, tuple[nn.Parameter, Chosen | None]] = {}
        self._look()

    def _look(self) -> None:
        chosen = choose_parameters(self._owner, self._module, self._names, self._types)
        # References to all, so that no new parameter gets the id of an old one.
        self._known = {id(parameter): (parameter, None) for parameter in self._module.parameters()}
        self._known.update({id(each.parameter): (each.parameter, each) for each in chosen})

    def all(self) -> list[Chosen]:
        """Return all that are known, including frozen ones."""
        return [each for _, each in self._known.values() if each is not None]

    def now(self) -> list[Chosen]:
        """Return those that are trained now, as far as they are known."""
        return [each for each in self.all() if each.parameter.requires_grad]

    def of(self, optimizer: Optimizer) -> list[Chosen]:
        """Return those that an optimizer trains now, in its order."""
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        if any(id(parameter) not in self._known for parameter in parameters):
            self._look()
            for parameter in parameters:  # of another module
                self._known.setdefault(id(parameter), (parameter, None))
        found = (self._known[id(parameter)][1] for parameter in parameters)
        return [each for each in found if each is not None and each.parameter.requires_grad]
