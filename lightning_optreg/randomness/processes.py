"""The rows of a global batch that belong to a process, the exchange of rows, and the cores for processes."""

import os

import torch
import torch.distributed as dist
from lightning.pytorch import Trainer
from torch import Tensor

__all__ = ["count_cores", "of_all_processes", "row_before", "share_of"]


def count_cores() -> int:
    """Count the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def share_of(trainer: Trainer) -> tuple[int, int]:
    """Return which part of a global batch this process has, counted from 0, and the number of parts.

    There are as many as processes, or fewer if several share a part, as with tensor parallelism.
    """
    sampler = trainer.distributed_sampler_kwargs
    return (0, 1) if sampler is None else (int(sampler["rank"]), int(sampler["num_replicas"]))


def row_before(rows: Tensor, trainer: Trainer) -> Tensor:
    """Return the row of the global batch before this process's first row; the last row for row 0.

    All processes must call it together, with rows of the same shape; each sends its last row.

    Args:
        rows: (n, ...), n at least 1: this process's part of the global batch.
        trainer: The trainer, during a fit.

    Returns:
        (1, ...).
    """
    last = rows[-1:]
    part, parts = share_of(trainer)
    everyone = of_all_processes(last, trainer) if parts > 1 else [last]
    # Processes that share a part have consecutive numbers.
    return everyone[(part - 1) % parts * (len(everyone) // parts)]


def of_all_processes(value: Tensor, trainer: Trainer) -> list[Tensor]:
    """Return the tensors of all processes, which must call it together, with the same shape and dtype.

    Example:
        >>> of_all_processes(torch.ones(2), Trainer(accelerator="cpu", logger=False))
        [tensor([1., 1.])]
    """
    if not (dist.is_available() and dist.is_initialized()):
        return [value]
    everyone = [torch.empty_like(value) for _ in range(trainer.world_size)]
    # Not through the strategy: Lightning 2.6 calls a function that torch 2.14 deprecates.
    dist.all_gather(everyone, value.contiguous())
    return everyone
