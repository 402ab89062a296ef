"""What the processes of a run share: a seed, and the rows of a global batch."""

import os

import torch
import torch.distributed as dist
from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

__all__ = ["RunSeed", "of_all_processes", "row_before", "run_seed", "share_of"]


def run_seed(given: int | None, trainer: Trainer | None) -> int:
    """Give the seed of what all processes must draw alike: that of the first process.

    Scripts that call `seed_everything(seed + rank)` have another one in each process. To be called by all
    processes together, when the trainer has started them.

    Args:
        given: A part's own seed. None: the number given to `seed_everything`, else 0.
        trainer: None: there is one process.

    Example:
        >>> run_seed(7, None)
        7
    """
    seed = int(os.environ.get("PL_GLOBAL_SEED", "0")) if given is None else given
    return seed if trainer is None else int(trainer.strategy.broadcast(seed))


class RunSeed:
    """The seed of what a part draws: its own, or else the run's, which stays the same in a resumed run.

    Args:
        given: The part's own seed. None: the run's.

    Example:
        >>> seed = RunSeed(None)
        >>> seed.load(7, "MixUp")
        >>> seed.value
        7
    """

    def __init__(self, given: int | None) -> None:
        self.given = given
        self.value = 0 if given is None else given
        self._loaded: int | None = None

    def load(self, before: int, name: str) -> None:
        """Take over the seed of the run that a checkpoint continues; another one that is given stands.

        Args:
            before: That run's seed.
            name: Of the part, for a warning that says so.
        """
        self._loaded = before
        if self.given is not None and self.given != before:
            rank_zero_warn(
                f"{name}: it draws from seed {self.given}, as given; in the checkpoint's run it drew from "
                f"{before}."
            )
        if self.given is None:
            self.value = before  # for strategies that load checkpoints last

    def settle(self, trainer: Trainer | None) -> int:
        """Agree with the other processes when a fit begins, and return the seed."""
        seed = self.given
        if (
            seed is None
            and self._loaded is not None
            and trainer is not None
            and trainer.ckpt_path is not None
        ):
            seed = self._loaded
        self.value = run_seed(seed, trainer)
        return self.value


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
