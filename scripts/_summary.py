"""Prints what a finished run came to; quickstart calls it with the folder that holds the runs."""

import csv
import json
import sys
from pathlib import Path


def newest_run(root: Path) -> Path:
    """The run with the highest number."""
    return max(root.glob("version_*"), key=lambda folder: int(folder.name.removeprefix("version_")))


def main() -> None:
    """Print test results, speed and where everything lies."""
    run = newest_run(Path(sys.argv[1]))
    with (run / "metrics.csv").open(newline="") as file:
        tested = [row for row in csv.DictReader(file) if row["test/accuracy"]][-1]
    speed = json.loads((run / "throughput.json").read_text())
    print(
        f"""
test accuracy      {float(tested["test/accuracy"]):.2%}
test top-5         {float(tested["test/top5"]):.2%}
calibration error  {float(tested["test/calibration_error"]):.2%}
training           {speed["images_per_second"]:,.0f} images/s, {speed["seconds"]:.0f} s \
and {speed["validation_seconds"]:.0f} s of validation

run folder         {run.resolve()}"""
    )
    for name, what in {
        "config.yaml": "the whole configuration, ready for --config",
        "checkpoints": "best and last checkpoint",
        "metrics.csv": "everything that was logged",
        "curves.png": "loss and accuracy over the training",
    }.items():
        if (run / name).exists():
            print(f"  {name:17}{what}")


if __name__ == "__main__":
    main()
