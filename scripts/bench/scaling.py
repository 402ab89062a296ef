"""How time and memory of `fit` grow with images, parameters, members, workers and processes.

    python scripts/bench/scaling.py --output scaling.png                  # 3 to 9 minutes on 2 cores
    python scripts/bench/scaling.py --only images parameters --accelerator gpu

Each point is a fit of random images of 32 x 32 x 3 pixels with the callbacks and the logger of this project's
recipes, by one thread, in a process of its own that has made a small fit before, so that what is imported or
allocated once does not count. Time is that of `fit`; memory is the peak of resident memory, or of what torch
has allocated on a GPU, above that before images and network were made. Of several processes it is the largest
one's; what workers have of their own is added.

    bound = images and labels + 2 (parameters + gradients + state of the optimizer) + activations

is what a fit should need at most. Activations are the peak of a bare step of the same network and batch, in
another process, less parameters, gradients and state. Lines are fitted to the logarithms.
"""

import argparse
import gc
import logging
import multiprocessing
import os
import re
import socket
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from gpu import Noise
from lightning.pytorch import Callback, Trainer
from throughput import callbacks_of_recipes, progress_bars_hidden, sgd
from torch import Tensor, nn

from lightning_optreg import ImageClassifier
from lightning_optreg.callbacks import NoisyEnsemble, SnapshotEnsemble
from lightning_optreg.callbacks.evaluation.noisy_ensemble import residual_blocks
from lightning_optreg.layers.gaussian_noise import add_relative_noise, normal_like
from lightning_optreg.loggers import RunCSVLogger
from lightning_optreg.nets import MLP, ResNet
from lightning_optreg.runs.memory import keep_freed_memory

SHAPE = (3, 32, 32)


class Fit(NamedTuple):
    """What is fitted: one epoch, or one for each snapshot."""

    images: int
    width: int | None = 64
    """Units of two hidden layers; None: ResNet-8."""
    batch: int = 128
    noisy: int = 0
    """Passes of a `NoisyEnsemble` in validation, on half of the images."""
    snapshots: int = 0
    workers: int = 0
    ranks: int = 1


# The numbers of a curve, and the fit for each.
CURVES: dict[str, tuple[Sequence[int], Callable[[int], Fit]]] = {
    "images": ((16_000, 32_000, 64_000, 128_000, 256_000), Fit),
    "parameters": ((512, 1024, 2048, 4096), lambda n: Fit(640, width=n, batch=16)),
    "members of NoisyEnsemble": ((1, 2, 4, 8), lambda n: Fit(1_000, width=None, noisy=n)),
    "members of SnapshotEnsemble": ((1, 2, 4, 8), lambda n: Fit(4_000, width=512, snapshots=n)),
    "workers": ((1, 2, 4), lambda n: Fit(32_000, workers=n)),
    "processes": ((1, 2), lambda n: Fit(4_000, width=1024, batch=128 // n, ranks=n)),
}


class Meter:
    """Peak of memory above what was in use when it was made, in bytes."""

    def __init__(self, device: torch.device) -> None:
        gc.collect()
        self.device, self.children, self.over = device, 0, threading.Event()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
            self.before = torch.cuda.memory_allocated()
        else:
            Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
            self.before = resident("VmRSS")
            self.thread = threading.Thread(target=self._watch, daemon=True)
            self.thread.start()

    def _watch(self) -> None:
        """Look at the workers: at what they don't share with this process."""
        while not self.over.wait(0.05):
            ids = " ".join(path.read_text() for path in Path("/proc/self/task").glob("*/children")).split()
            sizes = [own(Path(f"/proc/{each}/smaps_rollup")) for each in ids]
            self.children = max(self.children, sum(sizes))

    def peak(self) -> int:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated() - self.before
        self.over.set()
        self.thread.join()
        return resident("VmHWM") - self.before + self.children


def resident(field: str) -> int:
    (found,) = re.findall(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return 1024 * int(found)


def own(path: Path) -> int:
    try:
        found = re.findall(r"Private_(?:Clean|Dirty):\s+(\d+) kB", path.read_text())
    except OSError:  # the process has ended
        return 0
    return 1024 * sum(map(int, found))


def net_of(fit: Fit) -> nn.Module:
    if fit.width is None:
        return ResNet(depth=8, input_shape=SHAPE)
    return MLP(input_shape=SHAPE, hidden=[fit.width, fit.width])


def sizes_of(module: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[int, int]:
    """Number of parameters, and bytes of parameters, gradients and state."""
    parameters = list(module.parameters())
    state = [each for values in optimizer.state.values() for each in values.values()]
    tensors = [*parameters, *parameters, *(each for each in state if isinstance(each, Tensor))]
    return sum(each.numel() for each in parameters), sum(each.nbytes for each in tensors)


def fit_once(fit: Fit, accelerator: str) -> tuple[object, float]:
    """Fit; return what was fitted and the seconds."""
    epochs = max(1, fit.snapshots)
    ensembles: list[Callback] = [NoisyEnsemble(samples=fit.noisy, stages=["validate"])] if fit.noisy else []
    if fit.snapshots:
        ensembles.append(SnapshotEnsemble(fit.snapshots))
    share = 0.5 if fit.noisy else 0.0
    data = Noise(SHAPE, fit.images, batch_size=fit.batch, val_fraction=share, num_workers=fit.workers)
    model = ImageClassifier(net_of(fit), optimizer=sgd)
    with tempfile.TemporaryDirectory() as folder, progress_bars_hidden():
        trainer = Trainer(
            max_epochs=epochs,
            accelerator=accelerator,
            devices=fit.ranks,
            strategy="auto" if fit.ranks == 1 else "ddp",
            enable_model_summary=False,
            num_sanity_val_steps=0,
            logger=RunCSVLogger(folder),
            callbacks=[*callbacks_of_recipes(folder, Callback()), *ensembles],
            default_root_dir=folder,
        )
        start = time.perf_counter()
        trainer.fit(model, datamodule=data)
        return (model, data), time.perf_counter() - start


def step_once(fit: Fit, device: torch.device) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Make two steps, the second of which has all gradients and states."""
    net = net_of(fit).to(device)
    if fit.noisy:  # the noise is among the activations
        for block in residual_blocks(net).values():
            block.register_forward_hook(
                lambda block, x, y: add_relative_noise(y, normal_like(y), 0.1, "image")[0]
            )
    optimizer = sgd(net.parameters())
    for _ in range(2):
        x, y = torch.randn(fit.batch, *SHAPE, device=device), torch.arange(fit.batch, device=device) % 10
        nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()
    return net, optimizer


def measure(fit: Fit, bare: bool, accelerator: str) -> dict[str, float]:
    """Measure a fit, or a bare step, in this process."""
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    keep_freed_memory()
    device = torch.device("cuda" if accelerator == "gpu" else "cpu")
    # What the small fit has taken is kept and used again, so it must be little.
    small = fit._replace(images=40, batch=2, width=fit.width and 8, snapshots=min(1, fit.snapshots))
    if bare:
        step_once(small, device)
        meter = Meter(device)
        net, optimizer = step_once(fit, device)
        parameters, learned = sizes_of(net, optimizer)
        return {"parameters": parameters, "learned": learned, "activations": max(0, meter.peak() - learned)}
    fit_once(small, accelerator)
    meter = Meter(device)
    _kept, seconds = fit_once(fit, accelerator)  # until the peak is read
    return {"seconds": seconds, "peak": meter.peak(), "dataset": fit.images * (int(np.prod(SHAPE)) + 8)}


class Running:
    """A measurement in processes of its own, which have imported everything and computed nothing."""

    def __init__(self, fit: Fit, bare: bool, accelerator: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.fit, self.ends, context = fit, [], multiprocessing.get_context("fork")
        for rank in range(1 if bare else fit.ranks):
            receiving, sending = context.Pipe(duplex=False)
            arguments = (fit, bare, accelerator, rank, port, sending)
            context.Process(target=measure_rank, args=arguments).start()
            sending.close()
            self.ends.append(receiving)

    def result(self) -> dict[str, float]:
        """Wait for it; of several processes the largest number counts."""
        try:
            found = [end.recv() for end in self.ends]
        except EOFError:
            sys.exit(f"{self.fit} ended with an error")
        return {name: max(each[name] for each in found) for name in found[0]}


def measure_rank(fit: Fit, bare: bool, accelerator: str, rank: int, port: int, sending: Any) -> None:
    if fit.ranks > 1 and not bare:
        size = str(fit.ranks)
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=size, LOCAL_WORLD_SIZE=size)
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), GROUP_RANK="0")
        os.environ["TORCHELASTIC_RUN_ID"] = "bench"  # so that Lightning knows that the processes are there
    sending.send(measure(fit, bare, accelerator))


def points(curve: str, accelerator: str) -> Iterator[dict[str, float]]:
    """Measure the points of a curve, and print each."""
    numbers, fit_of = CURVES[curve]
    fits = [fit_of(number) for number in numbers]
    # All at once, as no time is taken.
    running = {key: Running(fit, True, accelerator) for key, fit in {fit[1:3]: fit for fit in fits}.items()}
    bare = {key: each.result() for key, each in running.items()}
    for number, fit in zip(numbers, fits, strict=True):
        point = {**bare[fit[1:3]], **Running(fit, False, accelerator).result()}
        point["number"] = point["parameters"] if curve == "parameters" else number
        point["bound"] = point["dataset"] + 2 * point["learned"] + point["activations"]
        print(
            f"{curve:28}{point['number']:12,.0f}{point['seconds']:10.2f}{point['peak'] / 1e6:12.1f}"
            f"{point['bound'] / 1e6:12.1f}{point['peak'] / point['bound']:8.2f}",
            flush=True,
        )
        yield point


def exponent(found: Sequence[Mapping[str, float]], what: str) -> tuple[float, float]:
    """Fit log(what) = exponent log(number) + constant."""
    numbers, values = ([point[name] for point in found] for name in ("number", what))
    slope, constant = np.polyfit(np.log(numbers), np.log(values), 1)
    return float(slope), float(constant)


def draw(curves: Mapping[str, Sequence[Mapping[str, float]]], path: Path) -> None:
    """Draw time above memory, a column for each curve."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.6 * len(curves), 5.0), layout="constrained")
    axes = figure.subplots(2, len(curves), squeeze=False, sharex="col", sharey="row")
    for column, (name, found) in enumerate(curves.items()):
        x = np.array([point["number"] for point in found])
        for row, (what, unit, color) in enumerate((("seconds", 1.0, "#0072b2"), ("peak", 1e6, "#d55e00"))):
            panel = axes[row, column]
            slope, constant = exponent(found, what)
            panel.loglog(x, np.exp(constant) * x**slope / unit, "-", color=color, linewidth=1.0)
            panel.loglog(x, [point[what] / unit for point in found], "o", color=color, markersize=4)
            if what == "peak":
                panel.loglog(x, [point["bound"] / unit for point in found], "--", color="0.5", linewidth=1.0)
            panel.set_title(f"exponent {slope:.2f}", fontsize=9)
            panel.spines[["top", "right"]].set_visible(False)
            panel.minorticks_off()
            panel.margins(0.15, 0.1)
        axes[1, column].set_xlabel(name, fontsize=9)
        ticks = x if x[-1] < 1000 else x[[0, -1]]
        axes[1, column].set_xticks(ticks, [in_short(each) for each in ticks])
    axes[0, 0].set_ylabel("time of the fit, s")
    axes[1, 0].set_ylabel("peak memory, MB (dashed: bound)")
    figure.savefig(path, dpi=110)


def in_short(number: float) -> str:
    """Write a large number in thousands or millions."""
    size, unit = (1e6, " M") if number >= 1e6 else (1e3, " k") if number >= 1e3 else (1.0, "")
    return f"{number / size:.3g}{unit}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=CURVES, default=list(CURVES), metavar="CURVE")
    parser.add_argument("--accelerator", choices=["cpu", "gpu"], default="cpu")
    parser.add_argument("--output", type=Path, help="a picture of the curves, .png or .svg")
    options = parser.parse_args()
    start = time.perf_counter()
    print(f"{'':28}{'':>12}{'seconds':>10}{'peak, MB':>12}{'bound, MB':>12}{'ratio':>8}")
    curves = {curve: list(points(curve, options.accelerator)) for curve in options.only}
    print("\nexponents of time and memory:")
    for curve, found in curves.items():
        print(f"{curve:28}{exponent(found, 'seconds')[0]:8.2f}{exponent(found, 'peak')[0]:8.2f}")
    print(f"{time.perf_counter() - start:.0f} s")
    if options.output is not None:
        draw(curves, options.output)


if __name__ == "__main__":
    main()
