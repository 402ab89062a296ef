"""DeepOBS's Fashion-MNIST problem with its tuned SGD, Momentum and Adam, beside the published figures.

    python scripts/experiments/deepobs.py --epochs 10 --seeds 42 43 44
    python scripts/experiments/deepobs.py --epochs 100 --optimizers SGD

Trains the network 2c2d on all 60,000 training images as Schneider, Balles and Hennig 2019 (arXiv:1903.05499)
do: pixels on [0, 1], no augmentation, batches of 128 (a last one that is not full is left out), a constant
learning rate, which they had tuned. The test images are measured after every epoch; nothing is chosen by
them. Prints the mean test accuracy over the seeds beside that of their 10 seeds. A run that is finished is
not repeated; one that was interrupted continues.
"""

import argparse
import warnings
from pathlib import Path
from statistics import mean

import torch
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_optreg import ImageClassifier
from lightning_optreg.callbacks import ExactResume
from lightning_optreg.data import FashionMNISTDataModule
from lightning_optreg.data.loader import BatchLoader
from lightning_optreg.figures import read_metric
from lightning_optreg.loggers import RunCSVLogger
from lightning_optreg.nets import DeepOBS2c2d

OPTIMIZERS = {
    "SGD": lambda params: torch.optim.SGD(params, lr=10**-0.8),
    "Momentum": lambda params: torch.optim.SGD(params, lr=10**-2.6, momentum=0.99),
    "Adam": lambda params: torch.optim.Adam(params, lr=10**-3.6),
}
# Mean test accuracy (%) of their 10 seeds after so many epochs, from the runs published in DeepOBS_Baselines.
PUBLISHED = {
    "SGD": {1: 85.4, 5: 89.5, 10: 90.2, 20: 91.0, 50: 92.2, 100: 92.27},
    "Momentum": {1: 85.1, 5: 89.9, 10: 90.6, 20: 91.0, 50: 91.9, 100: 92.14},
    "Adam": {1: 85.2, 5: 89.6, 10: 91.0, 20: 90.6, 50: 91.7, 100: 92.34},
}


class TestedEveryEpoch(FashionMNISTDataModule):
    """Fashion-MNIST with the test images in the place of validation images."""

    def setup(self, stage: str | None = None) -> None:
        super().setup(None)

    def val_dataloader(self) -> BatchLoader:
        return self.test_dataloader()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seeds", type=int, nargs="+", default=[42], help="theirs: 42 to 51")
    parser.add_argument("--optimizers", nargs="+", choices=OPTIMIZERS, default=list(OPTIMIZERS))
    parser.add_argument("--threads", type=int, help="default: torch's")
    parser.add_argument("--runs", type=Path, default=Path("runs/deepobs"), help="folder of the runs")
    args = parser.parse_args()
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    for name in args.optimizers:
        accuracies = [run(name, seed, args.epochs, args.runs / f"{name}_{seed}") for seed in args.seeds]
        for epoch, values in enumerate(zip(*accuracies, strict=True), 1):
            if epoch in PUBLISHED[name]:
                accuracy, published = 100 * mean(values), PUBLISHED[name][epoch]
                print(f"{name:<9} epoch {epoch:3}: {accuracy:.2f} %, published {published} %", flush=True)


def run(name: str, seed: int, epochs: int, folder: Path) -> list[float]:
    """Train to the end, if that is not done yet, and return the test accuracy after each epoch."""
    metrics, last = folder / "metrics.csv", folder / "last.ckpt"
    done = len(read_metric(metrics, "val/accuracy")) if last.exists() else 0
    if done < epochs:
        seed_everything(seed, verbose=False)
        model = ImageClassifier(DeepOBS2c2d(), optimizer=OPTIMIZERS[name])
        data = TestedEveryEpoch(batch_size=128, val_fraction=0.0, normalize="none", drop_last=True)
        saver = ModelCheckpoint(folder, "last", enable_version_counter=False)
        trainer = Trainer(
            max_epochs=epochs,
            callbacks=[ExactResume(), saver],
            logger=RunCSVLogger(folder),
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
        )
        trainer.fit(model, data, ckpt_path=last if last.exists() else None)
    return [accuracy for _, accuracy in read_metric(metrics, "val/accuracy")][:epochs]


if __name__ == "__main__":
    warnings.filterwarnings("ignore", "The .* does not have many workers|.*LeafSpec|Checkpoint directory")
    main()
