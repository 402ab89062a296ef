"""How much faster `Hogwild` is with several workers: sparse logistic regression.

    python scripts/bench/strategies.py                       # 1 and 2 workers, in turns
    python scripts/bench/strategies.py --workers 4 --rounds 9

Each worker computes in one thread. Its examples have a few non-zeros, drawn unevenly among the weights, as
the words of texts are. Printed are the examples per second, from the beginning of the first batch to the end
of the epoch, over all workers; and the median, over the rounds, of the ratio of neighbours in time. On a busy
machine more workers get more of it, so that only the ratio by processor time means anything.
"""

import argparse
import logging
import os
import statistics
import time
import warnings
from functools import cache
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from lightning_optreg.randomness.processes import share_of
from lightning_optreg.strategies import Hogwild


@cache
def make_batches(steps: int, batch: int, nonzeros: int, weights: int) -> list[tuple[Tensor, Tensor]]:
    """Examples with a few weights each, and labels drawn from a model."""
    generator = torch.Generator().manual_seed(0)
    true = torch.randn(weights, generator=generator)
    batches = []
    for _ in range(steps):
        chosen = (torch.rand(batch, nonzeros, generator=generator) ** 3 * weights).long()
        chance = (true[chosen].sum(1) / 3).sigmoid()
        batches.append((chosen, (torch.rand(batch, generator=generator) < chance).float()))
    return batches


class Batches:
    """A worker's share of the batches."""

    def __init__(self, args: argparse.Namespace, rank: int, world_size: int) -> None:
        self.rank, self.world_size = rank, world_size
        everyone = make_batches(args.steps, args.batch, args.nonzeros, args.weights)
        self.batches = everyone[rank::world_size]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Any:
        return iter(self.batches)


class Logistic(LightningModule):
    """Logistic regression whose gradients are sparse."""

    def __init__(self, args: argparse.Namespace) -> None:
        super().__init__()
        self.args = args
        self.weights = nn.EmbeddingBag(args.weights, 1, mode="sum", sparse=True)
        nn.init.zeros_(self.weights.weight)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return nn.functional.binary_cross_entropy_with_logits(self.weights(batch[0]).squeeze(1), batch[1])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.5)

    def train_dataloader(self) -> Any:
        return Batches(self.args, *share_of(self.trainer))


class Clock(Callback):
    """Seconds from the first batch to the end of the epoch, when all workers have done their shares."""

    begin = end = computed = 0.0

    def on_train_epoch_start(self, *args: Any) -> None:
        self.begin, self.computed = time.perf_counter(), -time.process_time()

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        if trainer.is_last_batch:  # it waits for the others next
            self.computed += time.process_time()

    def on_train_epoch_end(self, *args: Any) -> None:
        self.end = time.perf_counter()


def measure(args: argparse.Namespace, workers: int) -> tuple[float, float]:
    """Train for an epoch; return the examples per second, and worker 0's processor time in ms a step."""
    clock = Clock()
    trainer = Trainer(
        accelerator="cpu",
        devices=workers,
        strategy=Hogwild(),
        max_epochs=1,
        callbacks=[clock],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Logistic(args))
    if trainer.global_step != args.steps:
        raise RuntimeError(f"{trainer.global_step} steps instead of {args.steps}")
    own = args.steps / workers
    return args.steps * args.batch / (clock.end - clock.begin), 1e3 * clock.computed / own


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    for name, number in {"workers": 2, "rounds": 5, "steps": 12000, "batch": 20, "nonzeros": 80}.items():
        parser.add_argument(f"--{name}", type=int, default=number)
    parser.add_argument("--weights", type=int, default=1_000_000)
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    print(f"{'workers':>10}{'examples/s':>14}{'CPU, ms a step':>18}{'ratio to 1':>14}")
    alone, together = [], []
    for index in range(args.rounds):
        for workers in (1, args.workers) if index % 2 == 0 else (args.workers, 1):
            results = alone if workers == 1 else together
            results.append(measure(args, workers))
            print(f"{workers:10}{results[-1][0]:14.0f}{results[-1][1]:18.3f}", flush=True)
    pairs = list(zip(alone, together, strict=True))
    ratios = sorted(many[0] / one[0] for one, many in pairs)
    for workers, results, ratio in ((1, alone, 1.0), (args.workers, together, statistics.median(ratios))):
        speed, cpu = (statistics.median(column) for column in zip(*results, strict=True))
        print(f"{workers:10}{speed:14.0f}{cpu:18.3f}{ratio:14.2f}   median")
    print(f"ratios {ratios[0]:.2f} to {ratios[-1]:.2f}", end="; ")
    free = statistics.median(args.workers * one[1] / many[1] for one, many in pairs)
    print(f"by processor time, as on a free core for each worker: {free:.2f}")


if __name__ == "__main__":
    main()
