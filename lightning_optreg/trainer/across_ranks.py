"""Collect the data of each process on rank 0, and distribute them again, even to another number of processes.

Rank 0 writes checkpoints, so nothing is sent to other ranks, and values that are equal on all are kept once.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import Trainer
from torch import Tensor

from lightning_optreg.trainer.roles import OwnWeights

__all__ = ["RankTensors", "gather_ranks", "gather_tensors", "tensors_of_rank"]

RankTensors = dict[str, list[Tensor | None]]
"""By name: the tensor of each rank, None if it has none; or a single tensor that is equal on all."""


def gather_ranks(trainer: Trainer, mine: dict[str, Any]) -> list[dict[str, Any]]:
    """Collect a plain object of every rank on rank 0; all ranks must call it.

    Returns:
        On rank 0 the objects in the order of ranks, on others an empty list.
    """
    if _alone(trainer):
        return [mine]
    everyone: list[dict[str, Any]] | None = [{}] * trainer.world_size if dist.get_rank() == 0 else None
    dist.gather_object(mine, everyone, dst=0)
    return everyone or []


def gather_tensors(trainer: Trainer, mine: Mapping[str, Tensor], *, if_equal: bool) -> RankTensors:
    """Collect tensors of every rank on rank 0, in its main memory; all ranks must call it.

    Ranks exchange digests first. Tensors that differ are sent one at a time, so only rank 0 needs memory for
    more than one of them; tensors that are equal are not sent.

    Args:
        trainer: The trainer.
        mine: This rank's tensors by name; names may differ between ranks.
        if_equal: Whether to keep those that are equal on all ranks, once.

    Returns:
        On rank 0 the tensors, on others an empty dictionary.
    """
    if _alone(trainer):
        return {name: [_copy(tensor)] for name, tensor in mine.items()} if if_equal else {}
    first = dist.get_rank() == 0
    digests: list[dict[str, str]] = [{}] * trainer.world_size
    dist.all_gather_object(digests, {name: _digest(tensor) for name, tensor in mine.items()})
    gathered: RankTensors = {}
    for name in dict.fromkeys(name for rank in digests for name in rank):
        if len({rank.get(name) for rank in digests}) == 1:
            if if_equal and first:
                gathered[name] = [_copy(mine[name])]
            continue
        everyone: list[Tensor | None] | None = [None] * trainer.world_size if first else None
        dist.gather_object(_copy(mine[name]) if name in mine else None, everyone, dst=0)
        if everyone is not None:
            gathered[name] = everyone
    return gathered


def tensors_of_rank(gathered: RankTensors, rank: int) -> dict[str, Tensor]:
    """Return the tensors of one rank from the result of `gather_tensors`.

    Example:
        >>> gathered = {"same": [torch.ones(1)], "other": [torch.zeros(1), None]}
        >>> tensors_of_rank(gathered, 1)
        {'same': tensor([1.])}
    """
    mine = {name: tensors[rank if len(tensors) > 1 else 0] for name, tensors in gathered.items()}
    return {name: tensor for name, tensor in mine.items() if tensor is not None}


def _alone(trainer: Trainer) -> bool:
    if isinstance(trainer.strategy, OwnWeights) and trainer.strategy.is_alone:
        return True
    return trainer.world_size == 1 or not (dist.is_available() and dist.is_initialized())


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().clone()


def _digest(tensor: Tensor) -> str:
    tensor = tensor.detach()
    parts: Sequence[Tensor] = [tensor]
    if tensor.layout is torch.sparse_coo:
        tensor = tensor.coalesce()
        parts = [tensor.indices(), tensor.values()]
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
