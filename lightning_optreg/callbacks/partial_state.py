"""What is half done when a checkpoint is taken: running sums, metric states, accumulated gradients.

Lightning keeps none of it in a checkpoint. All functions return and take plain types and CPU tensors.
"""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.trainer.connectors.logger_connector.result import _Metadata, _ResultMetric, _Sync
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torchmetrics import Metric, MetricCollection
from torchmetrics.utilities.data import dim_zero_cat

__all__ = [
    "RunningSums",
    "collect_epoch_means",
    "collect_metric_states",
    "collect_pending_log",
    "collect_running_sums",
    "gradients_of",
    "restore_buffers",
    "restore_gradients",
    "restore_metric_states",
    "restore_running_sums",
    "syncs_buffers",
]

RunningSums = dict[str, dict[str, Any]]
"""What `collect_running_sums` gives of a rank, by key."""


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


def collect_running_sums(trainer: Trainer, pl_module: LightningModule) -> RunningSums:
    """Copy what `self.log` has gathered in the epoch: sums, and the last values of steps.

    Returns:
        By the key under which Lightning has it: how it was logged, and its states.
    """
    names = {id(module): name for name, module in pl_module.named_modules() if isinstance(module, Metric)}
    sums: RunningSums = {}
    for key, result in _results(trainer).items():
        if result.has_reset or not result.update_called:
            continue
        saved: dict[str, Any] = {"logged": _plain(result.meta)}
        if result.is_tensor:
            states = ("value", "cumulated_batch_size") if result.meta.is_mean_reduction else ("value",)
            saved["states"] = {name: getattr(result, name).detach().cpu().clone() for name in states}
        elif id(result.value) in names:
            saved["metric"] = names[id(result.value)]
        else:
            continue  # a metric that is no part of the module: its states are not kept either
        if isinstance(result._forward_cache, Tensor):
            saved["step"] = result._forward_cache.detach().cpu().clone()
        sums[key] = saved
    return sums


# Private in Lightning 2.6, from here to `_results`: it has no public way to the sums behind `self.log`.


def restore_running_sums(trainer: Trainer, pl_module: LightningModule, sums: RunningSums) -> None:
    """Let Lightning go on with these sums, as if it had gathered them: in the same order of additions."""
    results, device = _results(trainer), pl_module.device
    for key, saved in sums.items():
        logged = dict(saved["logged"])
        sync = _Sync(
            fn=trainer.strategy.reduce,
            _should=logged.pop("sync"),
            rank_zero_only=logged.pop("rank_zero_only"),
        )
        meta = _LoggedBefore(**logged)
        meta.sync = sync
        result = _ResultMetric(meta, is_tensor="states" in saved)
        if "metric" in saved:
            result.value = pl_module.get_submodule(saved["metric"])
        for name, value in saved.get("states", {}).items():
            setattr(result, name, value.to(device))
        if "step" in saved:
            result._forward_cache = saved["step"].to(device)
        result._update_count = 1  # without it `compute` warns that there is no value
        results[key] = result.to(device)
    if sums:
        # It says that the batch to come is not the epoch's first one, in which each hook's first `self.log`
        # begins anew. Until it is set, whoever reads `callback_metrics` has the epoch's values computed.
        trainer._logger_connector._first_loop_iter = False


class _LoggedBefore(_Metadata):
    """How a value was logged before the interruption: gives way to how it is logged after it.

    Lightning refuses a value that is logged in two ways. A run may be resumed with another number of
    processes, though, or with a value in the progress bar that was not there.
    """

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Metadata) or other.reduce_fx.__name__ != self.reduce_fx.__name__:
            return False
        self.__dict__.update(other.__dict__)
        return True

    __hash__ = None  # type: ignore[assignment]  # as any dataclass that can be compared and changed


def _plain(meta: Any) -> dict[str, Any]:
    kept = {field.name: getattr(meta, field.name) for field in fields(_Metadata) if field.name != "_sync"}
    reduce_fx = kept["reduce_fx"].__name__
    return {
        **kept,
        "reduce_fx": reduce_fx,
        "sync": meta.sync.should,
        "rank_zero_only": meta.sync.rank_zero_only,
    }


def _results(trainer: Trainer) -> Any:
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
            "update_count": module.update_count,
            "states": {
                state: [item.detach().cpu().clone() for item in value]
                if isinstance(value, list)
                else value.detach().cpu().clone()
                for state, value in module.metric_state.items()
            },
        }
        for name, module in pl_module.named_modules()
        if isinstance(module, Metric)
        and module.update_called
        and not (epoch_is_over and any(module is value for value in logged))
    }


def restore_metric_states(pl_module: LightningModule, ranks: Sequence[Mapping[str, Any]]) -> None:
    """Give the torchmetrics inside a module the states they had.

    Args:
        pl_module: The module.
        ranks: What `collect_metric_states` gave, of one rank; of several, they are merged.
    """
    for name in dict.fromkeys(name for states in ranks for name in states):
        metric = pl_module.get_submodule(name)
        assert isinstance(metric, Metric)  # the collected names are of metrics
        saved = [states[name] for states in ranks if name in states]
        for state in saved[0]["states"]:
            value = _merged(metric, name, state, [one["states"][state] for one in saved])
            moved = (
                [item.to(metric.device) for item in value]
                if isinstance(value, list)
                else value.to(metric.device)
            )
            setattr(metric, state, moved)
        # Private in torchmetrics 1.9: means of batches are weighted with it, and without it `compute` warns.
        metric._update_count = sum(one["update_count"] for one in saved)


def _merged(metric: Metric, name: str, state: str, values: list[Any]) -> Any:
    if len(values) == 1:
        return values[0]
    if isinstance(values[0], list):
        return [item for value in values for item in value]
    reduce = metric._reductions[state]  # private in torchmetrics 1.9: how it merges the states of processes
    if reduce is None:
        rank_zero_warn(
            f"ExactResume: the metric {name} cannot merge what {len(values)} processes had counted; its value"
            " in this epoch lacks what all but the first had."
        )
        return values[0]
    assert callable(reduce)  # torchmetrics makes a function of each name
    return reduce(torch.cat(values) if reduce is dim_zero_cat else torch.stack(values))


def gradients_of(pl_module: LightningModule) -> dict[str, Tensor]:
    """Name the gradients that an accumulation window has gathered so far; they are not copied."""
    return {
        name: parameter.grad for name, parameter in pl_module.named_parameters() if parameter.grad is not None
    }


def restore_gradients(pl_module: LightningModule, gradients: Mapping[str, Tensor]) -> None:
    """Put accumulated gradients back in their places."""
    parameters = dict(pl_module.named_parameters())
    for name, gradient in gradients.items():
        parameter = parameters[name]
        parameter.grad = gradient.to(device=parameter.device, dtype=parameter.dtype, copy=True)
        if parameter.is_contiguous(memory_format=torch.channels_last) and parameter.dim() == 4:
            parameter.grad = parameter.grad.contiguous(memory_format=torch.channels_last)


def syncs_buffers(trainer: Trainer) -> bool | None:
    """Tell whether the first process's buffers replace those of others before the next batch; None: no DDP.

    DistributedDataParallel leaves it out while it accumulates, and once after a validation.
    """
    model = trainer.model
    return model.require_forward_param_sync if isinstance(model, DistributedDataParallel) else None


def restore_buffers(
    trainer: Trainer, pl_module: LightningModule, buffers: Mapping[str, Tensor], *, syncs: bool | None
) -> None:
    """Give this process the buffers it had, where they were not those of the first one."""
    here = dict(pl_module.named_buffers())
    for name, buffer in buffers.items():
        here[name].copy_(buffer)
    model = trainer.model
    if syncs is not None and isinstance(model, DistributedDataParallel):
        model.require_forward_param_sync = syncs
