"""What a simulation is given, and the books that it keeps."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_optreg.analysis.parallel_methods import MakeOptimizer
from lightning_optreg.analysis.speeds import Clocks, Interconnect, Latencies
from lightning_optreg.analysis.workload import Workload
from lightning_optreg.parallel import Delays

__all__ = ["Job", "Ledger", "Moment", "leaves", "step_with"]


@dataclass(frozen=True)
class Moment:
    """A measurement in a simulation.

    Attributes:
        seconds: Simulated time.
        bytes: What all machines together have sent.
        images: Training examples that the measured parameters have seen, over all workers.
        loss: Mean loss on the data for evaluation.
        accuracy: Accuracy on them, from 0 to 1.
    """

    seconds: float
    bytes: int
    images: int
    loss: float
    accuracy: float


class Ledger:
    """Counts seconds, bytes, images, steps and delays, and measures at even distances in images."""

    def __init__(self, workload: Workload, workers: int, images: int, measurements: int) -> None:
        self._workload = workload
        self._interval = images / measurements
        self._due = 0.0
        self.seconds = 0.0
        """When the last event was."""
        self.bytes = 0
        self.images = 0
        self.moments: list[Moment] = []
        self.steps = [0] * workers
        self.computing = [0.0] * workers
        self.sending = [0.0] * workers
        self.delays = Delays()
        self.measure_if_due(workload.start(), 0.0)

    def measure_if_due(self, parameters: Sequence[Tensor], seconds: float, images: int | None = None) -> None:
        """Measure if enough images have been seen since the last time.

        Args:
            parameters: What is measured.
            seconds: When.
            images: How many images they have seen. None: all so far.
        """
        images = self.images if images is None else images
        if images >= self._due:
            self.measure(parameters, seconds, images)
            self._due += self._interval * (int((images - self._due) / self._interval) + 1)

    def measure(self, parameters: Sequence[Tensor], seconds: float, images: int) -> None:
        """Measure now, in place of a measurement at the same number of images."""
        if self.moments and self.moments[-1].images == images and images:
            del self.moments[-1]
        loss, accuracy = self._workload.evaluate(parameters)
        self.moments.append(Moment(seconds, self.bytes, images, loss, accuracy))


@dataclass(frozen=True)
class Job:
    """A simulation's input, see `simulate`; `batches` is the number of all workers' batches together."""

    workload: Workload
    make_optimizer: MakeOptimizer
    workers: int
    batches: int
    batch_size: int
    clocks: Clocks
    wires: Interconnect
    latencies: Latencies
    seed: int
    vectorize: bool
    ledger: Ledger

    def batch(self, number: int) -> Tensor:
        """Return the examples of a batch."""
        return self.workload.batch(number, self.batch_size, self.seed)


def leaves(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Make tensors that an optimizer takes, with the same memory."""
    return [tensor.detach().requires_grad_() for tensor in tensors]


def step_with(optimizer: torch.optim.Optimizer, gradients: Sequence[Tensor]) -> None:
    """Make a step with gradients of its parameters."""
    give(optimizer, gradients)
    optimizer.step()


def give(optimizer: torch.optim.Optimizer, gradients: Sequence[Tensor]) -> None:
    """Put gradients where the optimizer looks for them."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
