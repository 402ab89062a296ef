"""An optimizer of a module's parameters in groups, with weight decay and learning rates of their own."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_optreg.optimizers.param_groups import param_groups

__all__ = ["grouped_optimizer"]


def grouped_optimizer(
    make: Callable[[Any], Optimizer],
    module: nn.Module,
    *,
    no_decay: bool,
    lr_factors: Mapping[str, float] | None,
    lr: float | None,
) -> Optimizer:
    """Create an optimizer of a module's parameters.

    Args:
        make: Makes an optimizer from parameter groups.
        module: The module.
        no_decay: As in `param_groups`.
        lr_factors: As in `param_groups`.
        lr: Replaces the optimizer's rate, before it is multiplied by the factors.

    Raises:
        ValueError: If `lr_factors` match nothing.
        MisconfigurationException: If the optimizer has no weight decay or no rate that could be different.
    """
    groups = param_groups(module, no_decay=no_decay, lr_factors=lr_factors)
    optimizer = make(groups[:1])
    # Checked before there is a second group: some optimizers without weight decay take only one.
    needs = {"weight_decay": no_decay and "no_decay", "lr": lr_factors and "lr_factors"}
    for setting, argument in needs.items():
        if argument and setting not in optimizer.defaults:
            raise MisconfigurationException(
                f"ImageClassifier: {argument} needs an optimizer with {setting}; "
                f"{type(optimizer).__name__} has none"
            )
    if len(groups) > 1:
        # Created again, not extended: torch 2.9's Adagrad gives no state to groups that are added later.
        optimizer = make(groups)
    if lr_factors and not all("lr_factor" in group for group in optimizer.param_groups):
        raise MisconfigurationException(
            f"ImageClassifier: lr_factors need an optimizer of the groups that it is given; "
            f"{type(optimizer).__name__} was made of others"
        )
    for group in optimizer.param_groups:
        factor, old = group.get("lr_factor", 1.0), group.get("lr")
        if lr is not None:
            # Not in place: the tensor may be the user's, and used for other optimizers.
            group["lr"] = torch.full_like(old, lr * factor) if isinstance(old, Tensor) else lr * factor
        elif factor != 1.0:
            group["lr"] = factor * old
    return optimizer
