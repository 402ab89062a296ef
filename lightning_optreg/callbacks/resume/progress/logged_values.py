"""Values that `self.log` has collected in an unfinished epoch: sums, extremes, the values of the last steps.

Lightning does not save them in a checkpoint. Within an epoch it repeats the last value of a step in all
further rows, however old it is, and logs the values of the whole epoch in a row of their own. So all of them
are needed for the same rows after a resume.
"""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer

# Private in Lightning 2.6, like everything used here: there is no public access to the sums of `self.log`.
from lightning.pytorch.trainer.connectors.logger_connector.result import _Metadata, _ResultMetric, _Sync
from torch import Tensor
from torchmetrics import Metric

from lightning_optreg.callbacks.resume.progress.loop_progress import Moment
from lightning_optreg.trainer.queries import log_cadence

__all__ = [
    "RunningSums",
    "collect_pending_log",
    "collect_running_sums",
    "collect_shown",
    "forget_start",
    "go_on_logging",
    "metrics_to_be_reset",
    "restore_running_sums",
    "restore_shown",
]

_SHOWN = ("callback_metrics", "logged_metrics", "progress_bar_metrics")

RunningSums = dict[str, dict[str, Any]]
"""The result of `collect_running_sums` on a rank, by key."""


def collect_running_sums(trainer: Trainer, pl_module: LightningModule) -> RunningSums:
    """Copy what `self.log` has collected in the epoch: sums, and the last values of steps.

    Returns:
        By Lightning's key: how a value was logged, and its states.
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
            continue  # a metric outside the module: its states are not kept either
        if isinstance(result._forward_cache, Tensor):
            saved["step"] = result._forward_cache.detach().cpu().clone()
        sums[key] = saved
    return sums


def go_on_logging(trainer: Trainer) -> None:
    """Tell Lightning that values of the epoch are logged already.

    The next batch is then not the first one of the epoch, in which each hook's first `self.log` resets its
    value. Before this is set, reading `callback_metrics` computes the epoch's values.
    """
    trainer._logger_connector._first_loop_iter = False


def forget_start(trainer: Trainer) -> None:
    """Drop what `on_train_start`, which is called again on a resume, has logged again."""
    results = _results(trainer)
    for key in [key for key, result in results.items() if result.meta.fx == "on_train_start"]:
        del results[key]


def restore_running_sums(trainer: Trainer, pl_module: LightningModule, sums: RunningSums) -> None:
    """Let Lightning continue with these sums as if it had collected them, in the same order of additions."""
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
        result._update_count = 1  # private in torchmetrics 1.9: without it `compute` warns
        results[key] = result.to(device)


class _LoggedBefore(_Metadata):
    """How a value was logged before the interruption; replaced by how it is logged afterwards.

    Lightning refuses a value that is logged in two ways. But a run may be resumed with another number of
    processes, or with a value newly in the progress bar.
    """

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Metadata) or other.reduce_fx.__name__ != self.reduce_fx.__name__:
            return False
        self.__dict__.update(other.__dict__)
        return True

    __hash__ = None  # type: ignore[assignment]  # as for any mutable dataclass with __eq__


def _plain(meta: Any) -> dict[str, Any]:
    kept = {field.name: getattr(meta, field.name) for field in fields(_Metadata) if field.name != "_sync"}
    reduce_fx = kept["reduce_fx"].__name__
    return {
        **kept,
        "reduce_fx": reduce_fx,
        "sync": meta.sync.should,
        "rank_zero_only": meta.sync.rank_zero_only,
    }


def collect_shown(trainer: Trainer) -> dict[str, dict[str, Any]]:
    """Copy the last logged values, as callbacks, loggers and the progress bar see them."""
    return {
        name: {
            key: value.detach().cpu().clone() if isinstance(value, Tensor) else value
            for key, value in getattr(trainer, name).items()
        }
        for name in _SHOWN
    }


def restore_shown(trainer: Trainer, shown: Mapping[str, Mapping[str, Any]], device: torch.device) -> None:
    """Restore the last logged values for callbacks, loggers and the progress bar."""
    for name, values in shown.items():
        getattr(trainer, name).update(
            {key: value.to(device) if isinstance(value, Tensor) else value for key, value in values.items()}
        )


def metrics_to_be_reset(trainer: Trainer, moment: Moment) -> list[Metric]:
    """List the logged torchmetrics that Lightning resets right after a checkpoint at this moment."""
    match moment:
        case Moment.VALIDATION_END:
            results: Any = trainer.fit_loop.epoch_loop.val_loop._results
        case Moment.EPOCH_END:
            results = _results(trainer)
        case _:
            return []
    return [result.value for result in results.values() if not result.is_tensor and not result.has_reset]


def collect_pending_log(trainer: Trainer, checkpoint: dict[str, Any], *, on_step: bool) -> dict[str, Any]:
    """Collect what Lightning logs right after the hook that saves a checkpoint, and not if killed there.

    Args:
        trainer: The trainer, during a fit.
        checkpoint: The checkpoint, with the loops' counters as Lightning wrote them.
        on_step: Whether a batch's values are about to be logged, rather than the epoch's.

    Returns:
        The arguments of a logger's `log_metrics`; empty if nothing is about to be logged.
    """
    stepped = checkpoint["loops"]["fit_loop"]["epoch_loop.state_dict"]["_batches_that_stepped"]
    every_n_steps = log_cadence(trainer)
    if on_step and not every_n_steps:
        return {}
    if on_step and (stepped + 1) % every_n_steps != 0 and not trainer.should_stop:
        return {}
    metrics = {
        name: value.item() if isinstance(value, Tensor) else value
        for name, value in _results(trainer).metrics(on_step=on_step)["log"].items()
    }
    if not metrics:
        return {}
    if "step" in metrics:  # a value logged under this name is the row's step
        return {"step": int(metrics.pop("step")), "metrics": metrics}
    step = stepped if on_step else stepped - 1
    return {"metrics": {"epoch": trainer.current_epoch, **metrics}, "step": step}


def _results(trainer: Trainer) -> Any:
    return trainer.fit_loop.epoch_loop._results
