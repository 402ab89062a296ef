"""What is half done when a checkpoint is taken: running sums, metric states, accumulated gradients.

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
    "add_running_sums",
    "collect_epoch_means",
    "collect_gradients",
    "collect_metric_states",
    "collect_pending_log",
    "collect_running_sums",
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


def collect_epoch_means(trainer: Trainer) -> list[tuple[str, Tensor, bool, bool]]:
    """Work out the training epoch's means after its last batch, which Lightning does once the epoch ends.

    Returns:
        For each value its name, the value, whether loggers get it, and whether the progress bar shows it.
    """
    metrics = _results(trainer).metrics(on_step=False)
    return [
        (name, value.detach().cpu().clone(), name in metrics["log"], name in metrics["pbar"])
        for name, value in metrics["callback"].items()
    ]


def collect_pending_log(trainer: Trainer, checkpoint: dict[str, Any], *, on_step: bool) -> dict[str, Any]:
    """Collect what Lightning logs right after the hook that takes a checkpoint, and never if killed there.

    Args:
        trainer: The trainer, while it fits.
        checkpoint: The checkpoint, with the loops' counters as Lightning wrote them.
        on_step: Whether it is a batch's own values that are about to be logged, or the epoch's.

    Returns:
        The arguments of a logger's `log_metrics`; none where nothing is about to be logged.
    """
    stepped = checkpoint["loops"]["fit_loop"]["epoch_loop.state_dict"]["_batches_that_stepped"]
    every_n_steps: int = trainer.log_every_n_steps  # type: ignore[attr-defined]  # a connector sets it
    if on_step and (stepped + 1) % every_n_steps != 0 and not trainer.should_stop:
        return {}
    metrics = {
        name: value.item() if isinstance(value, Tensor) else value
        for name, value in _results(trainer).metrics(on_step=on_step)["log"].items()
    }
    if not metrics:
        return {}
    step = stepped if on_step else stepped - 1
    return {"metrics": {**metrics, "epoch": trainer.current_epoch}, "step": step}


def collect_running_sums(trainer: Trainer) -> dict[str, dict[str, Tensor]]:
    """Copy the sums behind the training epoch's `self.log(..., on_epoch=True)` values."""
    sums = {}
    for key, result in _results(trainer).items():
        if result.is_tensor and result.meta.on_epoch and result.update_called:
            names = ("value", "cumulated_batch_size") if result.meta.is_mean_reduction else ("value",)
            sums[key] = {name: getattr(result, name).detach().cpu().clone() for name in names}
    return sums


def add_running_sums(trainer: Trainer, due: dict[str, dict[str, Tensor]]) -> None:
    """Add the sums of before the interruption to those of after it, and take them off `due`.

    A value has to be logged once after the resume before there is something to add to.
    """
    results = _results(trainer)
    for key in [key for key in due if key in results and results[key].update_called]:
        earlier, result = due.pop(key), results[key]
        value = earlier["value"].to(result.value.device)
        if result.meta.is_mean_reduction or result.meta.is_sum_reduction:
            result.value = result.value + value
        else:
            result.value = result.meta.reduce_fx(result.value, value)
        if result.meta.is_mean_reduction:
            result.cumulated_batch_size = result.cumulated_batch_size + earlier["cumulated_batch_size"].to(
                value.device
            )


def _results(trainer: Trainer) -> Any:
    # Private in Lightning 2.6: there is no public way to the sums behind `self.log`.
    return trainer.fit_loop.epoch_loop._results


def collect_metric_states(
    trainer: Trainer, pl_module: LightningModule, *, epoch_is_over: bool
) -> dict[str, dict[str, Any]]:
    """Copy the states of the torchmetrics inside a module that have seen data since they were reset.

    Args:
        trainer: The trainer, while it fits.
        pl_module: The module.
        epoch_is_over: Whether the epoch's last batch is done. Metrics that the module handed to `self.log`
            are then among the epoch's means, and left out here: Lightning resets them as it logs them.
    """
    logged = [result.value for result in _results(trainer).values() if not result.is_tensor]
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
        if isinstance(module, Metric)
        and module.update_called
        and not (epoch_is_over and any(module is value for value in logged))
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
