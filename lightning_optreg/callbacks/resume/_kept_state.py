"""Bring the state of `ExactResume` in a checkpoint to the present form, and list what it lacks."""

from collections.abc import Mapping
from typing import Any

__all__ = ["complete_state"]


def complete_state(state: Mapping[str, Any], fit_loop: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Fill in what a checkpoint of an earlier version of this package lacks.

    Args:
        state: The state of `ExactResume` in the checkpoint, of any version.
        fit_loop: `checkpoint["loops"]["fit_loop"]`.

    Returns:
        The state with all present entries, and in words the parts of the run that it lacks.
    """
    lacks = []
    full: dict[str, Any] = {"pending_log": {}, "plateau_steps_due": [], **state}
    full.setdefault("last", bool(fit_loop["epoch_loop.batch_progress"]["is_last_batch"]))
    full.setdefault("has_validated", False)
    full.setdefault("moment", None)
    full.setdefault("step_size", None)
    full.setdefault("accumulate_grad_batches", None)
    full.setdefault("data", None)
    full.setdefault("random_at_start", None)
    if "flags" not in state:
        lacks.append("which parameters are frozen")
        full["flags"] = {}
    if "shown" not in state:
        full["shown"] = {"callback_metrics": state.get("callback_metrics", {})}
    full["ranks"] = [
        {"own": {}, "syncs_buffers": None, "sums": {}, "metrics": {}, **mine} for mine in state["ranks"]
    ]
    if any("own" not in mine for mine in state["ranks"]):
        lacks.append("generators in loaders and the module")
    sums = [mine for mine in full["ranks"] if not all("logged" in one for one in mine["sums"].values())]
    if sums or state.get("epoch_means") or any(mine.get("logged") for mine in full["ranks"]):
        lacks.append("the means of values logged so far in the epoch")
        for mine in full["ranks"]:
            mine["sums"] = {}
    metrics = [one for mine in full["ranks"] for one in mine["metrics"].values()]
    if not all("states" in one for one in metrics):
        lacks.append("the states of torchmetrics in the epoch")
        for mine in full["ranks"]:
            mine["metrics"] = {}
    for one in metrics:
        one.setdefault("attributes", {})
    if "gradients" not in state:  # each rank kept its own
        gradients = [mine.pop("gradients", {}) for mine in full["ranks"]]
        names = dict.fromkeys(name for mine in gradients for name in mine)
        full["gradients"] = {name: [mine.get(name) for mine in gradients] for name in names}
    if "buffers" not in state:
        lacks.append("buffers that are not part of the weights")
        full["buffers"] = {}
    return full, lacks
