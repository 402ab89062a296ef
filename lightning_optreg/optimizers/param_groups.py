"""Which parameters weight decay shrinks: all, or all but biases and parameters of normalisation layers."""

from typing import Any

from torch import nn

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


def param_groups(module: nn.Module, *, no_decay: bool) -> list[dict[str, Any]]:
    """Group a module's trainable parameters for an optimizer.

    A bias only shifts, and a scale before a normalisation is undone by it: shrinking them regularises nothing
    (Goodfellow et al. 2016, "Deep Learning", 7.1; He et al. 2019, "Bag of tricks", arXiv:1812.01187, 3.1).

    Args:
        module: Any module.
        no_decay: Put the biases of all layers and all parameters of normalisation layers into another group,
            with `weight_decay` 0. False: one group with everything.

    Returns:
        The group with the optimizer's weight decay, then the one without; empty groups are left out.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
        >>> [(len(group["params"]), group.get("weight_decay")) for group in param_groups(net, no_decay=True)]
        [(1, None), (3, 0.0)]
    """
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if not no_decay:
        return [{"params": trainable}]
    spared = biases_and_norms(module)
    groups: list[dict[str, Any]] = [
        {"params": [parameter for parameter in trainable if id(parameter) not in spared]},
        {"params": [parameter for parameter in trainable if id(parameter) in spared], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]
