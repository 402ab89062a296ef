"""What each worker has of its own, as one part of a checkpoint that rank 0 writes."""

from collections.abc import Mapping
from typing import Any

from lightning.pytorch import Trainer
from torch import Tensor

from lightning_optreg.trainer.across_ranks import gather_ranks, gather_tensors, tensors_of_rank

__all__ = ["collect_workers", "worker_of"]


def collect_workers(
    trainer: Trainer, mine: dict[str, Any], if_different: Mapping[str, Tensor]
) -> dict[str, Any]:
    """Collect the states of all workers on rank 0; all ranks must call it.

    Args:
        trainer: The trainer.
        mine: This worker's: dictionaries and lists of tensors and plain values.
        if_different: Tensors of this worker, by name, that are left out where all workers have the same.

    Returns:
        On rank 0 the states, which `worker_of` takes apart, of plain types and CPU tensors; tensors that are
        equal in all workers are there once.
    """
    tensors: dict[str, Tensor] = {}
    plain = _without_tensors(mine, "", tensors)
    return {
        "plain": gather_ranks(trainer, plain),
        "tensors": gather_tensors(trainer, tensors, if_equal=True),
        "different": gather_tensors(trainer, if_different, if_equal=False),
    }


def worker_of(workers: dict[str, Any], rank: int) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the state that a worker had given to `collect_workers`, and its tensors that are different."""
    mine: dict[str, Any] = _with_tensors(
        workers["plain"][rank], "", tensors_of_rank(workers["tensors"], rank)
    )
    return mine, tensors_of_rank(workers["different"], rank)


def _without_tensors(tree: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(tree, Tensor):
        tensors[path] = tree
        return None
    if type(tree) is dict:  # not a Counter, as in states of MultiStepLR
        return {key: _without_tensors(value, f"{path}/{key!r}", tensors) for key, value in tree.items()}
    if type(tree) is list or type(tree) is tuple:
        return type(tree)(_without_tensors(value, f"{path}/{i}", tensors) for i, value in enumerate(tree))
    return tree


def _with_tensors(tree: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    if path in tensors:
        return tensors[path]
    if type(tree) is dict:
        return {key: _with_tensors(value, f"{path}/{key!r}", tensors) for key, value in tree.items()}
    if type(tree) is list or type(tree) is tuple:
        return type(tree)(_with_tensors(value, f"{path}/{i}", tensors) for i, value in enumerate(tree))
    return tree
