"""What `self.log` has gathered of an epoch that is half done: sums, extremes, the values of the last steps.

Lightning keeps none of it in a checkpoint. Each epoch it puts the last value of each step into all further
rows, however long ago it was logged, and what was gathered over the epoch into the epoch's own row. So all of
it is needed for the rows after a resume to be the same.
"""

import builtins
from collections.abc import Iterable
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

__all__ = ["collect_logged_values", "collect_pending_log", "restore_logged_values"]

_PLAIN = (
    "fx",
    "name",
    "prog_bar",
    "logger",
    "on_step",
    "on_epoch",
    "enable_graph",
    "add_dataloader_idx",
    "metric_attribute",
)
_STATES = ("value", "cumulated_batch_size", "_forward_cache")


def collect_logged_values(trainer: Trainer) -> list[dict[str, Any]]:
    """Copy what this process has logged in the training epoch so far.

    Args:
        trainer: The trainer, while it fits.

    Returns:
        For each value how it was logged and what was gathered of it, plain types and CPU tensors.
    """
    values = []
    for result in _results(trainer).values():
        if result.has_reset or not result.update_called:
            continue
        meta, sync = result.meta, result.meta.sync
        states = {name: getattr(result, name, None) for name in _STATES}
        values.append(
            {name: getattr(meta, name) for name in _PLAIN}
            | {
                "reduce_fx": (meta.reduce_fx.__name__, meta.reduce_fx in (builtins.max, min, sum)),
                "sync_dist": sync.should,
                "rank_zero_only": sync.rank_zero_only,
                "states": {
                    name: state.detach().cpu().clone()
                    for name, state in states.items()
                    if isinstance(state, Tensor)
                },
            }
        )
    return values


def restore_logged_values(
    trainer: Trainer, pl_module: LightningModule, values: Iterable[dict[str, Any]]
) -> None:
    """Put back what `collect_logged_values` copied, as if it had been logged in this process.

    Args:
        trainer: The trainer, in `on_train_start`, before a batch in the middle of an epoch or its end.
        pl_module: The module, its torchmetrics restored.
        values: What `collect_logged_values` returned.
    """
    results = _results(trainer)
    modules = dict(pl_module.named_modules())
    device = trainer.strategy.root_device
    for saved in values:
        states = {name: state.to(device) for name, state in saved["states"].items()}
        name, is_builtin = saved["reduce_fx"]
        attribute = saved["metric_attribute"]
        results.log(
            value=states["value"] if attribute is None else modules[attribute],
            reduce_fx=getattr(builtins if is_builtin else torch, name),
            sync_dist=False,  # nothing is exchanged now
            sync_dist_fn=trainer.strategy.reduce,
            rank_zero_only=saved["rank_zero_only"],
            batch_size=1,
            **{name: saved[name] for name in _PLAIN},
        )
        result = results[f"{saved['fx']}.{saved['name']}"]
        result.meta.sync.should = saved["sync_dist"]
        for name, state in states.items():
            setattr(result, name, state)
    # Private in Lightning 2.6: at the first batch it forgets what a hook has logged before. This is another.
    trainer._logger_connector._first_loop_iter = False


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


def _results(trainer: Trainer) -> Any:
    # Private in Lightning 2.6: there is no public way to what is behind `self.log`.
    return trainer.fit_loop.epoch_loop._results
