"""Groups of parameters: which of them weight decay shrinks, and which learn faster or slower than others."""

import math
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from lightning_optreg._checks import check_range
from lightning_optreg._nearest import nearest

__all__ = ["NORMALISATIONS", "biases_and_norms", "param_groups"]

NORMALISATIONS = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.SyncBatchNorm,
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
    nn.InstanceNorm3d,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
)
"""Layers whose own parameters are scales and shifts of normalised activations."""


def biases_and_norms(module: nn.Module) -> set[int]:
    """Return the `id` of every bias and of every parameter of a normalisation layer.

    A bias is a parameter named `bias`, or with that word in its name as in `in_proj_bias`.

    Args:
        module: Any module.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
        >>> [name for name, p in net.named_parameters() if id(p) in biases_and_norms(net)]
        ['0.bias', '1.weight', '1.bias']
    """
    return {
        id(parameter)
        for part in module.modules()
        for name, parameter in part.named_parameters(recurse=False)
        if "bias" in name.split("_") or isinstance(part, NORMALISATIONS)
    }


def param_groups(
    module: nn.Module, *, no_decay: bool, lr_factors: Mapping[str, float] | None = None
) -> list[dict[str, Any]]:
    """Group a module's trainable parameters for an optimizer.

    A bias only shifts, and a scale before a normalisation is undone by it: shrinking them regularises nothing
    (Goodfellow et al. 2016, "Deep Learning", 7.1; He et al. 2019, "Bag of tricks", arXiv:1812.01187, 3.1).
    They may also need other learning rates: Jordan 2024 (arXiv:2404.00498) trains the biases of batch
    normalisation at 64 times that of the filters, `{"BatchNorm2d.bias": 64}`.

    Args:
        module: Any module.
        no_decay: Put the biases of all layers and all parameters of normalisation layers into another group,
            with `weight_decay` 0. False: one group with everything.
        lr_factors: Multiples of the learning rate, above 0, by patterns such as `net.head.*` or `*.bias` for
            names of parameters, or `BatchNorm2d.bias` for the class of a layer (or a base of it) and the name
            in it; `*`, `?` and `[...]` are as in file names. Factors of several patterns that match are
            multiplied. None: one rate.

    Returns:
        The group with the optimizer's weight decay, then the one without; empty groups are left out. With
        `lr_factors`, such groups for each factor, which have it as `lr_factor` and a `name` for
        `LearningRateMonitor`. The factors are for you to multiply with the rate; `ImageClassifier` does it.

    Raises:
        ValueError: If a factor is out of range, or no trainable parameter matches a pattern.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
        >>> [(len(group["params"]), group.get("weight_decay")) for group in param_groups(net, no_decay=True)]
        [(1, None), (3, 0.0)]
        >>> groups = param_groups(net, no_decay=False, lr_factors={"BatchNorm1d.bias": 64})
        >>> [{**group, "params": len(group["params"])} for group in groups]
        [{'params': 3, 'lr_factor': 1.0, 'name': 'x1'}, {'params': 1, 'lr_factor': 64.0, 'name': 'x64'}]
    """
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if not (no_decay or lr_factors):
        return [{"params": trainable}]
    spared = biases_and_norms(module) if no_decay else set()
    factors = _factors(module, lr_factors or {})
    groups: list[dict[str, Any]] = []
    for factor in sorted(set(factors.values()), key=lambda factor: (factor != 1.0, factor)):
        mine = [parameter for parameter in trainable if factors[id(parameter)] == factor]
        groups += [
            {"params": [parameter for parameter in mine if id(parameter) not in spared]},
            {"params": [parameter for parameter in mine if id(parameter) in spared], "weight_decay": 0.0},
        ]
        for group in groups[-2:] if lr_factors else []:
            group["lr_factor"] = factor
            group["name"] = f"x{factor:g}{'-no_decay' if 'weight_decay' in group else ''}"
    return [group for group in groups if group["params"]]


def _factors(module: nn.Module, patterns: Mapping[str, float]) -> dict[int, float]:
    """Return the factor of each trainable parameter, by its `id`."""
    check_range("param_groups", "(0, inf)", **{f"lr_factors[{key!r}]": f for key, f in patterns.items()})
    names: dict[int, list[str]] = {}
    for prefix, part in module.named_modules(remove_duplicate=False):
        # Names of its bases too: a class of one's own that is derived from BatchNorm2d is one.
        bases = [cls for cls in type(part).__mro__ if issubclass(cls, nn.Module) and cls is not nn.Module]
        kinds = [cls.__name__ for cls in bases if not cls.__name__.startswith("_")]
        for name, parameter in part.named_parameters(recurse=False):
            if parameter.requires_grad:
                paths = [f"{place}.{name}" if place else name for place in (prefix, *kinds)]
                names[id(parameter)] = [*names.get(id(parameter), []), *paths]
    hits = {
        key: {one for one, own in names.items() if any(fnmatchcase(n, key) for n in own)} for key in patterns
    }
    for key, found in hits.items():
        if not found:
            known = [name for own in names.values() for name in own]
            raise ValueError(
                f"param_groups: lr_factors must match trainable parameters, got {key!r}{nearest(key, known)}"
            )
    return {one: math.prod(patterns[key] for key in patterns if one in hits[key]) * 1.0 for one in names}
