"""How long the program takes until it does something: help, the table of a network, the first batch.

Each command runs three times in a fresh process; the median is printed, then the imports that cost most.

    python scripts/bench/startup.py [--data_dir FOLDER]
"""

import argparse
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict

REPEATS = 3
FIRST_BATCH = [
    "fit",
    "--data=FashionMNISTDataModule",
    "--model.net=LeNet5",
    "--trainer.accelerator=cpu",
    "--trainer.max_steps=1",
    "--trainer.limit_val_batches=0",
    "--trainer.callbacks=[]",
    "--trainer.logger=false",
    "--trainer.enable_checkpointing=false",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data_dir", help="where Fashion-MNIST is, if not where the program looks itself")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        fit = [*FIRST_BATCH, f"--trainer.default_root_dir={folder}"]
        if options.data_dir is not None:
            fit.append(f"--data.data_dir={options.data_dir}")
        commands = {
            "--help": ["--help"],
            "describe --net LeNet5": ["describe", "--net", "LeNet5"],
            "fit --help": ["fit", "--help"],
            "fit, to the end of the first batch": fit,
        }
        for name, argv in commands.items():
            seconds = statistics.median(run(argv)[0] for _ in range(REPEATS))
            print(f"{seconds:6.2f} s  {name}")
    print("\nImports of `fit --help`, seconds with what they import; the 12 longest:")
    for seconds, module in longest_imports(["fit", "--help"])[:12]:
        print(f"{seconds:6.2f} s  {module}")


def run(argv: list[str], *python_options: str) -> tuple[float, str]:
    """Run the program in a process of its own; return seconds and what it wrote to the standard error."""
    start = time.perf_counter()
    result = subprocess.run(
        [sys.executable, *python_options, "-m", "lightning_optreg", *argv], capture_output=True, text=True
    )
    if result.returncode != 0:
        sys.exit(f"{argv} failed:\n{result.stderr}")
    return time.perf_counter() - start, result.stderr


def longest_imports(argv: list[str]) -> list[tuple[float, str]]:
    """Packages by the time that importing them took, each with all that it drew in first."""
    _, log = run(argv, "-X", "importtime")
    longest: dict[str, float] = defaultdict(float)
    for cumulative, module in re.findall(r"import time:\s+\d+ \|\s+(\d+) \|\s+(\S+)", log):
        package = ".".join(module.split(".")[:2])
        longest[package] = max(longest[package], int(cumulative) / 1e6)
    return sorted(((seconds, package) for package, seconds in longest.items()), reverse=True)


if __name__ == "__main__":
    main()
