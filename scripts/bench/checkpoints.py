"""What whole and checked checkpoints cost: AtomicCheckpointIO against Lightning's own, at 60 MB.

Each line is the median of neighbours in time, written in turns to one folder. Reading has the file in memory.

    python scripts/bench/checkpoints.py [--folder DIR] [--repeats 15]
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from lightning_optreg.runs import AtomicCheckpointIO
from lightning_optreg.trust.torch_files import check_whole


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", help="on the disk to measure; default: the one for temporary files")
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(1)
    checkpoint = {"state_dict": {f"w{i}": torch.randn(1500, 1000) for i in range(10)}, "global_step": 1}
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        path = Path(folder, "a.ckpt")
        ours, lightnings = AtomicCheckpointIO(), TorchCheckpointIO()
        work: dict[str, Callable[[], object]] = {
            "save, Lightning's": lambda: lightnings.save_checkpoint(checkpoint, path),
            "save, AtomicCheckpointIO": lambda: ours.save_checkpoint(checkpoint, path),
            "load, Lightning's": lambda: lightnings.load_checkpoint(path, weights_only=True),
            "load, AtomicCheckpointIO": lambda: ours.load_checkpoint(path, weights_only=True),
            "of which the checksums": lambda: check_whole(path),
        }
        rounds = [{name: seconds(do) for name, do in work.items()} for _ in range(options.repeats)]
        size = path.stat().st_size / 1e6
    print(f"a checkpoint of {size:.0f} MB\n\n| | ms | to Lightning's |\n|---|---|---|")
    for name in work:
        base = f"{name.partition(',')[0]}, Lightning's" if "," in name else "load, Lightning's"
        median = statistics.median(one[name] for one in rounds)
        ratio = statistics.median(one[name] / one[base] for one in rounds)
        print(f"| {name} | {1e3 * median:.0f} | {ratio:.2f} x |")


if __name__ == "__main__":
    main()
