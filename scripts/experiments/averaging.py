"""Two processes that average weights now and then against one process, at the same number of images.

    python scripts/experiments/averaging.py

Trains LeNet-5 on Fashion-MNIST with one process, with two under DDP, and with two that train weights of their
own: elastic averaging, local SGD (both every 10 steps) and DiLoCo (every 20). All see the same number of
images, 128 at a step of all processes, from the same start, with the rate on a cosine; they are tested on the
10,000 test images with the weights of their last checkpoint. A run that is finished is not repeated.
"""

import argparse
import logging
import os
import statistics
import subprocess
import sys
import warnings
from pathlib import Path

from lightning.pytorch import Trainer

from lightning_optreg import ImageClassifier
from lightning_optreg.data import FashionMNISTDataModule
from lightning_optreg.studies.stop import StopRequest, run_processes

STRATEGY = "--trainer.strategy"
SGD = ["--optimizer=SGD", "--optimizer.lr=0.05", "--optimizer.momentum=0.9"]
ADAMW = ["--optimizer=AdamW", "--optimizer.lr=0.001"]
OUTER = f"{STRATEGY}.outer_optimizer"
ARMS = {
    "one process": [*SGD, "--data.batch_size=128", "--trainer.devices=1"],
    "elastic averaging": [*SGD, f"{STRATEGY}=ElasticAveraging", f"{STRATEGY}.period=10"],
    "local SGD": [*SGD, f"{STRATEGY}=LocalSGD", f"{STRATEGY}.period=10"],
    "DDP": [*SGD, f"{STRATEGY}=ddp"],
    "one process, AdamW": [*ADAMW, "--data.batch_size=128", "--trainer.devices=1"],
    "DiLoCo, AdamW": [
        *(*ADAMW, f"{STRATEGY}=LocalSGD", f"{STRATEGY}.period=20", f"{OUTER}=SGD", f"{OUTER}.lr=0.7"),
        *(f"{OUTER}.momentum=0.9", f"{OUTER}.nesterov=true"),
    ],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/averaging"), help="folder of the runs")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seeds", type=int, default=1, help="runs of each kind")
    args = parser.parse_args()
    reference = {}
    for number, (name, options) in enumerate(ARMS.items()):
        accuracies = []
        for seed in range(1, args.seeds + 1):
            folder = args.runs / f"arm_{number}_seed_{seed}_epochs_{args.epochs}"
            if not (folder / "version_0" / "throughput.json").exists():  # written at a fit's end
                fit(folder, seed, args.epochs, options)
            accuracies.append(test(folder / "version_0" / "checkpoints" / "last.ckpt"))
        mean = statistics.mean(accuracies)
        if name.startswith("one process"):
            reference["AdamW" in name] = mean
        difference = mean - reference["AdamW" in name]
        each = " ".join(f"{accuracy:.2%}" for accuracy in accuracies)
        print(f"{name:20} test accuracy {mean:.2%} ({difference:+.2%} to one process)  {each}", flush=True)


def fit(folder: Path, seed: int, epochs: int, options: list[str]) -> None:
    command = [
        *(sys.executable, "-m", "lightning_optreg", "fit", "--data=FashionMNISTDataModule"),
        *("--data.batch_size=64", "--model.net=LeNet5", "--trainer.accelerator=cpu", "--trainer.devices=2"),
        *(f"--trainer.max_epochs={epochs}", f"--seed_everything={seed}"),
        *("--lr_scheduler=CosineAnnealingLR", f"--lr_scheduler.T_max={epochs}"),
        *(f"--trainer.default_root_dir={folder}", "--trainer.enable_progress_bar=false", *options),
    ]
    with StopRequest() as stop:  # a signal to this program ends the run in order
        (status,) = run_processes(command, 1, os.environ, stop, stdout=subprocess.DEVNULL)
    if status != 0:
        raise SystemExit(f"a run ended with status {status}")


def test(checkpoint: Path) -> float:
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    trainer = Trainer(accelerator="cpu", devices=1, logger=False, enable_progress_bar=False)
    module = ImageClassifier.load_from_checkpoint(checkpoint)
    (result,) = trainer.test(module, datamodule=FashionMNISTDataModule(batch_size=500), verbose=False)
    return result["test/accuracy"]


if __name__ == "__main__":
    main()
