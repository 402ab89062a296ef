"""Simulated methods whose workers meet: synchronous SGD, elastic averaging, local SGD."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_optreg.analysis._job import Job, leaves, step_with
from lightning_optreg.analysis.parallel_methods import (
    ParallelMethod,
    SimulatedElasticAveraging,
    SimulatedLocalSGD,
)
from lightning_optreg.analysis.speeds import all_reduce_bytes
from lightning_optreg.parallel import elastic_difference, move_centre, outer_step, pull_worker

__all__ = ["run_synchronous"]

# Optimizers that treat every element by itself: one of them steps stacked tensors as many would their own.
_ELEMENTWISE = (
    *(torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.Adagrad, torch.optim.RMSprop),
    *(torch.optim.NAdam, torch.optim.RAdam, torch.optim.Adamax, torch.optim.Adadelta, torch.optim.Rprop),
)


def run_synchronous(method: ParallelMethod, job: Job) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
    """Simulate a method; return the common parameters and those of worker 0."""
    if isinstance(method, SimulatedElasticAveraging):
        return _elastic(method, job)
    if isinstance(method, SimulatedLocalSGD):
        return _local(method, job)
    return _data_parallel(job)


class _Stacked:
    """Workers as one: parameters (N, ...), and one optimizer for all."""

    def __init__(self, job: Job, start: Sequence[Tensor]) -> None:
        self._job = job
        self._x = leaves([value.expand(job.workers, *value.shape).clone() for value in start])
        self._optimizer = job.make_optimizer(self._x)

    def step(self, batches: list[Tensor]) -> None:
        step_with(self._optimizer, self._job.workload.stacked_gradients(self._x, torch.stack(batches)))

    def first(self) -> list[Tensor]:
        return [x[0] for x in self._x]

    def mean(self) -> list[Tensor]:
        return [x.detach().mean(dim=0) for x in self._x]

    def differences(self, centre: Sequence[Tensor], alpha: float) -> list[list[Tensor]]:
        return [elastic_difference(self._x, centre, alpha)]

    def pull(self, differences: list[list[Tensor]]) -> None:
        pull_worker(self._x, differences[0])

    @torch.no_grad()
    def start_again(self, common: Sequence[Tensor]) -> None:
        for x, value in zip(self._x, common, strict=True):
            x.copy_(value)


class _Separate:
    """Workers one after the other, each with parameters and an optimizer of its own."""

    def __init__(self, job: Job, start: Sequence[Tensor]) -> None:
        self._job = job
        self._x = [leaves([value.clone() for value in start]) for _ in range(job.workers)]
        self._optimizers = [job.make_optimizer(x) for x in self._x]

    def step(self, batches: list[Tensor]) -> None:
        for x, optimizer, batch in zip(self._x, self._optimizers, batches, strict=True):
            step_with(optimizer, self._job.workload.gradient(x, batch))

    def first(self) -> list[Tensor]:
        return self._x[0]

    def mean(self) -> list[Tensor]:
        return [torch.stack(values).detach().mean(dim=0) for values in zip(*self._x, strict=True)]

    def differences(self, centre: Sequence[Tensor], alpha: float) -> list[list[Tensor]]:
        return [elastic_difference(x, centre, alpha) for x in self._x]

    def pull(self, differences: list[list[Tensor]]) -> None:
        for x, difference in zip(self._x, differences, strict=True):
            pull_worker(x, difference)

    @torch.no_grad()
    def start_again(self, common: Sequence[Tensor]) -> None:
        for x in self._x:
            for parameter, value in zip(x, common, strict=True):
                parameter.copy_(value)


def _workers(job: Job, start: Sequence[Tensor]) -> _Stacked | _Separate:
    elementwise = type(job.make_optimizer(leaves([value.clone() for value in start]))) in _ELEMENTWISE
    return _Stacked(job, start) if job.vectorize and elementwise else _Separate(job, start)


class _March:
    """The workers' clocks: each runs by itself until all meet."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._own = torch.zeros(job.workers, dtype=torch.float64)
        self._computing = torch.zeros(job.workers, dtype=torch.float64)
        self._sending = torch.zeros(job.workers, dtype=torch.float64)

    def compute(self, step: int) -> None:
        """Let every worker make a step."""
        job, times = self._job, self._job.clocks.row(step)
        self._own = self._own + times
        self._computing += times
        job.ledger.images += job.workers * job.batch_size

    def meet(self, step: int | None = None) -> None:
        """Sum tensors of the parameters' size over the workers, once the last of them is here.

        Args:
            step: A step that the workers make meanwhile; None: they wait.
        """
        job, size = self._job, self._job.workload.bytes
        sending = job.latencies.all_reduce(size, job.workers)
        done = self._own.max() + sending
        if step is not None:
            self.compute(step)
        blocked = (done - self._own).clamp(min=0.0)
        self._sending += blocked.clamp(max=sending)
        self._own = self._own + blocked
        job.ledger.bytes += all_reduce_bytes(size, job.workers)

    def end(self, steps: int) -> None:
        """Let all wait for the last, and close the books."""
        ledger = self._job.ledger
        ledger.seconds = self.now
        ledger.computing = self._computing.tolist()
        ledger.sending = self._sending.tolist()
        ledger.steps = [steps] * self._job.workers

    @property
    def now(self) -> float:
        """When the last of the workers is where it is."""
        return self._own.max().item()


def _steps(job: Job) -> int:
    return job.batches // job.workers


def _batches(job: Job, step: int) -> list[Tensor]:
    first = step * job.workers
    return [job.batch(first + worker) for worker in range(job.workers)]


def _data_parallel(job: Job) -> tuple[list[Tensor], list[Tensor]]:
    x = leaves(job.workload.start())
    optimizer, march = job.make_optimizer(x), _March(job)
    for step in range(_steps(job)):
        batches = _batches(job, step)
        if job.vectorize:  # the mean of equal batches' gradients is the gradient of the whole
            mean = job.workload.gradient(x, torch.cat(batches))
        else:
            found = [job.workload.gradient(x, batch) for batch in batches]
            mean = [torch.stack(values).mean(dim=0) for values in zip(*found, strict=True)]
        step_with(optimizer, mean)
        march.compute(step)
        march.meet()
        job.ledger.measure_if_due(x, march.now)
    march.end(_steps(job))
    return x, x


def _elastic(method: SimulatedElasticAveraging, job: Job) -> tuple[list[Tensor], list[Tensor]]:
    centre = job.workload.start()
    workers, march = _workers(job, centre), _March(job)
    alpha = method.beta / job.workers
    for step in range(_steps(job)):
        batches = _batches(job, step)
        if step % method.period:
            workers.step(batches)
            march.compute(step)
            continue
        # Both sides of a spring use the values from before the step.
        differences, mean = workers.differences(centre, alpha), workers.mean()
        workers.step(batches)
        workers.pull(differences)
        move_centre(centre, mean, method.beta)
        seen = job.ledger.images
        march.meet(step)
        job.ledger.measure_if_due(centre, march.now, seen)
    march.end(_steps(job))
    return centre, workers.first()


def _local(method: SimulatedLocalSGD, job: Job) -> tuple[list[Tensor], list[Tensor]]:
    common = leaves(job.workload.start())
    outer = None if method.make_outer is None else method.make_outer(common)
    workers, march, steps = _workers(job, common), _March(job), _steps(job)
    for step in range(steps):
        workers.step(_batches(job, step))
        march.compute(step)
        if (step + 1) % method.period == 0:
            outer_step(common, workers.mean(), outer)
            workers.start_again(common)
            march.meet()
            job.ledger.measure_if_due(common, march.now)
    if outer is None and steps % method.period:
        outer_step(common, workers.mean())
        march.meet()
    march.end(steps)
    return common, workers.first()
