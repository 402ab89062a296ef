"""Which rows of a global batch are a process's own, and what the processes exchange for them."""

import torch
import torch.distributed as dist
from lightning.pytorch import Trainer
from torch import Tensor

__all__ = ["of_all_processes", "row_before", "share_of"]


def share_of(trainer: Trainer) -> tuple[int, int]:
    """Tell which part of a global batch this process has, counted from 0, and how many parts there are.

    There are as many as processes, or fewer where several share a part, as under tensor parallelism.
    """
    sampler = trainer.distributed_sampler_kwargs
    return (0, 1) if sampler is None else (int(sampler["rank"]), int(sampler["num_replicas"]))


def row_before(rows: Tensor, trainer: Trainer) -> Tensor:
    """Give the row of the global batch that comes before this process's first one; of row 0 the last one.

    All processes have to call it together, with rows of the same shape; each sends its last one.

    Args:
        rows: (n, ...), n at least 1: this process's part of the global batch.
        trainer: The trainer, while it fits.

    Returns:
        (1, ...).
    """
    last = rows[-1:]
    part, parts = share_of(trainer)
    everyone = of_all_processes(last, trainer) if parts > 1 else [last]
    # Processes that share a part are numbered one after the other.
    return everyone[(part - 1) % parts * (len(everyone) // parts)]


def of_all_processes(value: Tensor, trainer: Trainer) -> list[Tensor]:
    """Give the tensor of each process, which all call it together, with tensors of one shape and type.

    Example:
        >>> of_all_processes(torch.ones(2), Trainer(accelerator="cpu", logger=False))
        [tensor([1., 1.])]
    """
    if not (dist.is_available() and dist.is_initialized()):
        return [value]
    everyone = [torch.empty_like(value) for _ in range(trainer.world_size)]
    # Not by the strategy: Lightning 2.6 calls a function for gradients that torch 2.14 deprecates.
    dist.all_gather(everyone, value.contiguous())
    return everyone
