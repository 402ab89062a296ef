"""What agreeing on signals costs: training steps with `ExactResume` against the same steps without.

    python scripts/bench/signals.py                 # one process, and two with gloo; LeNet-5 and ResNet-20
    python scripts/bench/signals.py --processes 2 --only LeNet5 --rounds 15

Short fits with and without the callback take turns, in the same processes. Printed are the median times of a
step and the median, over the rounds, of the ratio of neighbours in time. "(none)" is the measurement's own
noise.
"""

import argparse
import logging
import os
import socket
import warnings
from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import Callback
from lightning.pytorch.strategies import DDPStrategy
from paired import HEADER, Steps, seconds_of_a_step, take_turns
from torch import nn
from torch.utils.data import DataLoader

from lightning_optreg import nets
from lightning_optreg.callbacks import ExactResume

NETWORKS: dict[str, tuple[tuple[int, int, int], Callable[[], nn.Module]]] = {
    "LeNet5": ((1, 28, 28), lambda: nets.LeNet5(10, (1, 28, 28))),
    "ResNet20": ((3, 32, 32), lambda: nets.ResNet(10, (3, 32, 32), depth=20)),
}
CALLBACKS: dict[str, Callable[[], Callback]] = {"(none)": Callback, "ExactResume": ExactResume}


def fit(name: str, callback: Callback, steps: int, batch: int, processes: int) -> float:
    """Seconds of a step."""
    torch.manual_seed(0)
    shape, make = NETWORKS[name]
    images, labels = torch.randn(batch, *shape), torch.randint(0, 10, (batch,))
    loader: DataLoader[Any] = DataLoader([(images, labels)] * steps, batch_size=None)
    return seconds_of_a_step(
        Steps(make(), torch.optim.SGD),
        loader,
        callback,
        accelerator="cpu",
        devices=processes,
        strategy=DDPStrategy(process_group_backend="gloo") if processes > 1 else "auto",
        use_distributed_sampler=False,
        max_steps=steps,
    )


def measure(rank: int, port: int, processes: int, args: argparse.Namespace) -> None:
    """Measure in this process, together with the others; the first one prints."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    if processes > 1:
        os.environ |= {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "GROUP_RANK": "0",
            "WORLD_SIZE": str(processes),
            "LOCAL_WORLD_SIZE": str(processes),
            "TORCHELASTIC_RUN_ID": "bench",
        }
    for network in args.only:
        for name, make in CALLBACKS.items():
            row = take_turns(
                lambda make, network=network: fit(network, make(), args.steps, args.batch, processes),
                make,
                args.rounds,
                digits=2,
            )
            if rank == 0:
                print(f"{processes} {network:10}{name:14}{row}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--only", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--batch", type=int, default=128, help="images of a step in each process")
    args = parser.parse_args()
    print(f"batch {args.batch} a process, 1 thread each, {args.rounds} rounds of {args.steps} steps")
    print(HEADER)
    for processes in args.processes:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        torch.multiprocessing.start_processes(
            measure, args=(port, processes, args), nprocs=processes, start_method="spawn"
        )


if __name__ == "__main__":
    main()
