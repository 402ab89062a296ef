"""Which of a module's parameters a callback works on: by name, by type of layer, or all true weights."""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import nn

from lightning_optreg.param_groups import biases_and_norms

__all__ = ["Chosen", "check_choice", "choose_parameters"]


class Chosen(NamedTuple):
    """A parameter, its full name and the layer it belongs to."""

    name: str
    parameter: nn.Parameter
    layer: nn.Module


def check_choice(owner: str, names: Sequence[str], types: Sequence[str]) -> None:
    """Raise TypeError if these aren't lists of texts."""
    for argument, texts in (("names", names), ("types", types)):
        if isinstance(texts, str) or not all(isinstance(text, str) and text for text in texts):
            raise TypeError(f"{owner}: {argument} must be a list of texts, got {texts!r}")


def choose_parameters(
    owner: str, module: nn.Module, names: Sequence[str] = (), types: Sequence[str] = ()
) -> list[Chosen]:
    """Choose trainable parameters of a module, each once.

    Args:
        owner: Who asks, for the message.
        module: Any module.
        names: Patterns as of files ("net.layer1.*"); a parameter's full name must match one. If there are
            any, biases and the parameters of normalisation layers count like all others.
        types: Names of layers' classes or of their bases ("Linear"); the layer must be of one.

    Raises:
        MisconfigurationException: If there is none.

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
            if not parameter.requires_grad or id(parameter) in spared:
                continue
            if not names or any(fnmatchcase(name, pattern) for pattern in names):
                chosen.setdefault(id(parameter), Chosen(name, parameter, layer))
    if not chosen:
        raise MisconfigurationException(
            f"{owner}: no trainable parameter is chosen by names={list(names)} and types={list(types)} of "
            f"{[name for name, parameter in module.named_parameters() if parameter.requires_grad]}"
        )
    return list(chosen.values())
