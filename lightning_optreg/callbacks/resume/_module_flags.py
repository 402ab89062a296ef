"""What a module is told and no `state_dict` holds: which parameters are frozen, which layers evaluate.

Callbacks such as Lightning's `BackboneFinetuning` change it in the middle of a run and do not do so again
after a resume: layers that had been set free would stay frozen.
"""

from collections.abc import Mapping
from typing import Any

from lightning.pytorch import LightningModule, Trainer

__all__ = ["collect_flags", "restore_flags"]


def collect_flags(trainer: Trainer, pl_module: LightningModule) -> dict[str, dict[str, bool]]:
    """Read the flags of a module's parameters and layers.

    Args:
        trainer: The trainer, while it fits.
        pl_module: The module.

    Returns:
        By kind of flag, its value by name: `requires_grad` of parameters, `training` and (of batch
        normalisation, which is frozen by it) `track_running_stats` of layers. Within a validation `training`
        is what it was before.
    """
    training = {name: layer.training for name, layer in pl_module.named_modules()}
    if trainer.validating:
        # Private in Lightning 2.6: within a validation there is no public way to the modes before it.
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
    """Set the flags of a module's parameters and layers to what `collect_flags` read.

    Args:
        trainer: The trainer, while it fits. Within a validation `training` is set for after it.
        pl_module: The module.
        flags: What `collect_flags` returned. Names that the module has not got are left out.
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
