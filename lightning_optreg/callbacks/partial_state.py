"""What is half done when a checkpoint is taken: metric states and accumulated gradients.

Lightning keeps none of it in a checkpoint. All functions return and take plain types and CPU tensors.
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torchmetrics import Metric, MetricCollection

__all__ = [
    "collect_gradients",
    "collect_metric_states",
    "gather_ranks",
    "restore_gradients",
    "restore_metric_states",
]


def gather_ranks(trainer: Trainer, mine: dict[str, Any]) -> list[dict[str, Any]]:
    """Collect a plain object of every rank, in the order of ranks; to be called on all of them."""
    if trainer.world_size == 1 or not (dist.is_available() and dist.is_initialized()):
        return [mine]
    everyone: list[dict[str, Any]] = [{} for _ in range(trainer.world_size)]
    dist.all_gather_object(everyone, mine)
    return everyone


def collect_metric_states(pl_module: LightningModule) -> dict[str, dict[str, Any]]:
    """Copy the states of the torchmetrics inside a module that have seen data since they were reset."""
    for module in pl_module.modules():
        if isinstance(module, MetricCollection):
            module.items()  # brings the states of its members up to date
    return {
        name: {
            state: [item.detach().cpu().clone() for item in value]
            if isinstance(value, list)
            else value.detach().cpu().clone()
            for state, value in module.metric_state.items()
        }
        for name, module in pl_module.named_modules()
        if isinstance(module, Metric) and module.update_called
    }


def restore_metric_states(pl_module: LightningModule, states: Mapping[str, Mapping[str, Any]]) -> None:
    """Give the torchmetrics inside a module the states they had."""
    modules = dict(pl_module.named_modules())
    for name, values in states.items():
        metric = modules[name]
        for state, value in values.items():
            moved = (
                [item.to(metric.device) for item in value]
                if isinstance(value, list)
                else value.to(metric.device)
            )
            setattr(metric, state, moved)
        # Private in torchmetrics 1.9: without it `compute` warns that the metric has seen no data.
        metric._update_count = 1


def collect_gradients(pl_module: LightningModule) -> dict[str, Tensor]:
    """Copy the gradients that an accumulation window has gathered so far."""
    return {
        name: parameter.grad.detach().cpu().clone()
        for name, parameter in pl_module.named_parameters()
        if parameter.grad is not None
    }


def restore_gradients(pl_module: LightningModule, gradients: Mapping[str, Tensor]) -> None:
    """Put accumulated gradients back in their places."""
    parameters = dict(pl_module.named_parameters())
    for name, gradient in gradients.items():
        parameter = parameters[name]
        parameter.grad = gradient.to(device=parameter.device, dtype=parameter.dtype, copy=True)
        if parameter.is_contiguous(memory_format=torch.channels_last) and parameter.dim() == 4:
            parameter.grad = parameter.grad.contiguous(memory_format=torch.channels_last)
