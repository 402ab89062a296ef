"""Several gloo processes on this machine that call the same function, as `torchrun` would start them."""

import logging
import os
import socket
import warnings
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy

__all__ = ["ddp", "in_processes", "needs_gloo"]

needs_gloo = pytest.mark.skipif(
    not torch.distributed.is_gloo_available(), reason="this build of torch has no gloo"
)


def ddp() -> DDPStrategy:
    """The strategy of a trainer in such processes."""
    # Not half an hour's wait for a rank that waits for the other one in vain.
    return DDPStrategy(process_group_backend="gloo", timeout=timedelta(seconds=120))


def in_processes(count: int, function: Callable[..., None], *args: Any) -> None:
    """Call `function(rank, *args)` in each of `count` processes at once, and wait until they end."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.start_processes(
        _begin, args=(count, port, function, args), nprocs=count, start_method="spawn"
    )


def _begin(rank: int, count: int, port: int, function: Callable[..., None], args: tuple[Any, ...]) -> None:
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
