"""What the measurements of callbacks share: steps on one batch, a clock, and runs that take turns."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.optim import Optimizer

HEADER = f"{'':26}{'without, ms':>12}{'with, ms':>12}{'ratio':>8}{'spread of ratios':>20}"


class Steps(LightningModule):
    """A network on the same batch again and again."""

    def __init__(self, net: nn.Module, optimizer: Callable[..., Optimizer]) -> None:
        super().__init__()
        self.net, self.optimizer = net, optimizer

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        return self.optimizer(self.parameters(), lr=1e-4)


class Clock(Callback):
    """When each step ended."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        if trainer.strategy.root_device.type == "cuda" and len(self.times) in (1, trainer.max_steps - 1):
            torch.cuda.synchronize()  # the two that are read: the steps between run on as they do elsewhere
        self.times.append(time.perf_counter())

    def seconds(self) -> float:
        """Mean seconds of a step, from the end of the second to that of the last."""
        return (self.times[-1] - self.times[1]) / (len(self.times) - 2)


def seconds_of_a_step(module: LightningModule, loader: Any, callback: Callback, **options: Any) -> float:
    """Fit `max_steps` steps with a callback and a clock; `options` are those of Lightning's `Trainer`."""
    clock = Clock()
    trainer = Trainer(
        **{
            "devices": 1,
            "callbacks": [callback, clock],
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            **options,
        }
    )
    trainer.fit(module, loader)
    return clock.seconds()


def device_name(accelerator: str) -> str:
    """What is measured on: threads of a CPU, or a GPU."""
    return torch.cuda.get_device_name() if accelerator == "gpu" else f"{torch.get_num_threads()} threads"


def take_turns(
    fit: Callable[[Callable[[], Callback]], float], make: Callable[[], Callback], rounds: int, digits: int
) -> str:
    """Fit with and without a callback, in turns; give a row of the table, with ratios of neighbours."""
    pairs = []
    for index in range(rounds + 1):
        makes: list[Callable[[], Callback]] = [Callback, make]
        order = makes if index % 2 == 0 else makes[::-1]
        times = [fit(each) for each in order]
        pairs.append(times if index % 2 == 0 else times[::-1])
    pairs = pairs[1:]  # the first warms up
    ratios = sorted(with_it / without for without, with_it in pairs)
    medians = [1e3 * statistics.median(column) for column in zip(*pairs, strict=True)]
    quartiles = ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]
    return (
        f"{medians[0]:12.{digits}f}{medians[1]:12.{digits}f}{statistics.median(ratios):8.3f}"
        f"{quartiles[0]:12.3f} - {quartiles[1]:.3f}"
    )
