r"""How long training takes until a network is as good as wanted: recipes, and what people use instead.

    python scripts/bench/time_to_accuracy.py --target 92 --usual \
        --recipes configs/fashion_mnist/fast.yaml configs/fashion_mnist/lenet5.yaml

Each recipe is run by `fit` with several seeds. --usual adds the network of the first recipe in a plain
Lightning project with torchvision's data set, transforms and schedule; --timm DIR adds it by `train.py` in
a checkout of timm. Each run is a process of its own, and the contenders take turns, so that a drift of the
machine's speed meets all. Time counts from the start of the fit, with what is prepared, to the end of the
first validation at the target or above, and to the end of the last. Printed are medians and the test
accuracy; the curves are drawn.
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--target", type=float, required=True, help="accuracy in percent")
    parser.add_argument("--recipes", type=Path, nargs="+", required=True, help="the first is the reference")
    parser.add_argument("--usual", action="store_true", help="also usual Lightning")
    parser.add_argument("--timm", type=Path, metavar="DIR", help="also the train.py in this checkout of timm")
    parser.add_argument("--usual_epochs", type=int, help="of --usual and --timm; default: the first recipe's")
    parser.add_argument("--option", action="append", default=[], help="another option of fit, of all recipes")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--data_dir", help="where the data are, if not where the program looks itself")
    parser.add_argument("--output", type=Path, help="a picture of the curves, .png or .svg")
    parser.add_argument("--one", nargs=2, metavar=("CONTENDER", "SEED"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    for recipe in options.recipes:
        if not recipe.is_file():
            parser.error(f"--recipes: no file {recipe}")
    if options.one is not None:
        print(json.dumps(train(options)))
        return
    names = [str(recipe) for recipe in options.recipes]
    names += ["usual"] * options.usual + ["timm"] * (options.timm is not None)
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for seed in range(options.seeds):
        for name in names:
            runs[name].append(in_a_process(name, seed))
            seconds, test = runs[name][-1]["points"][-1][0], runs[name][-1]["test"]
            print(f"{name}, seed {seed}: test accuracy {test:.2f} % after {seconds:.0f} s", flush=True)
    print()
    for row in table(runs, options.target):
        print("| " + " | ".join(row) + " |")
    if options.output is not None:
        draw(runs, options.target, options.output)


def in_a_process(name: str, seed: int) -> dict[str, Any]:
    """Train a contender in a process of its own."""
    command = [sys.executable, str(HERE), *sys.argv[1:], "--one", name, str(seed)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{name}, seed {seed}:\n{done.stderr[-3000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def train(options: argparse.Namespace) -> dict[str, Any]:
    """Train the contender that `--one` names, here."""
    from contenders import CONTENDERS, Task

    from lightning_optreg.runs.memory import keep_freed_memory

    keep_freed_memory()
    name, seed = options.one[0], int(options.one[1])
    recipe = options.recipes[0] if name in CONTENDERS else Path(name)
    epochs = options.usual_epochs or yaml.safe_load(recipe.read_text())["trainer"]["max_epochs"]
    task = Task(recipe, seed, options.data_dir, epochs, options.timm, options.option)
    return CONTENDERS.get(name, CONTENDERS["recipe"])(task)._asdict()


def reached(run: Mapping[str, Any], target: float) -> float | None:
    """Return the seconds to the first validation at the target or above; None if there is none."""
    return next((seconds for seconds, accuracy in run["points"] if accuracy >= target), None)


def table(runs: Mapping[str, Sequence[Mapping[str, Any]]], target: float) -> list[list[str]]:
    """Return the rows of a table in Markdown, the first contender's time being 1."""
    header = ["", f"to {target:g} %", "whole run", "ratio", "test accuracy", "images of validation"]
    rows = [header, ["---"] * len(header)]
    wholes = {name: [run["points"][-1][0] for run in each] for name, each in runs.items()}
    first = next(iter(wholes.values()))
    for name, each in runs.items():
        times = [reached(run, target) for run in each]
        found = [seconds for seconds in times if seconds is not None]
        to_target = f"{statistics.median(found):.0f} s" if len(found) * 2 > len(times) else "not reached"
        if found and len(found) < len(times):
            to_target += f" ({len(found)} of {len(times)} runs)"
        ratio = statistics.median(own / other for own, other in zip(wholes[name], first, strict=True))
        tests = [run["test"] for run in each]
        last = [run["points"][-1][1] for run in each]
        rows.append(
            [
                name,
                to_target,
                f"{statistics.median(wholes[name]):.0f} s",
                f"{ratio:.2f}",
                f"{statistics.mean(tests):.2f} % ({min(tests):.2f} to {max(tests):.2f})",
                f"{statistics.mean(last):.2f} %",
            ]
        )
    return rows


def draw(runs: Mapping[str, Sequence[Mapping[str, Any]]], target: float, path: Path) -> None:
    """Draw accuracy against time, a line for each run."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.subplots()
    colors = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00"]
    lowest = target
    for (name, each), color in zip(runs.items(), colors, strict=False):
        for number, run in enumerate(each):
            seconds, accuracies = zip(*run["points"], strict=True)
            label = Path(name).stem if number == 0 else None
            axes.plot(seconds, accuracies, "o-", color=color, markersize=3, linewidth=1.2, label=label)
            lowest = min(lowest, sorted(accuracies)[len(accuracies) // 2])
    axes.axhline(target, color="0.5", linestyle="--", linewidth=1)
    axes.set_ylim(bottom=lowest - 1.0)
    axes.set_xlabel("seconds since the start of the fit")
    axes.set_ylabel("accuracy on validation images, %")
    axes.legend(frameon=False, loc="lower right")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
