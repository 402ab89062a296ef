"""What it brings to keep freed memory: the same plain training loop in fresh processes, with and without.

    python scripts/bench/allocator.py

Each process trains LeNet-5 on batches of 128 random images for 300 steps and tells its time and page faults.
Without `keep_freed_memory` both depend on how the heap happens to lie, so there is a spread to look at.
"""

import argparse
import resource
import statistics
import subprocess
import sys
import time

STEPS = 300
WARM_UP = 20


def train(keep: bool, junk: int) -> tuple[float, float]:
    """Milliseconds and page faults of a step. `junk` shifts the heap, as what else a program does would."""
    import torch
    from torch import nn

    from lightning_optreg.nets import LeNet5
    from lightning_optreg.runs.memory import keep_freed_memory

    if keep:
        keep_freed_memory()
    torch.manual_seed(0)
    images, labels = torch.randn(6400, 1, 28, 28), torch.randint(0, 10, (6400,))
    held = [torch.empty(7000 * (i + 1)) for i in range(junk)]
    net = LeNet5()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
    for step in range(STEPS + WARM_UP):
        if step == WARM_UP:
            start, faults = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        index = torch.randint(0, 6400, (128,))
        loss = nn.functional.cross_entropy(net(images[index]), labels[index])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    seconds = time.perf_counter() - start
    del held
    return 1e3 * seconds / STEPS, (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults) / STEPS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--one", nargs=2, type=int, metavar=("KEEP", "JUNK"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(*train(bool(args.one[0]), args.one[1]))
        return
    results: dict[int, list[tuple[float, float]]] = {0: [], 1: []}
    for junk in range(args.rounds):
        for keep, measured in results.items():
            command = [sys.executable, __file__, "--one", str(keep), str(junk)]
            out = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
            measured.append((float(out[0]), float(out[1])))
    print(f"{'':10}{'ms a step: median':>20}{'least':>8}{'most':>8}{'page faults: median':>23}{'most':>8}")
    for keep, name in ((0, "default"), (1, "kept")):
        ms, faults = zip(*results[keep], strict=True)
        print(
            f"{name:10}{statistics.median(ms):20.2f}{min(ms):8.2f}{max(ms):8.2f}"
            f"{statistics.median(faults):23.0f}{max(faults):8.0f}"
        )
    ratio = statistics.median(a[0] / b[0] for a, b in zip(results[0], results[1], strict=True))
    print(f"kept is {ratio:.2f} x as fast")


if __name__ == "__main__":
    main()
