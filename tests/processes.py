"""Several gloo processes on this machine that call the same function, as `torchrun` would start them."""

import logging
import os
import socket
import warnings
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy

from tests.small_runs import ACCELERATOR

__all__ = ["WriteAtEnd", "ddp", "in_processes", "needs_fork", "needs_gloo", "written"]

_IMPORTED = ["lightning.pytorch", "lightning_optreg.callbacks", "lightning_optreg.cli.main_cli"]

needs_fork = pytest.mark.skipif(ACCELERATOR != "cpu", reason="processes can't fork once a GPU is in use")
needs_gloo = pytest.mark.skipif(
    not torch.distributed.is_gloo_available(), reason="this build of torch has no gloo"
)


def ddp() -> DDPStrategy:
    """The strategy of a trainer in such processes."""
    # Not half an hour's wait for a rank that waits for the other one in vain.
    return DDPStrategy(process_group_backend="gloo", timeout=timedelta(seconds=120))


def in_processes(
    count: int,
    function: Callable[..., None],
    *args: Any,
    start_method: Literal["spawn", "forkserver"] = "forkserver",
) -> None:
    """Call `function(rank, *args)` in each of `count` processes at once, and wait until they end.

    They are forked from a process that has imported much and done nothing: torch can't be forked where its
    threads have begun. Where CUDA is in use, take `spawn`.
    """
    torch.multiprocessing.get_context("forkserver").set_forkserver_preload(_IMPORTED)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.start_processes(
        _begin,
        args=(dict(os.environ), count, port, function, args),  # that of the server is as old as it is
        nprocs=count,
        start_method=start_method,
    )


def _begin(
    rank: int,
    environment: dict[str, str],
    count: int,
    port: int,
    function: Callable[..., None],
    args: tuple[Any, ...],
) -> None:
    os.environ.update(environment)
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    os.environ.update(
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        GROUP_RANK="0",
        WORLD_SIZE=str(count),
        LOCAL_WORLD_SIZE=str(count),
        TORCHELASTIC_RUN_ID="tests",  # so that Lightning knows that the processes are there
    )
    torch.set_num_threads(1)
    function(rank, *args)


class WriteAtEnd(Callback):
    """Each process writes the weights that it ends with, and a number drawn then; a fork leaves only files.

    With `own_draws` the processes begin with different random generators.
    """

    def __init__(self, folder: Path, *, own_draws: bool = False) -> None:
        self.folder, self.own_draws = folder, own_draws

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.own_draws:
            torch.manual_seed(trainer.global_rank)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        state = {"weights": dict(pl_module.named_parameters()), "drawn": torch.rand(())}
        torch.save(state, self.folder / f"end{trainer.global_rank}.pt")


def written(folder: Path, count: int = 2) -> list[dict[str, Any]]:
    """What `WriteAtEnd` has written in each of `count` processes."""
    return [torch.load(folder / f"end{rank}.pt", weights_only=True) for rank in range(count)]
