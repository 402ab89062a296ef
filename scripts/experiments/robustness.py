"""Noisy ensembles of residual networks under attack: Wang et al. 2019 (arXiv:1811.10745), scaled down.

    python scripts/experiments/robustness.py --output docs/images/robustness     # 50 minutes on two cores
    python scripts/experiments/robustness.py --seeds 1 --epochs 1 --images 50    # to see that it runs

Trains with `configs/fashion_mnist/enresnet2_8_pgd_small.yaml`, each network for as many epochs and with the
same rates: a plain residual network, noisy ensembles of 1, 2 and 5 like it, and plain ones as wide as it
takes to have the parameters of the ensembles. Then each is attacked, with single gradients (as the paper
does) and with the mean gradient of several passes, and with the mean of its members' scores (as the
authors' code has it) and of their probabilities (as the theory has it). Printed are means over the seeds,
with their standard deviations, in percent, as a table in Markdown; `--output` also writes `.csv` and the
histograms of the weights, `.png`.
"""

import argparse
import csv
import logging
import os
import time
import warnings
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from lightning.pytorch import Trainer
from matplotlib.figure import Figure
from spread import mean_and_spread
from torch import Tensor, nn

from lightning_optreg.attacks import FGSM, IFGSM, PGD, Attack, CarliniWagner
from lightning_optreg.callbacks import RobustnessEvaluation
from lightning_optreg.cli.main_cli import run
from lightning_optreg.layers import GaussianNoise
from lightning_optreg.layers.averages import Average
from lightning_optreg.nets import EnResNet

CONFIG = Path(__file__).parents[2] / "configs/fashion_mnist/enresnet2_8_pgd_small.yaml"


@dataclass(frozen=True)
class Variant:
    """A network: `members` of `width`, noisy or not."""

    members: int
    width: int
    noise: float


@dataclass(frozen=True)
class Outcome:
    """Accuracies in percent by what is averaged and by attack, the convolutions' weights, and the cost."""

    accuracies: dict[str, dict[str, float]]
    weights: np.ndarray
    cpu_seconds: float


VARIANTS = {
    "ResNet8": Variant(1, 8, 0.0),
    "En1ResNet8": Variant(1, 8, 0.1),
    "En2ResNet8": Variant(2, 8, 0.1),
    "En5ResNet8": Variant(5, 8, 0.1),
    "ResNet8, width 11 (as En2)": Variant(1, 11, 0.0),
    "ResNet8, width 18 (as En5)": Variant(1, 18, 0.0),
}


def attacks_of(eps: float, samples: int) -> list[Attack]:
    """Return those of the paper, and two that follow the mean gradients of several passes."""
    return [
        FGSM(eps),
        IFGSM(eps),
        CarliniWagner(1.5, steps=30, search_steps=2),
        PGD(eps, steps=10, samples=samples),
        PGD(1.5, norm="l2", steps=10, samples=samples),
    ]


def trained(variant: Variant, seed: int, epochs: int, folder: str) -> tuple[EnResNet, object]:
    """Train, and return the network and the data."""
    cli = run(
        [
            "fit",
            f"--config={CONFIG}",
            f"--seed_everything={seed}",
            f"--model.net.members={variant.members}",
            f"--model.net.width={variant.width}",
            f"--model.net.noise={variant.noise}",
            f"--trainer.max_epochs={epochs}",
            f"--trainer.default_root_dir={folder}",
            "--trainer.accelerator=cpu",
            "--trainer.enable_progress_bar=false",
            "--trainer.enable_model_summary=false",
            "--trainer.limit_val_batches=0",
        ]
    )
    return cli.model, cli.datamodule


def evaluate(module: object, data: object, images: int, samples: int) -> dict[str, float]:
    """Return accuracies in percent."""
    noisy = any(layer.sigma > 0 for layer in module.modules() if isinstance(layer, GaussianNoise))
    attacks = attacks_of(0.1, samples if noisy else 1)  # without noise all passes are the same
    callback = RobustnessEvaluation(attacks, max_images=images, output=None)
    trainer = Trainer(
        accelerator="cpu", logger=False, callbacks=[callback], enable_progress_bar=False, inference_mode=True
    )
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
        (found,) = trainer.test(module, datamodule=data, verbose=False)
    return {
        "test": 100 * found["test/accuracy"],
        **{each.name.removeprefix("EOT-"): 100 * each.share for each in callback.results},
    }


def outcome(name: str, seed: int, args: argparse.Namespace) -> Outcome:
    """Train a variant and attack it."""
    torch.set_num_threads(1)  # such small networks gain little from a second one
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    variant = VARIANTS[name]
    with TemporaryDirectory() as folder, open(os.devnull, "w") as nowhere, redirect_stderr(nowhere):
        module, data = trained(variant, seed, args.epochs, folder)
        accuracies = {}
        for average in averages_of(variant):
            module.net.average = average
            accuracies[average] = evaluate(module, data, args.images, args.samples)
    convolutions = [layer for layer in module.modules() if isinstance(layer, nn.Conv2d)]
    weights = torch.cat([layer.weight.detach().flatten() for layer in convolutions])
    return Outcome(accuracies, weights.numpy(), time.process_time())


def averages_of(variant: Variant) -> tuple[Average, ...]:
    return ("outputs", "probabilities") if variant.members > 1 else ("outputs",)


def histograms(weights: dict[str, Tensor]) -> Figure:
    """Draw how the weights of the convolutions are distributed."""
    figure = Figure(figsize=(7.2, 4.0), layout="constrained")
    axes = figure.subplots()
    for name, values in weights.items():
        axes.hist(values.numpy(), bins=81, range=(-0.5, 0.5), density=True, histtype="step", label=name)
    axes.set_yscale("log")
    axes.set_xlabel("weight of a convolution")
    axes.set_ylabel("density")
    axes.legend(frameon=False, fontsize=8)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", nargs="+", default=list(VARIANTS), choices=list(VARIANTS), metavar="NAME")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--images", type=int, default=200, help="test images that are attacked")
    parser.add_argument(
        "--samples", type=int, default=3, help="passes for each gradient of the last two attacks"
    )
    parser.add_argument("--processes", type=int, default=2, help="of one thread each")
    parser.add_argument("--output", help="write OUTPUT.csv and OUTPUT.png")
    args = parser.parse_args()
    seeds = range(1, args.seeds + 1)
    largest_first = sorted(args.only, key=lambda name: -VARIANTS[name].members * VARIANTS[name].width)
    tasks = [(name, seed, args) for name in largest_first for seed in seeds]
    # One task a process, so that its CPU time is the task's.
    with get_context("spawn").Pool(args.processes, maxtasksperchild=1) as pool:
        found_by_task = pool.starmap(outcome, tasks, chunksize=1)
    outcomes = {(name, seed): each for (name, seed, _), each in zip(tasks, found_by_task, strict=True)}
    table = []
    columns = list(next(iter(outcomes.values())).accuracies["outputs"])
    print(f"| network | averaged | {' | '.join(columns)} |")
    print(f"|---|---|{'---|' * len(columns)}")
    for name in args.only:
        for average in averages_of(VARIANTS[name]):
            cells = []
            for attack in columns:
                found = [outcomes[name, seed].accuracies[average][attack] for seed in seeds]
                cells.append(mean_and_spread(found))
                table += [
                    [name, average, attack, seed, value] for seed, value in zip(seeds, found, strict=True)
                ]
            print(f"| {name} | {average} | {' | '.join(cells)} |")
    weights = {name: torch.from_numpy(outcomes[name, 1].weights) for name in args.only}
    small = {name: float((values.abs() < 1e-3).float().mean()) for name, values in weights.items()}
    for name, share in small.items():
        print(f"{name}: {100 * share:.2f} % of the weights of convolutions are below 0.001")
    minutes = sum(each.cpu_seconds for each in outcomes.values()) / 60
    print(f"{minutes:.0f} minutes of CPU time in {args.processes} processes")
    if args.output:
        with open(f"{args.output}.csv", "w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["network", "averaged", "attack", "seed", "accuracy"])
            writer.writerows(table)
        histograms(weights).savefig(f"{args.output}.png", dpi=90)


if __name__ == "__main__":
    main()
