"""Parallel SGD on machines that are not there: many workers, simulated one event after the other.

The updates are computed for real, with the rules of `lightning_optreg.parallel`; only time and traffic are
simulated. So one process shows what 2 to 1,000 workers reach, against seconds and against bytes.
"""

from dataclasses import dataclass

from torch import Tensor

from lightning_optreg._checks import check_range
from lightning_optreg.analysis._asynchronous import run_asynchronous
from lightning_optreg.analysis._job import Job, Ledger, Moment
from lightning_optreg.analysis._synchronous import run_synchronous
from lightning_optreg.analysis.parallel_methods import (
    MakeOptimizer,
    ParallelMethod,
    SimulatedDDP,
    SimulatedDownpour,
    SimulatedElasticAveraging,
    SimulatedHogwild,
)
from lightning_optreg.analysis.speeds import Clocks, Interconnect, Latencies, StepTimes
from lightning_optreg.analysis.workload import Workload

__all__ = ["Moment", "ScalingRun", "simulate"]


@dataclass(frozen=True)
class ScalingRun:
    """What a simulation gave.

    Attributes:
        workers: Number of workers.
        seconds: Simulated duration, until the last worker was done.
        moments: Loss and accuracy along the way, the start first and the end last.
        steps: Steps of each worker.
        computing: Seconds that each worker computed.
        sending: Seconds that messages took which the worker had to wait for, without queues before a port.
        delays: How many updates of a server or of shared memory had which delay: the number of updates since
            the worker read the parameters. Empty for synchronous methods.
        parameters: What was measured last: the common parameters, or the centre.
        first_worker: Parameters of worker 0 at the end.
    """

    workers: int
    seconds: float
    moments: list[Moment]
    steps: list[int]
    computing: list[float]
    sending: list[float]
    delays: dict[int, int]
    parameters: list[Tensor]
    first_worker: list[Tensor]

    @property
    def waiting_share(self) -> float:
        """Share of all workers' time that they neither computed nor sent, but waited for others."""
        whole = self.seconds * self.workers
        return max(0.0, 1.0 - (sum(self.computing) + sum(self.sending)) / whole) if whole else 0.0

    @property
    def sending_share(self) -> float:
        """Share of all workers' time that messages took."""
        whole = self.seconds * self.workers
        return sum(self.sending) / whole if whole else 0.0

    @property
    def mean_delay(self) -> float:
        """Mean delay of the updates; 0 if there was none."""
        count = sum(self.delays.values())
        return sum(delay * times for delay, times in self.delays.items()) / count if count else 0.0

    def first_time(self, accuracy: float) -> float | None:
        """Return the time of the first moment with at least this accuracy, in seconds, or None.

        Args:
            accuracy: From 0 to 1.
        """
        return next((moment.seconds for moment in self.moments if moment.accuracy >= accuracy), None)


def simulate(
    method: ParallelMethod,
    workload: Workload,
    make_optimizer: MakeOptimizer,
    *,
    workers: int,
    images: int,
    batch_size: int = 32,
    step_times: StepTimes | None = None,
    wires: Interconnect | None = None,
    seed: int = 0,
    measurements: int = 40,
    vectorize: bool | None = None,
) -> ScalingRun:
    """Train with many workers in one process, and count the seconds and bytes that they would need.

    Workers take the batches of the workload in the order in which they begin their steps; where all march
    together, step k of worker i of N has batch k N + i. So every method sees the same images, each once in
    an epoch. One seed, one result. Computing the updates of a server, measuring, and memory that is too slow
    for all workers cost nothing here.

    Args:
        method: Method and its settings.
        workload: What is trained.
        make_optimizer: Makes the optimizer of a list of tensors: of each worker, or under `SimulatedDDP` and
            `SimulatedDownpour` the one that applies the gradients.
        workers: Number N of workers, at least 1.
        images: Number of examples to train on, over all workers; at least a batch for each worker, and
            rounded down to whole batches, where all march together to a whole one for each.
        batch_size: Examples in a batch of one worker, at least 1. Default: 32.
        step_times: How long steps take. None: `StepTimes()`.
        wires: The network. None: `Interconnect()`.
        seed: Seed of times and batches, at least 0. Default: 0.
        measurements: How many times loss and accuracy are measured after the start, at least 1. Default: 40.
        vectorize: Whether to compute many workers' gradients, and for optimizers of torch that treat
            every element by itself also their steps, at once; that differs from one after the other by
            rounding, which is what False does. None: where it is faster: from 4 workers
            on, under `SimulatedDDP` from 2.

    Returns:
        Accuracy over time and traffic, and what the workers did meanwhile.

    Raises:
        ValueError: If a number is out of range.

    Example:
        >>> import torch
        >>> from lightning_optreg.analysis import SimulatedDDP, sparse_logistic_regression
        >>> task = sparse_logistic_regression(400, 50, 5)
        >>> run = simulate(
        ...     SimulatedDDP(), task, lambda params: torch.optim.SGD(params, lr=1.0),
        ...     workers=4, images=400, batch_size=10, step_times=StepTimes(0.5),
        ...     wires=Interconnect(latency=0.0, bandwidth=1000.0), measurements=1,
        ... )
        >>> run.steps, round(run.seconds, 9)  # 2 x 3/4 x 200 bytes: 0.3 s a step
        ([10, 10, 10, 10], 8.0)
        >>> run.moments[-1].bytes
        12000
    """
    check_range("simulate", ">= 1", workers=workers, batch_size=batch_size, measurements=measurements)
    check_range("simulate", ">= 0", seed=seed)
    check_range("simulate", f"[1, {workload.examples}]", batch_size=batch_size)
    if not images >= workers * batch_size:
        raise ValueError(
            f"simulate: images must be at least a batch for each worker, {workers * batch_size}, got {images}"
        )
    many = 2 if isinstance(method, SimulatedDDP) else 4  # from where it is faster
    wires = Interconnect() if wires is None else wires
    job = Job(
        workload=workload,
        make_optimizer=make_optimizer,
        workers=workers,
        batches=images // batch_size,
        batch_size=batch_size,
        clocks=Clocks(StepTimes() if step_times is None else step_times, workers, seed),
        wires=wires,
        latencies=Latencies(wires, seed),
        seed=seed,
        vectorize=workers >= many if vectorize is None else vectorize,
        ledger=Ledger(workload, workers, images, measurements),
    )
    asynchronous = isinstance(method, SimulatedHogwild | SimulatedDownpour) or (
        isinstance(method, SimulatedElasticAveraging) and method.asynchronous
    )
    parameters, own = run_asynchronous(method, job) if asynchronous else run_synchronous(method, job)
    ledger = job.ledger
    ledger.measure(parameters, ledger.seconds, ledger.images)
    return ScalingRun(
        workers=workers,
        seconds=ledger.seconds,
        moments=ledger.moments,
        steps=ledger.steps,
        computing=ledger.computing,
        sending=ledger.sending,
        delays={row[0]: row[1] for row in ledger.delays.counts()},
        parameters=[parameter.detach().clone() for parameter in parameters],
        first_worker=[parameter.detach().clone() for parameter in own],
    )
