"""The degradation experiment: plain networks get worse with depth, residual networks don't.

    python scripts/experiments/degradation.py --epochs 5 --output docs/images/degradation.png

Trains plain and residual networks of 20 and 56 layers on CIFAR-10 (figure 6 of He et al. 2016,
arXiv:1512.03385) by their recipes in configs/cifar10, for few epochs at the recipes' first learning rate, and
draws their training losses. Options behind `--` go to every fit, such as `-- --trainer.precision bf16-mixed`.
A run that is finished is not repeated.
"""

import argparse
import os
import sys
from pathlib import Path

from lightning_optreg.figures import draw_runs, read_metric
from lightning_optreg.studies.stop import StopRequest, run_processes

NETWORKS = {
    "plain20": "plain, 20 layers",
    "plain56": "plain, 56 layers",
    "resnet20": "residual, 20 layers",
    "resnet56": "residual, 56 layers",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--runs", type=Path, default=Path("runs/degradation"), help="folder of the runs")
    parser.add_argument("--output", type=Path, default=Path("degradation.png"))
    parser.add_argument("fit_options", nargs="*", help="behind --: options of every fit")
    args = parser.parse_args()
    losses = {}
    for recipe, name in NETWORKS.items():
        folder = args.runs / recipe
        metrics = folder / "version_0" / "metrics.csv"
        if not (folder / "version_0" / "throughput.json").exists():  # written at a fit's end
            fit(recipe, folder, args.epochs, args.fit_options)
        losses[name] = read_metric(metrics, "train/loss")
        values = ", ".join(f"{loss:.3f}" for _, loss in losses[name])
        accuracy = read_metric(metrics, "val/accuracy")[-1][1]
        print(f"{name}: training loss {values}; validation accuracy {accuracy:.1%}", flush=True)
    draw_runs(losses, "training loss (mean per image)").savefig(args.output, dpi=150)
    print(args.output)


def fit(recipe: str, folder: Path, epochs: int, options: list[str]) -> None:
    command = [
        *(sys.executable, "-m", "lightning_optreg", "fit", "--config", f"configs/cifar10/{recipe}.yaml"),
        f"--trainer.max_epochs={epochs}",
        f"--trainer.default_root_dir={folder}",
        *options,
    ]
    with StopRequest() as stop:  # a signal to this program ends the run in order
        (status,) = run_processes(command, 1, os.environ, stop)
    if status != 0:
        raise SystemExit(f"a run ended with status {status}")


if __name__ == "__main__":
    main()
