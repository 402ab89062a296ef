"""What a run of a study costs beside its training: claim, configuration, start, test, record.

A study of softmax regression with one training batch, one validation batch and one test batch is run by one
process. Printed is the median time from the end of one run to the end of the next, the time of the first,
which also imports what it needs, and that of all runs.

    python scripts/bench/studies.py [--runs 12] [--data_dir FOLDER]
"""

import argparse
import re
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=12)
    parser.add_argument("--data_dir", help="where Fashion-MNIST is, if not where the program looks itself")
    options = parser.parse_args()
    if options.runs < 2:
        parser.error(f"--runs must be at least 2, got {options.runs}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "study.yaml")
        path.write_text(yaml.safe_dump(study(options.runs, options.data_dir)))
        command = [sys.executable, "-m", "lightning_optreg", "compare", "--workers", "1"]
        command += ["--config", str(path), "--output", str(Path(folder, "study"))]
        ends, said = [], []
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if re.match(r"\[\d+/", line):  # a run has ended
                    ends.append(time.perf_counter())
                said.append(line)
    if process.returncode != 0:
        sys.exit(process.returncode)
    times = [end - start for start, end in pairwise(ends)]
    first = re.search(r" ([\d.]+) s\b", next(line for line in said if line.startswith("[1/")))
    (total,) = re.findall(r"^\d+ runs in (\d+) s$", "".join(said), re.MULTILINE)
    assert first is not None
    print(f"a run: median {statistics.median(times):.2f} s, the first {first[1]} s")
    print(f"{len(ends)} runs with their queue: {total} s")


def study(runs: int, data_dir: str | None) -> dict[str, object]:
    """Return a study with that many runs of three batches."""
    one_batch = {"limit_train_batches": 1, "limit_val_batches": 1, "limit_test_batches": 1}
    more: dict[str, object] = {"lr_scheduler": None, "trainer": {"accelerator": "cpu", **one_batch}}
    if data_dir is not None:
        more["data"] = {"init_args": {"data_dir": data_dir}}
    return {
        "name": "three_batches",
        "base": [str(ROOT / "configs/fashion_mnist/softmax.yaml"), more],
        "epochs": 1,
        "seeds": list(range(runs)),
        "methods": {"SGD": {"optimizer": {"class_path": "SGD"}, "values": [0.1]}},
    }


if __name__ == "__main__":
    main()
