"""Two gloo processes that a test starts once for all that it has to see in them."""

import logging
import os
import socket
import warnings
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy

__all__ = ["in_two_processes", "needs_gloo", "two_processes"]

needs_gloo = pytest.mark.skipif(
    not torch.distributed.is_gloo_available(), reason="this build of torch has no gloo"
)


def in_two_processes(work: Callable[[int, Path], None], folder: Path) -> None:
    """Call work(rank, folder) in each of two processes, which leave what they found in files.

    Args:
        work: A function of a module, which can be pickled. Its trainers take `two_processes()`.
        folder: For the files.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.start_processes(_work, args=(work, folder, port), nprocs=2, start_method="spawn")


def two_processes() -> DDPStrategy:
    """The strategy of a trainer with `devices=2`."""
    # Not half an hour's wait for a rank that waits for the other one in vain.
    return DDPStrategy(process_group_backend="gloo", timeout=timedelta(seconds=120))


def _work(rank: int, work: Callable[[int, Path], None], folder: Path, port: int) -> None:
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    os.environ.update(
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        GROUP_RANK="0",
        WORLD_SIZE="2",
        LOCAL_WORLD_SIZE="2",
        TORCHELASTIC_RUN_ID="contracts",  # so that Lightning knows that the processes are there
    )
    torch.set_num_threads(1)
    work(rank, folder)
