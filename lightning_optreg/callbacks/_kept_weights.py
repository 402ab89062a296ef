"""Keep weights while training continues, and restore them into the module as it is then.

Pruning (torch.nn.utils.prune, and Lightning's `ModelPruning` on top of it) splits a weight into `weight_orig`
and `weight_mask`, and joins them again when it is made permanent. So weights may be kept in one form and
needed in the other.
"""

from collections.abc import Callable, Mapping

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelPruning
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from lightning_optreg.trainer.queries import callbacks_of

__all__ = ["ValidatedWeights", "in_form_of", "put_weights"]


def in_form_of(present: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert weights to the form that a module has now.

    Args:
        present: The present `state_dict` of the module, or of a part of it.
        weights: An earlier `state_dict`, from before or after pruning.

    Returns:
        Each weight as a single tensor w = w_orig * mask if the module has it so, otherwise as two, with a
        mask of ones for weights that were not pruned.

    Example:
        >>> pruned = {"weight_orig": torch.tensor([2.0, 3.0]), "weight_mask": torch.tensor([0.0, 1.0])}
        >>> in_form_of({"weight": torch.zeros(2)}, pruned)
        {'weight': tensor([0., 3.])}
        >>> list(in_form_of(pruned, {"weight": torch.zeros(2)}))
        ['weight_orig', 'weight_mask']
    """
    formed = {}
    for name, value in weights.items():
        plain = name.removesuffix("_orig").removesuffix("_mask")
        if name not in present and plain != name and plain in present and f"{plain}_orig" in weights:
            formed[plain] = weights[f"{plain}_orig"] * weights[f"{plain}_mask"].to(value.dtype)
        elif name not in present and f"{name}_orig" in present:
            formed[f"{name}_orig"], formed[f"{name}_mask"] = value, torch.ones_like(value)
        else:
            formed[name] = value
    return formed


def put_weights(pl_module: LightningModule, weights: Mapping[str, Tensor]) -> None:
    """Load weights into a module that may have been pruned, or its pruning made permanent, since.

    Layers created since then stay unchanged, with a warning.
    """
    present = pl_module.state_dict()
    formed = in_form_of(present, weights)
    changed = sorted(present.keys() ^ formed.keys())
    if changed and pl_module.strict_loading:
        rank_zero_warn(
            f"The module's parameters have changed since the best weights were kept; not restored: {changed}"
        )
    kept = {name: formed.get(name, value) for name, value in present.items()}
    pl_module.load_state_dict(kept, strict=pl_module.strict_loading)


class ValidatedWeights:
    """The weights of a validation, for callbacks that judge it after other callbacks' hooks.

    Only `ModelPruning` is known to change weights between a validation and these hooks, so the weights are
    copied before each validation only if it is among the callbacks.

    Args:
        copy: Copies a tensor.
    """

    def __init__(self, copy: Callable[[Tensor], Tensor]) -> None:
        self._copy = copy
        self._before: dict[str, Tensor] | None = None

    def begin(self, trainer: Trainer) -> None:
        """Prepare for a validation that begins."""
        callbacks = callbacks_of(trainer)
        if any(isinstance(callback, ModelPruning) for callback in callbacks):
            self._before = self._copied(trainer)

    def take(self, trainer: Trainer) -> dict[str, Tensor]:
        """Return a copy of the weights of the last validation; all processes must call it."""
        return self._copied(trainer) if self._before is None else self._before

    def forget(self) -> None:
        """Drop the copy, as training continues."""
        self._before = None

    def _copied(self, trainer: Trainer) -> dict[str, Tensor]:
        # Where workers have weights of their own, the validated ones are in the module in a validation only.
        weights = trainer.strategy.lightning_module_state_dict()
        return {name: self._copy(weight.detach()) for name, weight in weights.items()}
