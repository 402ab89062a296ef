"""Final accuracy of LeNet-5 on Fashion-MNIST with two workers, against one process.

    python scripts/experiments/strategies.py                         # all strategies, 3 seeds
    python scripts/experiments/strategies.py --only one_64 Hogwild --seeds 1 --epochs 4
    python scripts/experiments/strategies.py --seeds 1 --first_seed 0 --images validation --epochs 6 --lr 0.1

All see the same number of images and begin with the same weights; rates fall to 0 along a cosine. Workers
that average have batches of 64 each, so the common weights make half as many steps, as those of one process
with batches of 128 do (`one_128`). Under `Hogwild` and `Downpour` the steps of both workers add up on one set
of weights, as those of one process with batches of 64 do (`one_64`). Each kind of run has the best of 3 to
5 learning rates from 0.025 to 0.4 (`--lr` takes several), one run each, as in the last of these commands,
on images held out for validation; the rate of DDP and LocalSGD is one_128's, and DiLoCo's is one_AdamW's.
Printed are accuracies in percent, and differences from the run to compare with.
"""

import argparse
import logging
import os
import statistics
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.strategies import DDPStrategy, Strategy
from torch.optim import SGD, AdamW
from torch.optim.lr_scheduler import CosineAnnealingLR

from lightning_optreg.classifier import ImageClassifier
from lightning_optreg.data import FashionMNISTDataModule
from lightning_optreg.nets import LeNet5
from lightning_optreg.strategies import (
    AsyncElasticAveraging,
    Downpour,
    ElasticAveraging,
    Hogwild,
    LocalSGD,
)

OUTER = partial(SGD, lr=0.7, momentum=0.9, nesterov=True)


@dataclass(frozen=True)
class Arm:
    """A kind of run.

    Attributes:
        compare: The run to compare with; its own name if it is one.
        strategy: Makes the strategy; None for one process.
        lr: Learning rate, the best of those tried on validation images.
        batch_size: Images of a worker's batch.
        optimizer: Makes the optimizer, given the rate.
    """

    compare: str
    strategy: Callable[[], Strategy] | None = None
    lr: float = 0.1
    batch_size: int = 64
    optimizer: Callable[..., Any] = SGD


ARMS = {
    "one_128": Arm("one_128", batch_size=128),
    "DDP": Arm("one_128", lambda: DDPStrategy(start_method="fork")),
    "LocalSGD": Arm("one_128", lambda: LocalSGD(10, start_method="fork")),
    "ElasticAveraging": Arm("one_128", lambda: ElasticAveraging(10, start_method="fork"), 0.15),
    "one_AdamW": Arm("one_AdamW", lr=0.004, batch_size=128, optimizer=AdamW),
    "DiLoCo": Arm("one_AdamW", lambda: LocalSGD(50, OUTER, start_method="fork"), 0.004, optimizer=AdamW),
    "one_64": Arm("one_64"),
    "Hogwild": Arm("one_64", lambda: Hogwild(start_method="fork"), 0.07),
    "Downpour": Arm("one_64", Downpour, 0.07),
    "AsyncElasticAveraging": Arm("one_128", lambda: AsyncElasticAveraging(10), 0.15),
}


def accuracy(arm: Arm, lr: float, seed: int, epochs: int, images: str) -> float:
    """Train, and return the accuracy on other images in percent."""
    seed_everything(seed, workers=True)
    module = ImageClassifier(
        LeNet5(),
        optimizer=partial(arm.optimizer, lr=lr),
        lr_scheduler=CosineAnnealingLR,  # as long as the run
        lr_interval="step",
    )
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(
        accelerator="cpu",
        devices=1 if arm.strategy is None else 2,
        strategy="auto" if arm.strategy is None else arm.strategy(),
        max_epochs=epochs,
        enable_checkpointing=False,
        limit_val_batches=0,
        **quiet,
    )
    data = FashionMNISTDataModule(batch_size=arm.batch_size)
    trainer.fit(module, datamodule=data)
    alone = Trainer(accelerator="cpu", devices=1, **quiet)
    evaluate = alone.test if images == "test" else alone.validate
    (result,) = evaluate(module, datamodule=data, verbose=False)
    return 100 * next(value for name, value in result.items() if name.endswith("/accuracy"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", nargs="+", default=list(ARMS), choices=list(ARMS), metavar="NAME")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seeds", type=int, default=3, help="seeds 1, 2, ... of each kind of run")
    parser.add_argument("--first_seed", type=int, default=1)
    parser.add_argument("--images", choices=("test", "validation"), default="test")
    parser.add_argument(
        "--lr", nargs="+", type=float, help="rates to try instead; AdamW gets a hundredth of them"
    )
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    seeds = range(args.first_seed, args.first_seed + args.seeds)
    means: dict[tuple[str, int], float] = {}
    for name in args.only:
        arm = ARMS[name]
        unit = 0.01 if arm.optimizer is AdamW else 1.0
        for place, lr in enumerate([unit * each for each in args.lr] if args.lr else [arm.lr]):
            found = [accuracy(arm, lr, seed, args.epochs, args.images) for seed in seeds]
            mean = means[name, place] = statistics.mean(found)
            other = means.get((arm.compare, place))
            difference = "" if other is None else f"{mean - other:+.2f} to {arm.compare}"
            each = " ".join(f"{percent:.2f}" for percent in found)
            print(f"{name:22} lr {lr:<7g}{mean:7.2f}   {difference:20}{each}", flush=True)


if __name__ == "__main__":
    main()
