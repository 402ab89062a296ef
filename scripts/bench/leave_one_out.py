"""What each part of a fast recipe is worth: the recipe without it, on real CIFAR-10.

    python scripts/bench/leave_one_out.py --data_dir DIR --seeds 5 --processes 9      # minutes on a GPU

Trains configs/cifar10/airbench.yaml as it is and with one part left out at a time, some seeds each, several
runs at once. Printed are the mean and the standard deviation of the test accuracy, and the loss against the
whole recipe with its standard error.
"""

import argparse
import contextlib
import logging
import os
import statistics
import tempfile
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import yaml
from contenders import Task, recipe

RECIPE = Path(__file__).parents[2] / "configs" / "cifar10" / "airbench.yaml"
Configuration = dict[str, Any]


def _without_callback(config: Configuration, name: str) -> None:
    callbacks = config["trainer"]["callbacks+"]
    config["trainer"]["callbacks+"] = [each for each in callbacks if each["class_path"] != name]


def _augment(config: Configuration) -> list[Configuration]:
    transforms: list[Configuration] = config["data"]["init_args"]["augment"]
    return transforms


def no_whitening(config: Configuration) -> None:
    (whitening,) = (c for c in config["trainer"]["callbacks+"] if c["class_path"] == "PatchWhitening")
    whitening["init_args"]["count"] = 0


def no_identity(config: Configuration) -> None:
    config["model"]["net"] = {"class_path": "AirbenchNet", "init_args": {"identity": False}}


def independent_flips(config: Configuration) -> None:
    _augment(config)[0]["init_args"]["alternating"] = False


def no_flips(config: Configuration) -> None:
    _augment(config).pop(0)


def no_shifts(config: Configuration) -> None:
    _augment(config).pop(1)


def one_rate(config: Configuration) -> None:
    del config["model"]["lr_factors"]


def no_lookahead(config: Configuration) -> None:
    config["optimizer"] = config["optimizer"]["init_args"]["optimizer"]


def no_smoothing(config: Configuration) -> None:
    _without_callback(config, "LabelSmoothing")


def one_view(config: Configuration) -> None:
    _without_callback(config, "TestTimeAugmentation")


VARIANTS: dict[str, Callable[[Configuration], None]] = {
    "the whole recipe": lambda config: None,
    "filters of the first layer random, not whitening": no_whitening,
    "convolutions start as torch's, not as the identity": no_identity,
    "an independent coin for each mirroring": independent_flips,
    "no mirroring": no_flips,
    "no shifts": no_shifts,
    "one rate for all, biases of batch norm too": one_rate,
    "no Lookahead": no_lookahead,
    "no label smoothing": no_smoothing,
    "one view at test": one_view,
}


def accuracy(name: str, seed: int, data_dir: str | None, options: list[str]) -> float:
    """Train one of the variants; return the test accuracy in percent."""
    torch.set_num_threads(1)  # of many processes
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    config = yaml.safe_load(RECIPE.read_text())
    VARIANTS[name](config)
    with (
        tempfile.TemporaryDirectory() as folder,
        open(os.devnull, "w") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        path = Path(folder, "recipe.yaml")
        path.write_text(yaml.safe_dump(config))
        return recipe(Task(path, seed, data_dir, config["trainer"]["max_epochs"], None, options)).test


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data_dir", help="folder with CIFAR-10, if not where the program looks itself")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--processes", type=int, default=1, help="runs at a time")
    parser.add_argument("--option", action="append", default=[], help="another option of fit, of all runs")
    args = parser.parse_args()
    with ProcessPoolExecutor(args.processes, mp_context=get_context("spawn")) as pool:
        runs = {
            name: [
                pool.submit(accuracy, name, seed, args.data_dir, args.option) for seed in range(args.seeds)
            ]
            for name in VARIANTS
        }
        found = {name: [each.result() for each in futures] for name, futures in runs.items()}
    whole = found["the whole recipe"]
    print(f"| {args.seeds} seeds | test accuracy, % | loss, points |")
    print("|---|---|---|")
    for name, values in found.items():
        loss = statistics.mean(whole) - statistics.mean(values)
        error = ((statistics.variance(whole) + statistics.variance(values)) / args.seeds) ** 0.5
        beside = "" if values is whole else f"{loss:.2f} ± {error:.2f}"
        print(f"| {name} | {statistics.mean(values):.2f} ± {statistics.stdev(values):.2f} | {beside} |")


if __name__ == "__main__":
    main()
