"""What averaging weights every 10 steps saves against DDP: time of a step, and bytes on the network.

    python scripts/bench/averaging.py                  # two processes of one thread, LeNet-5 on Fashion-MNIST

Two processes train LeNet-5 with batches of 64 under DDP, ElasticAveraging and LocalSGD, which take turns; a
round's ratio compares neighbours in time. The processor's time, which other programs change less, is that of
process 0 with its threads. Bytes are those of the loopback device, counted by the kernel, in a
network namespace of the processes' own (`unshare --net`), so nothing else is counted: gloo's traffic with its
headers, and what Lightning sends in every step.
"""

import argparse
import logging
import os
import socket
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.strategies import DDPStrategy, Strategy
from torch import Tensor, nn

from lightning_optreg.data import FashionMNISTDataModule
from lightning_optreg.nets import LeNet5
from lightning_optreg.runs.memory import keep_freed_memory
from lightning_optreg.strategies import ElasticAveraging, LocalSGD

PERIOD = 10
WARM_UP = PERIOD
OWN_NETWORK = "OPTREG_BENCH_OWN_NETWORK"
STRATEGIES: dict[str, Callable[[], Strategy]] = {
    "DDP": lambda: DDPStrategy(process_group_backend="gloo"),
    "ElasticAveraging": lambda: ElasticAveraging(PERIOD, process_group_backend="gloo"),
    "LocalSGD": lambda: LocalSGD(PERIOD, process_group_backend="gloo"),
}


class Net(LightningModule):
    """LeNet-5 with momentum, and nothing else in a step."""

    def __init__(self) -> None:
        super().__init__()
        self.net = LeNet5()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        images, labels = batch
        return nn.functional.cross_entropy(self.net(images), labels)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.01, momentum=0.9)


class Meter(Callback):
    """Seconds by the clock and of the processor, and bytes, of the steps after the first few."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.seconds = self.cpu = self.bytes = 0.0

    def on_train_batch_start(self, trainer: Trainer, module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == WARM_UP:
            self.seconds, self.cpu, self.bytes = -time.perf_counter(), -time.process_time(), -sent()

    def on_train_batch_end(self, trainer: Trainer, module: Any, out: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == self.steps + WARM_UP - 1:
            self.seconds += time.perf_counter()
            self.cpu += time.process_time()
            self.bytes += sent()


def sent() -> int:
    """Bytes that the loopback device has sent in this network namespace."""
    for line in Path("/proc/self/net/dev").read_text().splitlines():
        name, _, counters = line.partition(":")
        if name.strip() == "lo":
            return int(counters.split()[8])
    raise RuntimeError("there is no loopback device")


def work(rank: int, port: int, rounds: int, steps: int) -> None:
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    ranks = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ.update(ranks, MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), GROUP_RANK="0")
    os.environ["TORCHELASTIC_RUN_ID"] = "bench"  # so that Lightning knows that the processes are there
    torch.set_num_threads(1)
    keep_freed_memory()
    found: dict[str, list[Meter]] = {name: [] for name in STRATEGIES}
    for index in range(rounds + 1):
        names = list(STRATEGIES) if index % 2 else list(STRATEGIES)[::-1]
        for name in names:
            meter = fit(STRATEGIES[name](), steps)
            if index > 0:  # the first warms up
                found[name].append(meter)
    if rank == 0:
        table(found, steps)


def fit(strategy: Strategy, steps: int) -> Meter:
    seed_everything(1, verbose=False)
    meter = Meter(steps)
    trainer = Trainer(
        accelerator="cpu",
        devices=2,
        strategy=strategy,
        max_steps=steps + WARM_UP,
        callbacks=[meter],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
    )
    trainer.fit(Net(), datamodule=FashionMNISTDataModule(batch_size=64))
    return meter


def table(found: dict[str, list[Meter]], steps: int) -> None:
    titles = ((18, ""), (10, "ms a step"), (8, "to DDP"), (16, "spread"), (8, "CPU"), (8, "to DDP"))
    print("".join(f"{title:>{width}}" for width, title in (*titles, (10, "bytes"), (8, "to DDP"))))
    for name, meters in found.items():
        pairs = list(zip(meters, found["DDP"], strict=True))
        times = sorted(own.seconds / ddp.seconds for own, ddp in pairs)
        quarter = len(times) // 4
        print(
            f"{name:18}{1e3 * statistics.median(each.seconds for each in meters) / steps:10.2f}"
            f"{statistics.median(times):8.3f}{times[quarter]:9.3f} - {times[-1 - quarter]:.2f}"
            f"{1e3 * statistics.median(each.cpu for each in meters) / steps:8.2f}"
            f"{statistics.median(own.cpu / ddp.cpu for own, ddp in pairs):8.3f}"
            f"{statistics.median(each.bytes for each in meters) / steps:10,.0f}"
            f"{statistics.median(own.bytes / ddp.bytes for own, ddp in pairs):8.3f}",
            flush=True,
        )


def in_own_network() -> None:
    """Start this program again where only its own processes use the network."""
    script = 'ip link set lo up && exec "$@"'
    alone = ["unshare", "--net"] if os.geteuid() == 0 else ["unshare", "--map-root-user", "--net"]
    command = [*alone, "sh", "-c", script, "sh", sys.executable, *sys.argv]
    raise SystemExit(subprocess.call(command, env={**os.environ, OWN_NETWORK: "1"}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=200, help=f"steps of a run, a multiple of {PERIOD}")
    args = parser.parse_args()
    if OWN_NETWORK not in os.environ:
        in_own_network()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.start_processes(
        work, args=(port, args.rounds, args.steps), nprocs=2, start_method="spawn"
    )


if __name__ == "__main__":
    main()
