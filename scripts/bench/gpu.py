"""Training throughput on a GPU: this project beside a bare loop with the dataset on the device.

    python scripts/bench/gpu.py                                      # LeNet-5, ResNet-18 and AirbenchNet
    python scripts/bench/gpu.py --only resnet18 --compile none default --rounds 7
    python scripts/bench/gpu.py --accelerator cpu --steps 3          # checks the script, not the speed

(a) this project: ImageClassifier and its datamodule under Lightning's Trainer, with the callbacks and the
    logger of this project's recipes, and crop + flip on each batch; images lie on the device in 8 bits
(b) the limit: a hand-written loop over float images that are normalised already and lie on the device, in an
    order that lies there too; no augmentation, nothing is recorded

Both in channels-last (LeNet-5, with few channels, in torch's default layout), with the same batch, optimizer
(SGD with momentum), precision and mode of torch.compile. They take turns for some rounds of as many
steps within an epoch; images are random. The clock waits for the device before the first and after the last
step only. Printed are the medians of the rounds, and the median of the rounds' ratios.
"""

import argparse
import logging
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from lightning.pytorch import Callback, Trainer
from throughput import callbacks_of_recipes, progress_bars_hidden
from torch import Tensor, nn

from lightning_optreg import ImageClassifier
from lightning_optreg.data import ImageDataModule, ImageSet, RandomCrop, RandomHorizontalFlip, Source
from lightning_optreg.layers import WhitenedConv2d
from lightning_optreg.loggers import RunCSVLogger
from lightning_optreg.nets import AirbenchNet, LeNet5, ResNet
from lightning_optreg.runs.memory import keep_freed_memory

MODES = ("none", "default", "reduce-overhead", "max-autotune")


class Problem(NamedTuple):
    """What is trained."""

    title: str
    shape: tuple[int, int, int]
    net: Callable[[], nn.Module]
    channels_last: bool


COLOUR = (3, 32, 32)
PROBLEMS = {
    "lenet5": Problem("LeNet-5, 28 x 28 x 1", (1, 28, 28), LeNet5, False),
    "resnet18": Problem(
        "ResNet-18, 32 x 32 x 3", COLOUR, lambda: ResNet(depth=18, form="imagenet", input_shape=COLOUR), True
    ),
    "airbench": Problem("AirbenchNet, 32 x 32 x 3", COLOUR, AirbenchNet, True),
}


class Run(NamedTuple):
    """How it is trained."""

    device: torch.device
    batch: int
    warm_up: int
    steps: int
    precision: str
    mode: str


class Noise(ImageDataModule):
    """Random images of ten classes, without validation unless it is asked for."""

    class_names = tuple("0123456789")

    def __init__(self, shape: tuple[int, int, int], count: int, **options: Any) -> None:
        self.image_shape = shape
        draw = torch.Generator().manual_seed(0)
        self.images = torch.randint(0, 256, (count, *shape), dtype=torch.uint8, generator=draw)
        super().__init__(**{"val_fraction": 0.0, **options})

    def locate(self, *, download: bool) -> Source:
        found = ImageSet(self.images, torch.arange(len(self.images)) % 10)
        return Source("noise", {"train": []}, lambda part: found)


class Stopwatch(Callback):
    """Times the steps after those that warm up, with all that lies between them."""

    def __init__(self, run: Run) -> None:
        self.run, self.seconds = run, 0.0

    def on_train_batch_end(self, trainer: Trainer, module: Any, out: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx + 1 == self.run.warm_up:
            self.start = now(self.run.device)
        if batch_idx + 1 == self.run.warm_up + self.run.steps:
            self.seconds = (now(self.run.device) - self.start) / self.run.steps


def now(device: torch.device) -> float:
    """The time when the device has done all that it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.001, momentum=0.9)


def made(problem: Problem) -> nn.Module:
    net = problem.net()
    for layer in net.modules():
        if isinstance(layer, WhitenedConv2d):
            layer.whiten([torch.rand(64, *problem.shape)])
    return net


def ours(problem: Problem, run: Run) -> Callable[[], float]:
    """(a), with a network that is compiled once."""
    data = Noise(
        problem.shape,
        (run.warm_up + run.steps) * run.batch,
        batch_size=run.batch,
        augment=[RandomCrop(padding=4), RandomHorizontalFlip()],
    )
    compile: Any = False if run.mode == "none" else run.mode
    model = ImageClassifier(
        made(problem), optimizer=sgd, channels_last=problem.channels_last, compile=compile
    )

    def seconds() -> float:
        watch = Stopwatch(run)
        with tempfile.TemporaryDirectory() as folder, progress_bars_hidden():
            Trainer(
                max_epochs=1,
                accelerator="gpu" if run.device.type == "cuda" else "cpu",
                devices=1,
                precision="32-true" if run.precision == "float32" else "bf16-mixed",
                enable_model_summary=False,
                logger=RunCSVLogger(folder),
                callbacks=callbacks_of_recipes(folder, watch),
                default_root_dir=folder,
            ).fit(model, datamodule=data)
        return watch.seconds

    return seconds


def bare(problem: Problem, run: Run) -> Callable[[], float]:
    """(b), with a network that is compiled once."""
    count = (run.warm_up + run.steps) * run.batch
    images = torch.randn(count, *problem.shape, device=run.device)
    labels = torch.arange(count, device=run.device) % 10
    net = made(problem).to(run.device).train()
    if problem.channels_last:
        net, images = net.to(memory_format=torch.channels_last), images.to(memory_format=torch.channels_last)
    if run.mode != "none":
        net.compile(mode=None if run.mode == "default" else run.mode)
    optimizer = sgd(net.parameters())
    half = run.precision == "bfloat16"

    def step(index: Tensor) -> None:
        with torch.autocast(run.device.type, torch.bfloat16, enabled=half):
            loss = nn.functional.cross_entropy(net(images.index_select(0, index)), labels[index])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def seconds() -> float:
        indices = torch.randperm(count, device=run.device).split(run.batch)
        for index in indices[: run.warm_up]:
            step(index)
        start = now(run.device)
        for index in indices[run.warm_up :]:
            step(index)
        return (now(run.device) - start) / run.steps

    return seconds


def measure(problem: Problem, run: Run, rounds: int) -> None:
    """Print a row of the table."""
    pairs = []
    sides = ours(problem, run), bare(problem, run)
    for index in range(rounds):
        order = (0, 1) if index % 2 == 0 else (1, 0)
        times = {side: sides[side]() for side in order}
        pairs.append((times[0], times[1]))
    here, limit = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratio = statistics.median(b / a for a, b in pairs)
    print(
        f"{problem.title:26}{run.precision:>10}{run.mode:>17}{1e3 * here:10.2f}{run.batch / here:12,.0f}"
        f"{1e3 * limit:10.2f}{run.batch / limit:12,.0f}{ratio:9.2f}",
        flush=True,
    )
    if run.mode != "none":
        torch.compiler.reset()  # the next network is another


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--accelerator", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--only", nargs="+", choices=PROBLEMS, default=list(PROBLEMS))
    parser.add_argument("--precision", nargs="+", choices=["float32", "bfloat16"])
    parser.add_argument(
        "--compile", nargs="+", choices=MODES, help="default: none and default; none on a CPU"
    )
    parser.add_argument("--batch", type=int, help="default: 512; 2 on a CPU")
    parser.add_argument("--steps", type=int, default=100, help="timed steps of a round")
    parser.add_argument("--warm_up", type=int, help="steps before them; default: 20; 1 on a CPU")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    on_gpu = args.accelerator == "cuda"
    if on_gpu and not torch.cuda.is_available():
        sys.exit("gpu.py: needs a CUDA device, and torch finds none (--accelerator cpu checks the script)")
    keep_freed_memory()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    device = torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")
    batch, warm_up = args.batch or (512 if on_gpu else 2), args.warm_up or (20 if on_gpu else 1)
    where = torch.cuda.get_device_name() if on_gpu else f"{torch.get_num_threads()} threads"
    print(
        f"{where}, torch {torch.__version__}, batch {batch}, "
        f"medians of {args.rounds} rounds of {args.steps} steps"
    )
    columns = f"{'ms a step':>10}{'images/s':>12}"
    print(f"{'':53}{'this project':>22}{'bare loop':>22}{'speed':>9}")
    print(f"{'':26}{'precision':>10}{'compile':>17}{columns}{columns}{'/ bare':>9}")
    for name in args.only:
        for precision in args.precision or ["float32", "bfloat16"]:
            for mode in args.compile or (["none", "default"] if on_gpu else ["none"]):
                run = Run(device, batch, warm_up, args.steps, precision, mode)
                measure(PROBLEMS[name], run, args.rounds)


if __name__ == "__main__":
    main()
