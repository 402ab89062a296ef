"""Larger batches do what lower rates do: training losses of both, and of neither.

    python scripts/experiments/batch_size_growth.py --output docs/images/batch_size_growth.png

Trains an MLP on Fashion-MNIST three times from the same start: with the learning rate divided by 5 at epochs
5 and 10, with the batch multiplied by 5 there (`BatchSizeGrowth`; Smith et al. 2017, arXiv:1711.00489), and
with neither; and draws the training losses. A run that is finished is not repeated.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

from lightning_optreg.figures import draw_runs, read_metric
from lightning_optreg.studies.stop import StopRequest, run_processes

MILESTONES = "[5, 10]"
SCHEDULE, GROWTH = "--lr_scheduler", "--trainer.callbacks"
ARMS = {
    "neither": [],
    "rate / 5": [f"{SCHEDULE}=MultiStepLR", f"{SCHEDULE}.milestones={MILESTONES}", f"{SCHEDULE}.gamma=0.2"],
    "batch x 5": [
        *(f"{GROWTH}+=BatchSizeGrowth", f"{GROWTH}.milestones={MILESTONES}", f"{GROWTH}.factor=5"),
    ],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--runs", type=Path, default=Path("runs/batch_size_growth"), help="folder of the runs"
    )
    parser.add_argument("--output", type=Path, default=Path("batch_size_growth.png"))
    args = parser.parse_args()
    losses = {}
    for number, (name, options) in enumerate(ARMS.items()):
        folder = args.runs / f"arm_{number}"
        metrics = folder / "version_0" / "metrics.csv"
        if not (folder / "version_0" / "throughput.json").exists():  # written at a fit's end
            fit(folder, options)
        losses[name] = read_metric(metrics, "train/loss")
        steps = metrics.read_text().splitlines()[-1].split(",")[1]
        values = ", ".join(f"{loss:.3f}" for epoch, loss in losses[name] if epoch in (4, 9, 14))
        print(
            f"{name}: training loss after 5, 10 and 15 epochs {values}; {int(steps) + 1:,} steps", flush=True
        )
    draw_runs(losses, "training loss (mean per image)").savefig(args.output, dpi=150)
    print(args.output)


def fit(folder: Path, options: list[str]) -> None:
    command = [
        *(sys.executable, "-m", "lightning_optreg", "fit", "--data=FashionMNISTDataModule"),
        *("--data.batch_size=64", "--model.net=MLP", "--model.net.hidden=[128]", "--optimizer=SGD"),
        *("--optimizer.lr=0.1", "--optimizer.momentum=0.9", "--trainer.max_epochs=15", "--seed_everything=1"),
        *(f"--trainer.default_root_dir={folder}", "--trainer.enable_progress_bar=false", *options),
    ]
    with StopRequest() as stop:  # a signal to this program ends the run in order
        (status,) = run_processes(command, 1, os.environ, stop, stdout=subprocess.DEVNULL)
    if status != 0:
        raise SystemExit(f"a run ended with status {status}")


if __name__ == "__main__":
    main()
