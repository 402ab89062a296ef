"""Weights that are put aside while training goes on, and put back into the module as it is by then.

Pruning (torch.nn.utils.prune, and Lightning's `ModelPruning` on top of it) splits a weight in two,
`weight_orig` and `weight_mask`, and joins them again when it is made permanent. So weights may be kept in one
form and be wanted in the other.
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
    """Bring weights to the form that a module has them in now.

    Args:
        present: The `state_dict` of the module, or of a part of it.
        weights: One of it that was taken before, or after, weights in it were pruned.

    Returns:
        Each weight in one piece where the module has it so: w = w_orig * mask; and in two where it has two,
        with a mask of ones for those that were not pruned.

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
    """Load weights into a module that may have been pruned, or made whole again, since they were kept.

    Layers that were made since stay as they are, of which a warning tells.
    """
    present = pl_module.state_dict()
    formed = in_form_of(present, weights)
    changed = sorted(present.keys() ^ formed.keys())
    if changed and pl_module.strict_loading:
        rank_zero_warn(
            f"The best weights are from before the module had other parameters; left as they are: {changed}"
        )
    kept = {name: formed.get(name, value) for name, value in present.items()}
    pl_module.load_state_dict(kept, strict=pl_module.strict_loading)


class ValidatedWeights:
    """Copies of the weights that a validation looked at, for who judges it after the hook of others.

    Only `ModelPruning` is known to change weights between a validation and the hooks that judge it, so only
    beside it they are copied before each validation.

    Args:
        copy: How a tensor is copied.
    """

    def __init__(self, copy: Callable[[Tensor], Tensor]) -> None:
        self._copy = copy
        self._before: dict[str, Tensor] | None = None

    def begin(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take note that a validation begins."""
        callbacks = callbacks_of(trainer)
        if any(isinstance(callback, ModelPruning) for callback in callbacks):
            self._before = self._copied(pl_module)

    def take(self, pl_module: LightningModule) -> dict[str, Tensor]:
        """Return a copy of the weights of the last validation."""
        return self._copied(pl_module) if self._before is None else self._before

    def forget(self) -> None:
        """Let go of the copy, as training goes on."""
        self._before = None

    def _copied(self, pl_module: LightningModule) -> dict[str, Tensor]:
        return {name: self._copy(weight.detach()) for name, weight in pl_module.state_dict().items()}
