"""Final accuracy of LeNet-5 on Fashion-MNIST with several workers, against one process.

    python scripts/experiments/strategies_lenet5.py --epochs 2
    python scripts/experiments/strategies_lenet5.py --strategies one Hogwild --seeds 3

All see the same number of images, in batches of the same size for each worker; the rate falls to 0. Printed
is the accuracy on the test images in percent.
"""

import argparse
import logging
import os
import time
import warnings
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from lightning.pytorch import Trainer, seed_everything
from torch.optim.lr_scheduler import CosineAnnealingLR

from lightning_optreg.classifier import ImageClassifier
from lightning_optreg.data import FashionMNISTDataModule
from lightning_optreg.nets import LeNet5
from lightning_optreg.strategies import AsyncElasticAveraging, Downpour, Hogwild

STRATEGIES: dict[str, Any] = {
    "one": lambda: "auto",
    "Hogwild": Hogwild,
    "Downpour": Downpour,
    "AsyncElasticAveraging": AsyncElasticAveraging,
}


def accuracy(name: str, args: argparse.Namespace, seed: int) -> tuple[float, float, int]:
    """Train and test; return the accuracy in percent, the seconds of training and the steps."""
    seed_everything(seed, workers=True)
    module = ImageClassifier(
        LeNet5(10, (1, 28, 28)),
        optimizer=lambda p: torch.optim.SGD(p, lr=args.lr, momentum=args.momentum),
        lr_scheduler=CosineAnnealingLR,  # as long as the run
        lr_interval="step",
    )
    trainer = Trainer(
        accelerator="cpu",
        devices=1 if name == "one" else args.workers,
        strategy=STRATEGIES[name](),
        max_epochs=args.epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    data = FashionMNISTDataModule(args.data, batch_size=args.batch_size)
    begin = time.perf_counter()
    trainer.fit(module, datamodule=data)
    seconds, steps = time.perf_counter() - begin, trainer.global_step
    result = trainer.test(module, datamodule=data, verbose=False)[0]
    return 100 * next(value for key, value in result.items() if "acc" in key), seconds, steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--strategies", nargs="+", default=list(STRATEGIES), choices=list(STRATEGIES))
    parser.add_argument("--data", default="/usr/share/datasets/fashion-mnist")
    for name, number in {"workers": 2, "epochs": 2, "seeds": 1, "batch-size": 64}.items():
        parser.add_argument(f"--{name}", type=int, default=number)
    parser.add_argument("--lr", type=float, default=0.05)
    parser.add_argument("--momentum", type=float, default=0.0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    print(f"{'':20}{'accuracy, %':>14}{'steps':>10}{'seconds':>10}")
    for seed in range(args.seeds):
        for name in args.strategies:
            percent, seconds, steps = accuracy(name, args, seed)
            print(f"{name:20}{percent:14.2f}{steps:10}{seconds:10.1f}", flush=True)


if __name__ == "__main__":
    main()
