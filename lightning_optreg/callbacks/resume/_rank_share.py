"""The partial results of the saved run that a process of the resumed run continues with.

With the same number of processes each gets its own again, to the last bit. With another number the totals are
right: rank 0 gets the sums of all, and every rank the mean of the gradients, as gradients are averaged.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_optreg.trainer.across_ranks import RankTensors, tensors_of_rank

__all__ = ["share_of_rank"]


def share_of_rank(state: dict[str, Any], rank: int, world_size: int) -> dict[str, Any]:
    """Return the partial results that a rank continues with.

    Args:
        state: `ranks`: for each rank a dictionary of `random`, `own`, `sums`, `metrics` and `syncs_buffers`;
            `gradients` and `buffers`: those of all ranks, by name.
        rank: The rank, in [0, world_size).
        world_size: Number of processes of this run; the saved one had `len(state["ranks"])`.

    Returns:
        The same keys; `metrics` is a list of states to merge.
    """
    ranks: list[dict[str, Any]] = state["ranks"]
    if len(ranks) == world_size:
        return {
            **ranks[rank],
            "metrics": [ranks[rank]["metrics"]],
            "gradients": tensors_of_rank(state["gradients"], rank),
            "buffers": tensors_of_rank(state["buffers"], rank),
        }
    return {
        "random": ranks[rank % len(ranks)]["random"],
        "own": ranks[rank % len(ranks)]["own"],
        "sums": _merged_sums([mine["sums"] for mine in ranks], keep=rank == 0),
        "metrics": [mine["metrics"] for mine in ranks] if rank == 0 else [],
        "syncs_buffers": None,
        "gradients": _mean_gradients(state["gradients"]),
        "buffers": tensors_of_rank(state["buffers"], 0),  # as the weights of the checkpoint are
    }


def _merged_sums(ranks: Sequence[dict[str, Any]], *, keep: bool) -> dict[str, Any]:
    """Merge the sums of all ranks; with keep=False the keys are the same, as all ranks reduce them."""
    merged: dict[str, Any] = {}
    for key in dict.fromkeys(key for sums in ranks for key in sums):
        saved = [sums[key] for sums in ranks if key in sums]
        merged[key] = dict(saved[0])
        if "states" not in saved[0]:
            continue
        kind = saved[0]["logged"]["reduce_fx"]
        merged[key]["states"] = {
            name: _merge(kind, [one["states"][name] for one in saved], keep=keep)
            for name in saved[0]["states"]
        }
    return merged


def _merge(kind: str, values: list[Tensor], *, keep: bool) -> Tensor:
    stacked = torch.stack(values)
    if kind in ("max", "min"):
        nothing = float("-inf") if kind == "max" else float("inf")
        both = stacked.amax(0) if kind == "max" else stacked.amin(0)
        return both if keep else torch.full_like(both, nothing)
    return stacked.sum(0) if keep else torch.zeros_like(values[0])


def _mean_gradients(gradients: RankTensors) -> dict[str, Tensor]:
    means = {}
    for name, tensors in gradients.items():
        there = [tensor for tensor in tensors if tensor is not None]
        total = there[0].clone()
        for tensor in there[1:]:
            total += tensor
        means[name] = total / len(tensors)
    return means
