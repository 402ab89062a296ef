"""What privacy costs in accuracy: LeNet-5 on Fashion-MNIST at several epsilons.

    python scripts/experiments/privacy.py
    python scripts/experiments/privacy.py --accelerator gpu --processes 6
    python scripts/experiments/privacy.py --epsilons 3 --seeds 1 --epochs 1   # to see that it runs

Trains with `configs/fashion_mnist/private_lenet5.yaml`, and the same recipe without the callback. Printed are
the test accuracies in percent, means over the seeds with their standard deviations, as a table in Markdown.
The weights are those at the end of the run: the best ones would be chosen by images that are not protected.
"""

import argparse
import logging
import os
import statistics
import time
import warnings
from contextlib import redirect_stderr, redirect_stdout
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from spread import mean_and_spread

from lightning_optreg.cli.main_cli import run
from lightning_optreg.runs.memory import keep_freed_memory

CONFIG = Path(__file__).parents[2] / "configs/fashion_mnist/private_lenet5.yaml"


def trained(epsilon: float | None, seed: int, args: argparse.Namespace) -> dict[str, float]:
    """Train, test and return what was found; without epsilon, without privacy."""
    torch.set_num_threads(1)
    keep_freed_memory()  # as the program does: gradients of examples come and go, half a gigabyte a step
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    with (
        TemporaryDirectory() as folder,
        open(os.devnull, "w") as nowhere,
        redirect_stdout(nowhere),
        redirect_stderr(nowhere),
    ):
        began = time.perf_counter()
        cli: Any = run(
            [
                "fit",
                f"--config={CONFIG}",
                f"--seed_everything={seed}",
                f"--trainer.default_root_dir={folder}",
                f"--trainer.accelerator={args.accelerator}",
                "--trainer.devices=1",
                "--trainer.enable_progress_bar=false",
                "--trainer.enable_model_summary=false",
                "--trainer.limit_val_batches=0",
                *([] if args.epochs is None else [f"--trainer.max_epochs={args.epochs}"]),
                *(["--trainer.callbacks=[]", "--optimizer.lr=0.1"] if epsilon is None else []),
                *([] if epsilon is None else [f"--trainer.callbacks.target_epsilon={epsilon}"]),
            ]
        )
        seconds = time.perf_counter() - began
        spent = cli.trainer.callback_metrics.get("optreg/differential_privacy/epsilon", float("inf"))
        (found,) = cli.trainer.test(cli.model, datamodule=cli.datamodule, verbose=False)
    return {"accuracy": 100 * found["test/accuracy"], "epsilon": float(spent), "seconds": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--epsilons", type=float, nargs="+", default=[1.0, 3.0, 8.0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--accelerator", default="cpu", choices=["cpu", "gpu"])
    parser.add_argument("--processes", type=int, default=2, help="of one thread each")
    args = parser.parse_args()
    print("| epsilon | test accuracy, % | epsilon spent | seconds a run |\n|---|---|---|---|", flush=True)
    # A process for each run: the memory that one has freed does not fit the next, so it would grow.
    with get_context("spawn").Pool(args.processes, maxtasksperchild=1) as pool:
        results = {
            epsilon: [pool.apply_async(trained, (epsilon, seed, args)) for seed in range(1, args.seeds + 1)]
            for epsilon in (*args.epsilons, None)
        }
        for epsilon, runs in results.items():
            found = [each.get() for each in runs]
            accuracy = mean_and_spread([each["accuracy"] for each in found])
            name = "not private" if epsilon is None else f"{epsilon:g}"
            seconds = statistics.mean(each["seconds"] for each in found)
            spent = "" if epsilon is None else f"{max(each['epsilon'] for each in found):.2f}"
            print(f"| {name} | {accuracy} | {spent} | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main()
