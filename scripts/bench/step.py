"""Where the time of a training step goes beside the arithmetic: a bare loop, and what is added to it.

    python scripts/bench/step.py                     # on a CPU, or on a GPU if there is one
    python scripts/bench/step.py --steps 500 --rounds 9

The network is so small (a linear layer on 28 x 28 pixels, batches of 8) that nearly all of a step is Python
and the launch of operations, the same for any network. Each row adds one thing to the row before; the rows
take turns. Printed are medians of the rounds, and the medians of the differences to the row before.
"""

import argparse
import logging
import statistics
import tempfile
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import torch
from gpu import Noise, Run, Stopwatch, now, sgd
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, TQDMProgressBar
from paired import device_name
from throughput import progress_bars_hidden
from torch import Tensor, nn

from lightning_optreg import ImageClassifier
from lightning_optreg.callbacks import Curves, ExactResume, Throughput
from lightning_optreg.data import RandomCrop, RandomHorizontalFlip
from lightning_optreg.loggers import RunCSVLogger
from lightning_optreg.runs.memory import keep_freed_memory

SHAPE = (1, 28, 28)


def net() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(28 * 28, 10))


class Plain(LightningModule):
    """The least that Lightning needs."""

    def __init__(self) -> None:
        super().__init__()
        self.net = net()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return sgd(self.parameters())


class Ready(Iterable[Any]):
    """The same batch on the device, as often as there are steps."""

    def __init__(self, run: Run) -> None:
        self.batch = batch_of(run)
        self.length = run.warm_up + run.steps

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Any:
        return (self.batch for _ in range(self.length))


def batch_of(run: Run) -> tuple[Tensor, Tensor]:
    return (
        torch.randn(run.batch, *SHAPE, device=run.device),
        torch.arange(run.batch, device=run.device) % 10,
    )


def bare(run: Run) -> float:
    model, (x, y) = net().to(run.device), batch_of(run)
    optimizer = sgd(model.parameters())
    start = 0.0
    for step in range(run.warm_up + run.steps):
        if step == run.warm_up:
            start = now(run.device)
        loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return (now(run.device) - start) / run.steps


def fit(run: Run, module: LightningModule, data: Any, callbacks: list[Callback], **options: Any) -> float:
    """Seconds of a step with Lightning's `Trainer`."""
    watch = Stopwatch(run)
    with tempfile.TemporaryDirectory() as folder, progress_bars_hidden():
        if options.pop("records", False):
            callbacks = [ExactResume(), Curves(), Throughput(), *callbacks]
            options["logger"] = RunCSVLogger(folder)
        if options.pop("rest", False):
            callbacks = [
                *callbacks,
                ModelCheckpoint(folder, save_last=True),
                TQDMProgressBar(refresh_rate=10),
            ]
            options["enable_progress_bar"] = True
        Trainer(
            **{
                "max_epochs": 1,
                "accelerator": "gpu" if run.device.type == "cuda" else "cpu",
                "devices": 1,
                "logger": False,
                "enable_checkpointing": False,
                "enable_progress_bar": False,
                "enable_model_summary": False,
                "default_root_dir": folder,
                "callbacks": [*callbacks, watch],
                **options,
            }
        ).fit(module, data)
    return watch.seconds


def rows(run: Run) -> dict[str, Callable[[], float]]:
    """What is measured, each with one thing more."""

    def ours() -> ImageClassifier:
        return ImageClassifier(net(), optimizer=sgd)

    def images(*augment: Any) -> Noise:
        count = (run.warm_up + run.steps) * run.batch
        return Noise(SHAPE, count, batch_size=run.batch, augment=list(augment))

    def augmented() -> Noise:
        return images(RandomCrop(padding=2), RandomHorizontalFlip())

    return {
        "bare loop": lambda: bare(run),
        "+ Lightning's Trainer": lambda: fit(run, Plain(), Ready(run), []),
        "+ ImageClassifier": lambda: fit(run, ours(), Ready(run), []),
        "+ a data module": lambda: fit(run, ours(), images(), []),
        "+ crop and flip": lambda: fit(run, ours(), augmented(), []),
        "+ ExactResume, Curves, Throughput, a logger": lambda: fit(
            run, ours(), augmented(), [], records=True
        ),
        "+ Lightning's ModelCheckpoint, progress bar": lambda: fit(
            run, ours(), augmented(), [], records=True, rest=True, enable_checkpointing=True
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--accelerator", choices=["cuda", "cpu"])
    parser.add_argument("--steps", type=int, default=300, help="timed steps of a round")
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    on_gpu = (args.accelerator or ("cuda" if torch.cuda.is_available() else "cpu")) == "cuda"
    device = torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")
    run = Run(device, 8, 20, args.steps, "float32", "none")
    keep_freed_memory()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    seconds: dict[str, list[float]] = {name: [] for name in rows(run)}
    for _ in range(args.rounds):
        for name, measure in rows(run).items():
            seconds[name].append(1e3 * measure())
    where = device_name("gpu" if on_gpu else "cpu")
    print(f"{where}, medians of {args.rounds} rounds of {args.steps} steps")
    print(f"{'':46}{'ms a step':>10}{'added':>8}")
    before = [0.0] * args.rounds
    for name, times in seconds.items():
        added = statistics.median(b - a for a, b in zip(before, times, strict=True))
        print(f"{name:46}{statistics.median(times):10.2f}{added:8.2f}")
        before = times


if __name__ == "__main__":
    main()
