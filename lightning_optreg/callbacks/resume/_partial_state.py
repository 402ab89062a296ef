"""Partial results at the time of a checkpoint: metric states, accumulated gradients, buffers of a rank.

Lightning does not save them in a checkpoint. All functions return and take plain types and CPU tensors.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torchmetrics import Metric, MetricCollection
from torchmetrics.utilities.data import dim_zero_cat
from torchmetrics.wrappers.abstract import WrapperMetric

__all__ = [
    "buffers_of",
    "collect_metric_states",
    "gradients_of",
    "restore_buffers",
    "restore_gradients",
    "restore_metric_states",
    "syncs_buffers",
    "unsaved_buffers",
]


def collect_metric_states(
    pl_module: LightningModule, but: Collection[Metric] = ()
) -> dict[str, dict[str, Any]]:
    """Copy the states of the torchmetrics in a module that have seen data since their last reset.

    Args:
        pl_module: The module.
        but: Metrics to leave out.
    """
    left_out = {id(part) for metric in but for part in metric.modules()}
    for module in pl_module.modules():
        if isinstance(module, MetricCollection):
            module.items()  # updates the states of its members
    return {
        name: {
            "update_count": module.update_count,
            "states": {
                state: [item.detach().cpu().clone() for item in value]
                if isinstance(value, list)
                else value.detach().cpu().clone()
                for state, value in module.metric_state.items()
            },
            "attributes": _attributes(module),
        }
        for name, module in pl_module.named_modules()
        if isinstance(module, Metric)
        and (module.update_called or isinstance(module, WrapperMetric))  # wrappers do not count updates
        and id(module) not in left_out
    }


class _Bare(Metric):
    """A metric with only the common attributes."""

    full_state_update = False

    def update(self) -> None:
        """Do nothing."""

    def compute(self) -> None:
        """Return nothing."""


_COMMON = vars(_Bare()).keys()


def _attributes(metric: Metric) -> dict[str, Any]:
    """Read the numbers and tensors that a metric keeps outside its states, as torchmetrics' wrappers do."""
    return {
        name: value.detach().cpu().clone() if isinstance(value, Tensor) else value
        for name, value in vars(metric).items()
        if name not in _COMMON and name not in metric.metric_state and isinstance(value, int | float | Tensor)
    }


def restore_metric_states(pl_module: LightningModule, ranks: Sequence[Mapping[str, Any]]) -> None:
    """Restore the states of the torchmetrics in a module.

    Args:
        pl_module: The module.
        ranks: Results of `collect_metric_states` of one rank; those of several are merged.
    """
    metrics = {name: each for name, each in pl_module.named_modules() if isinstance(each, Metric)}
    for name in dict.fromkeys(name for states in ranks for name in states):
        metric = metrics.get(name)
        if metric is None:
            rank_zero_warn(f"ExactResume: the module has no metric {name} now; its state is lost.")
            continue
        saved = [states[name] for states in ranks if name in states]
        for state in saved[0]["states"]:
            value = _merged(metric, name, state, [one["states"][state] for one in saved])
            moved = (
                [item.to(metric.device) for item in value]
                if isinstance(value, list)
                else value.to(metric.device)
            )
            setattr(metric, state, moved)
        for attribute, value in saved[0]["attributes"].items() if len(saved) == 1 else ():
            setattr(metric, attribute, value.to(metric.device) if isinstance(value, Tensor) else value)
        # Private in torchmetrics 1.9: it is the weight of means over batches; without it `compute` warns.
        metric._update_count = sum(one["update_count"] for one in saved)


def _merged(metric: Metric, name: str, state: str, values: list[Any]) -> Any:
    if len(values) == 1:
        return values[0]
    if isinstance(values[0], list):
        return [item for value in values for item in value]
    reduce = metric._reductions[state]  # private in torchmetrics 1.9: how it merges the states of processes
    if reduce is None:
        rank_zero_warn(
            f"ExactResume: the metric {name} can't merge the states of {len(values)} processes; its value in"
            " this epoch only includes that of the first."
        )
        return values[0]
    assert callable(reduce)  # torchmetrics replaces names by functions
    return reduce(torch.cat(values) if reduce is dim_zero_cat else torch.stack(values))


def gradients_of(pl_module: LightningModule) -> dict[str, Tensor]:
    """Return the gradients that are accumulated so far, by name; they are not copied."""
    return {
        name: parameter.grad for name, parameter in pl_module.named_parameters() if parameter.grad is not None
    }


def restore_gradients(pl_module: LightningModule, gradients: Mapping[str, Tensor]) -> None:
    """Restore accumulated gradients."""
    parameters = dict(pl_module.named_parameters())
    for name, gradient in gradients.items():
        parameter = parameters[name]
        if parameter.is_meta:  # another process has it
            continue
        parameter.grad = gradient.to(device=parameter.device, dtype=parameter.dtype, copy=True)
        if parameter.is_contiguous(memory_format=torch.channels_last) and parameter.dim() == 4:
            parameter.grad = parameter.grad.contiguous(memory_format=torch.channels_last)


def syncs_buffers(trainer: Trainer) -> bool | None:
    """Return whether the buffers of rank 0 replace those of others before the next batch; None without DDP.

    DistributedDataParallel skips this during accumulation, and once after a validation.
    """
    model = trainer.model
    return model.require_forward_param_sync if isinstance(model, DistributedDataParallel) else None


def unsaved_buffers(pl_module: LightningModule) -> dict[str, Tensor]:
    """Return the buffers that are not in the module's `state_dict`, such as those with `persistent=False`."""
    kept = pl_module.state_dict().keys()
    return {name: buffer for name, buffer in buffers_of(pl_module).items() if name not in kept}


def buffers_of(pl_module: LightningModule) -> dict[str, Tensor]:
    """Return the buffers, but for those that only another process has."""
    return {name: buffer for name, buffer in pl_module.named_buffers() if not buffer.is_meta}


def restore_buffers(
    trainer: Trainer, pl_module: LightningModule, buffers: Mapping[str, Tensor], *, syncs: bool | None
) -> None:
    """Restore this process's buffers that are not in the checkpoint's weights."""
    here = dict(pl_module.named_buffers())
    for name, buffer in buffers.items():
        if name in here and here[name].shape == buffer.shape:
            here[name].copy_(buffer)
        else:  # created or replaced during the run
            layer, _, own_name = name.rpartition(".")
            setattr(pl_module.get_submodule(layer), own_name, buffer.to(pl_module.device))
    model = trainer.model
    if syncs is not None and isinstance(model, DistributedDataParallel):
        model.require_forward_param_sync = syncs
