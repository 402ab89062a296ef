"""What differential privacy costs: training steps of LeNet-5 with it against the same steps without.

    python scripts/bench/privacy.py                          # batches of 128 and 512, hooks and functorch
    python scripts/bench/privacy.py --batch 2048 --rounds 5

Short fits with and without the callback take turns, both on Poisson samples of the same images. Printed are
the median times of a step and the median, over the rounds, of the ratio of neighbours in time; and how much
more memory the process has at its peak with the callback, from a fit of its own with each.
"""

import argparse
import logging
import multiprocessing
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback
from paired import HEADER, Steps, device_name, seconds_of_a_step, take_turns
from torch import Tensor, nn

from lightning_optreg.callbacks import DifferentialPrivacy
from lightning_optreg.data import BatchLoader
from lightning_optreg.nets import LeNet5
from lightning_optreg.runs.memory import keep_freed_memory


class OfImages(Steps):
    """The same steps on images in 8 bits."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self.net(batch[0] / 255.0), batch[1])


def private(mode: Any) -> Callable[[], Callback]:
    """Make the callback, with the accountant that is quickest to ask."""
    return lambda: DifferentialPrivacy(1.0, accountant="gdp", mode=mode)


def fit(make: Callable[[], Callback], batch: int, steps: int, accelerator: str) -> float:
    """Seconds of a step with a callback."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (54_000, 1, 28, 28), generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, 10, (54_000,), generator=generator)
    torch.manual_seed(0)
    loader = BatchLoader(images, labels, batch_size=batch, shuffle="poisson", seed=1)
    module = OfImages(LeNet5(), torch.optim.SGD)
    return seconds_of_a_step(module, loader, make(), accelerator=accelerator, max_steps=steps)


def peak(mode: str | None, batch: int, steps: int) -> float:
    """Most memory of a process that only fits, in MB; `mode` None: without the callback."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak, (mode, batch, steps))


def _peak(mode: str | None, batch: int, steps: int) -> float:
    quiet()
    fit(Callback if mode is None else private(mode), batch, steps, "cpu")
    # Not getrusage: that is at least the peak of the process that started this one.
    status = Path("/proc/self/status").read_text().split()
    return int(status[status.index("VmHWM:") + 1]) / 1024


def quiet() -> None:
    keep_freed_memory()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--batch", type=int, nargs="+", default=[128, 512])
    parser.add_argument("--modes", nargs="+", default=["hooks", "functorch"], choices=["hooks", "functorch"])
    parser.add_argument("--accelerator", default="cpu", choices=["cpu", "gpu"])
    args = parser.parse_args()
    quiet()
    print(f"LeNet-5, {device_name(args.accelerator)}, {args.rounds} rounds of {args.steps} steps")
    print(HEADER)
    for batch in args.batch:
        for mode in args.modes:
            row = take_turns(
                lambda make, batch=batch: fit(make, batch, args.steps, args.accelerator),
                private(mode),
                args.rounds,
                digits=1,
            )
            print(f"{f'batch {batch}, {mode}':26}{row}", flush=True)
    if args.accelerator == "cpu":
        for batch in args.batch:
            without = peak(None, batch, args.steps)
            more = ", ".join(f"{peak(mode, batch, args.steps) - without:.0f} ({mode})" for mode in args.modes)
            print(f"batch {batch}: peak memory {without:.0f} MB without, MB more with: {more}", flush=True)


if __name__ == "__main__":
    main()
