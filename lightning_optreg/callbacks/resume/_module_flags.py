"""Flags of a module that are not in its `state_dict`: frozen parameters, layers in evaluation mode.

Callbacks such as Lightning's `BackboneFinetuning` change them during a run, but not again after a resume:
layers that had been unfrozen would stay frozen.
"""

from collections.abc import Mapping
from typing import Any

from lightning.pytorch import LightningModule, Trainer

__all__ = ["collect_flags", "restore_flags"]


def collect_flags(trainer: Trainer, pl_module: LightningModule) -> dict[str, dict[str, bool]]:
    """Read the flags of a module's parameters and layers.

    Args:
        trainer: The trainer, during a fit.
        pl_module: The module.

    Returns:
        For each flag its values by name: `requires_grad` of parameters, `training` and (for batch
        normalisation, which it freezes) `track_running_stats` of layers. Within a validation, `training` has
        the values before it.
    """
    training = {name: layer.training for name, layer in pl_module.named_modules()}
    if trainer.validating:
        # Private in Lightning 2.6: within a validation there is no public access to the modes before it.
        training |= trainer.fit_loop.epoch_loop.val_loop._module_mode.mode
    return {
        "requires_grad": {name: each.requires_grad for name, each in pl_module.named_parameters()},
        "training": training,
        "track_running_stats": {
            name: bool(layer.track_running_stats)
            for name, layer in pl_module.named_modules()
            if isinstance(getattr(layer, "track_running_stats", None), bool)
        },
    }


def restore_flags(
    trainer: Trainer, pl_module: LightningModule, flags: Mapping[str, Mapping[str, bool]]
) -> None:
    """Restore the flags of a module's parameters and layers from `collect_flags`.

    Args:
        trainer: The trainer, during a fit. Within a validation `training` is set for the time after it.
        pl_module: The module.
        flags: Result of `collect_flags`. Names that the module lacks are ignored.
    """
    targets: dict[str, dict[str, Any]] = {
        "requires_grad": dict(pl_module.named_parameters()),
        "training": dict(pl_module.named_modules()),
        "track_running_stats": dict(pl_module.named_modules()),
    }
    for flag, values in flags.items():
        if flag == "training" and trainer.validating:
            modes = trainer.fit_loop.epoch_loop.val_loop._module_mode.mode
            modes.update((name, value) for name, value in values.items() if name in modes)
            continue
        for name, value in values.items():
            target = targets[flag].get(name)
            if target is not None and getattr(target, flag) != value:
                setattr(target, flag, value)
