"""A bound on the norm of each unit's incoming weights.

Srebro and Shraibman 2005, "Rank, trace-norm and max-norm"; Srivastava et al. 2014, "Dropout: a simple way to
prevent neural networks from overfitting" (JMLR 15), section 5.1, with c from 3 to 4 (appendix A.3).
"""

from collections.abc import Sequence
from math import inf
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.optim import Optimizer
from typing_extensions import override

from lightning_optreg._checks import check_numbers
from lightning_optreg.callbacks._let_go import LetsGo
from lightning_optreg.callbacks._of_a_kind import OfAKind
from lightning_optreg.callbacks.weights._chosen_parameters import (
    Chosen,
    ChosenParameters,
    check_choice,
)
from lightning_optreg.callbacks.weights._step_hooks import StepHooks
from lightning_optreg.trainer.queries import is_logging_step
from lightning_optreg.trainer.refusals import refuse_sharding, refuse_steps_elsewhere

__all__ = ["MaxNorm", "project", "unit_norms"]


def unit_norms(weight: Tensor, groups: int | None = None) -> Tensor:
    """Return the L2 norm of each unit's incoming weights, in a shape that broadcasts to them.

    Args:
        weight: (units, ...), as in linear layers, convolutions and embeddings.
        groups: Groups of a transposed convolution, whose weight is (inputs, units / groups, ...). None: for
            all other layers.

    Returns:
        Real, at least float32, (units, 1, ...); for a transposed convolution (groups, 1, units / groups, 1,
        ...), for a weight split into (groups, inputs / groups, units / groups, ...).

    Example:
        >>> unit_norms(torch.tensor([[3.0, 4.0], [0.0, 1.0]])).flatten()
        tensor([5., 1.])
    """
    if groups is not None:
        weight = _by_group(weight, groups)
    over = [1, *range(3, weight.ndim)] if groups is not None else list(range(1, weight.ndim))
    if weight.is_complex():  # a complex norm adds up all numbers one after another, which loses precision
        parts = torch.view_as_real(weight)
        squeezed: Tensor = torch.linalg.vector_norm(parts, dim=[*over, -1], keepdim=True)[..., 0]
        return squeezed
    wide = weight.float() if weight.dtype in _LOW else weight
    norms: Tensor = torch.linalg.vector_norm(wide, dim=over, keepdim=True)
    return norms


def project(weight: Tensor, max_norm: float, groups: int | None = None) -> None:
    """Project each unit's incoming weights, in place, onto the ball of radius c: w = w min(1, c / ||w||).

    Units within the ball keep their weights to the last bit, and projecting again changes nothing: norms that
    exceed c by no more than rounding are left unchanged, and half precision is rounded towards zero.

    Args:
        weight: As for `unit_norms`.
        max_norm: c, above 0.
        groups: As for `unit_norms`.

    Example:
        >>> w = torch.tensor([[3.0, 4.0], [0.0, 1.0]])
        >>> project(w, 2.5)
        >>> w
        tensor([[1.5000, 2.0000],
                [0.0000, 1.0000]])
    """
    with torch.no_grad():
        norms = unit_norms(weight, groups)
        numbers = weight.numel() * (2 if weight.is_complex() else 1)
        bound = max_norm * (1.0 + _rounding(norms.dtype, numbers // max(norms.numel(), 1)))
        factor = (max_norm / norms).where(norms > bound, 1.0)
        units = weight if groups is None else _by_group(weight, groups)
        if weight.dtype in _LOW:
            units.copy_(_towards_zero(units.float() * factor, weight.dtype))
        else:
            units.mul_(factor)


_LOW = (torch.float16, torch.bfloat16)


def _rounding(dtype: torch.dtype, inputs: int) -> float:
    """Return the largest relative difference of a computed norm from c after a projection.

    It is half an eps each for the factor, the product and the root, and for each addition of a sum; kernels
    compute at least 8 partial sums in parallel.
    """
    return (4.0 + inputs / 32.0) * torch.finfo(dtype).eps


def _towards_zero(wanted: Tensor, dtype: torch.dtype) -> Tensor:
    """Round float32 numbers to half precision so that no magnitude grows."""
    rounded = wanted.to(dtype)
    too_large = rounded.float().abs() > wanted.abs()
    # Numbers of one sign are ordered like their bits, so subtracting one gives the next towards zero.
    return (rounded.view(torch.int16) - too_large.to(torch.int16)).view(dtype)


def _by_group(weight: Tensor, groups: int) -> Tensor:
    return weight.view(groups, -1, *weight.shape[1:])


class MaxNorm(OfAKind, LetsGo):
    """Keep the norm of each unit's incoming weights at most c: after a step, w_j = w_j min(1, c / ||w_j||).

    A unit is a row of a linear layer, a filter of a convolution (an output channel of a transposed one) or an
    entry of an embedding. Biases and normalisation layers are left out unless named. It works with any
    optimizer, including manual optimization and several optimizers, and does nothing when a gradient scaler
    skips a step. Frozen layers are unchanged until an optimizer trains them. The initial weights are
    projected too, but not those from a checkpoint of a run with the same bound, so a resumed run equals one
    that never stopped. Norms exceed c at most by rounding. Logs `optreg/max_norm/at_bound`, the share of
    units at the bound, and `optreg/max_norm/largest`, the largest norm.

    Args:
        max_norm: c, above 0. Default: 3. With infinity nothing happens.
        names: Patterns of parameters' full names ("net.layer1.*"). Empty: all with at least two dimensions,
            except biases and those of normalisation layers.
        types: Names of layers' classes ("Linear", "Conv2d"). Empty: all.

    Raises:
        ValueError: If max_norm is not above 0.
        TypeError: If names or types are not lists of strings.
        MisconfigurationException: Before the first step, if no parameter is chosen, including frozen ones, if
            a named one has a single dimension, or if the strategy shards parameters, splits the network or
            makes steps on servers.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[MaxNorm(3.0)], accelerator="cpu", logger=False)
    """

    def __init__(self, max_norm: float = 3.0, names: Sequence[str] = (), types: Sequence[str] = ()) -> None:
        check_numbers("MaxNorm", max_norm=max_norm)
        if not max_norm > 0.0:
            raise ValueError(f"MaxNorm: max_norm must be > 0, got {max_norm}")
        check_choice("MaxNorm", names, types)
        self.max_norm, self.names, self.types = max_norm, list(names), list(types)
        self._chosen: ChosenParameters | None = None
        self._hooks = StepHooks(self._project)
        self._projected: dict[str, Any] | None = None

    @override
    def begin_fit(self) -> None:
        """Forget an earlier fit."""
        self._projected = None

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Choose the parameters and project them."""
        self._chosen = None
        if self.max_norm == inf:
            return
        refuse_sharding(trainer, "MaxNorm", "so no process knows all units' norms")
        refuse_steps_elsewhere(
            trainer, "MaxNorm", "so what is projected here does not reach them; use weight decay"
        )
        self._chosen = ChosenParameters("MaxNorm", pl_module, self.names, self.types)
        for name, parameter, _ in self._chosen.all():
            if parameter.ndim < 2 and self.names:
                raise MisconfigurationException(
                    f"MaxNorm: {name} has one dimension, so no units; remove it from names"
                )
        if not _with_units(self._chosen.all()):
            raise MisconfigurationException("MaxNorm: a chosen weight must have >= 2 dimensions, none has")
        if self._projected != self.state_dict():
            for each in _with_units(self._chosen.now()):
                project(each.parameter, self.max_norm, _groups(each.layer))

    @override
    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        """Make the projection follow the step."""
        if self.max_norm < inf:
            self._hooks.attach(optimizer)

    def _project(self, optimizer: Optimizer) -> None:
        if self._chosen is not None:
            for each in _with_units(self._chosen.of(optimizer)):
                project(each.parameter, self.max_norm, _groups(each.layer))

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log the share of units at the bound every `log_every_n_steps` steps."""
        if self._chosen is None or not is_logging_step(trainer):
            return
        chosen = _with_units(self._chosen.now())
        if not chosen:
            return
        with torch.no_grad():
            norms = torch.cat(
                [
                    unit_norms(each.parameter, _groups(each.layer)).flatten().to(pl_module.device)
                    for each in chosen
                ]
            )
        rounding = max(torch.finfo(each.parameter.dtype).eps for each in chosen)
        at_bound = norms >= self.max_norm * (1.0 - 4.0 * rounding)  # a projected unit's norm is rounded
        # For a step that takes dataloader_iter Lightning requires a batch size; the values don't depend on
        # it.
        pl_module.log(f"{self._log_path('max_norm')}/at_bound", at_bound.float().mean(), batch_size=1)
        pl_module.log(f"{self._log_path('max_norm')}/largest", norms.max(), batch_size=1)

    @override
    def let_go(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the optimizers as they were."""
        self._hooks.close()
        self._chosen = None

    @override
    def state_dict(self) -> dict[str, Any]:
        """Return the settings of the projection."""
        return {"max_norm": self.max_norm, "names": list(self.names), "types": list(self.types)}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Note the settings of the checkpoint's run."""
        self._projected = dict(state_dict)


def _with_units(chosen: list[Chosen]) -> list[Chosen]:
    return [each for each in chosen if each.parameter.ndim >= 2]


def _groups(layer: nn.Module) -> int | None:
    transposed = isinstance(layer, (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d))
    return int(layer.groups) if transposed else None  # type: ignore[arg-type]  # a layer's attribute
