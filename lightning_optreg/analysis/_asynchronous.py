"""Simulated methods whose workers wait for nobody: Hogwild, Downpour, asynchronous elastic averaging."""

import heapq
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.optim import Optimizer

from lightning_optreg.analysis._job import Job, give, leaves, step_with
from lightning_optreg.analysis.parallel_methods import (
    ParallelMethod,
    SimulatedDownpour,
    SimulatedElasticAveraging,
    SimulatedHogwild,
)
from lightning_optreg.parallel import (
    Read,
    elastic_difference,
    late_step,
    note_read,
    pull_centre,
    pull_worker,
)

__all__ = ["run_asynchronous"]


def run_asynchronous(method: ParallelMethod, job: Job) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
    """Simulate a method; return the common parameters and those of worker 0."""
    if isinstance(method, SimulatedHogwild):
        return _hogwild(method, job)
    if isinstance(method, SimulatedDownpour):
        return _downpour(method, job)
    if isinstance(method, SimulatedElasticAveraging):
        return _elastic(method, job)
    raise TypeError(f"simulate: method must be asynchronous, got {method}")


class _Events:
    """What happens when; of events at the same time the one that was planned first comes first."""

    def __init__(self) -> None:
        self.now = 0.0
        self._planned: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0

    def at(self, time: float, happen: Callable[[], None]) -> None:
        """Plan an event."""
        heapq.heappush(self._planned, (time, self._count, happen))
        self._count += 1

    def run(self) -> None:
        """Let everything happen."""
        while self._planned:
            self.now, _, happen = heapq.heappop(self._planned)
            happen()


class _Gradients:
    """Gradients of steps that are under way.

    What a step computes is known when it begins. So as soon as one gradient is needed, those of all steps
    that are under way are computed with it.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        self._asked: dict[int, tuple[Sequence[Tensor], Tensor]] = {}
        self._found: dict[int, list[Tensor]] = {}

    def ask(self, worker: int, parameters: Sequence[Tensor], batch: Tensor) -> None:
        """Begin a step; the parameters must not change before its gradient is taken."""
        self._asked[worker] = (parameters, batch)

    def take(self, worker: int) -> list[Tensor]:
        """Return the gradient of a worker's step, once."""
        if worker not in self._found:
            chosen = list(self._asked) if self._job.vectorize else [worker]
            parameters, batches = zip(*(self._asked.pop(each) for each in chosen), strict=True)
            found = self._job.workload.gradients(parameters, batches)
            self._found.update(zip(chosen, found, strict=True))
        return self._found.pop(worker)


class _Worker:
    """A worker between its events."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.step = 0
        self.idle_since = 0.0
        """When its last step ended."""
        self.queued = 0.0
        """Seconds since then that its messages stood in the queue of a port."""
        self.last_arrival = 0.0
        """When its latest message to the servers arrives: those of one worker don't overtake each other."""


class _Run:
    """What all these methods share: events, the deal of the batches, the delays of the updates."""

    def __init__(self, job: Job) -> None:
        self.job, self.ledger = job, job.ledger
        self.events = _Events()
        self.updates = 0
        """Number of updates of the shared parameters."""
        self._gradients = _Gradients(job)
        self._dealt = 0

    def deal(self) -> Tensor | None:
        """Return the next batch, or None after the last."""
        if self._dealt == self.job.batches:
            return None
        self._dealt += 1
        return self.job.batch(self._dealt - 1)

    def compute(
        self,
        worker: _Worker,
        parameters: Sequence[Tensor],
        batch: Tensor,
        then: Callable[[list[Tensor]], None],
    ) -> None:
        """Let a worker compute a gradient at parameters that stay as they are until it has it."""
        number, now = worker.number, self.events.now
        self.ledger.sending[number] += now - worker.idle_since - worker.queued
        seconds = self.job.clocks.time(number, worker.step)
        self._gradients.ask(number, parameters, batch)

        def end() -> None:
            self.ledger.computing[number] += seconds
            self.ledger.steps[number] += 1
            worker.step += 1
            worker.idle_since, worker.queued = self.events.now, 0.0
            then(self._gradients.take(number))

        self.events.at(now + seconds, end)

    def count(self, delay: int, images: int, parameters: Sequence[Tensor]) -> None:
        """Note an update of the shared parameters, after it."""
        self.updates += 1
        self.ledger.delays[delay] += 1
        self.ledger.images += images
        self.ledger.measure_if_due(parameters, self.events.now)

    def finish(self) -> None:
        """Let everything happen that is planned, and what follows from it."""
        self.events.run()
        self.ledger.seconds = self.events.now


class _Servers:
    """The way to the servers and back: delays, and one port each way for each server."""

    def __init__(self, run: _Run) -> None:
        self._run, self._wires, self._delays = run, run.job.wires, run.job.delays
        self._free = {"in": 0.0, "out": 0.0}

    def send(self, worker: _Worker, size: int, then: Callable[[], None], *, waits: bool) -> None:
        """Send from a worker, which may wait for the answer, to the servers, each its share of the bytes."""
        events = self._run.events
        worker.last_arrival = max(worker.last_arrival, events.now + self._delays.message())
        self._run.ledger.bytes += size
        waiting = worker if waits else None
        events.at(worker.last_arrival, lambda: events.at(self._through("in", waiting, size), then))

    def reply(self, worker: _Worker, size: int, then: Callable[[], None]) -> None:
        """Send from the servers to a worker."""
        self._run.ledger.bytes += size
        done = self._through("out", worker, size)
        self._run.events.at(done + self._delays.message(), then)

    def _through(self, port: str, waiting: _Worker | None, size: int) -> float:
        """When a message that is at the ports now is through; the worker's own port has to pass all of it."""
        now = self._run.events.now
        begin = max(now, self._free[port])
        if waiting is not None:
            waiting.queued += begin - now
        self._free[port] = begin + size / self._wires.bandwidth / self._wires.shards
        return begin + size / self._wires.bandwidth


def _hogwild(method: SimulatedHogwild, job: Job) -> tuple[list[Tensor], list[Tensor]]:
    run, x = _Run(job), leaves(job.workload.start())
    own = 1 if method.state == "shared" else job.workers
    optimizers = [job.make_optimizer(x) for _ in range(own)]
    seen: dict[int, list[Tensor]] = {}  # the newest parameters that a worker has read, by their updates

    def begin(worker: _Worker) -> None:
        batch = run.deal()
        if batch is None:
            return
        optimizer = optimizers[worker.number % own]
        read = note_read(optimizer, run.updates)
        if run.updates not in seen:
            seen.clear()
            seen[run.updates] = [parameter.detach().clone() for parameter in x]

        def end(gradient: list[Tensor]) -> None:
            give(optimizer, gradient)
            late_step(optimizer, read, run.updates)
            run.count(run.updates - read.updates, job.batch_size, x)
            begin(worker)

        run.compute(worker, seen[run.updates], batch, end)

    for number in range(job.workers):
        begin(_Worker(number))
    run.finish()
    return x, x


def _downpour(method: SimulatedDownpour, job: Job) -> tuple[list[Tensor], list[Tensor]]:
    run, size = _Run(job), job.workload.bytes
    servers, x = _Servers(run), leaves(job.workload.start())
    optimizer = job.make_optimizer(x)
    first = start = job.workload.start()

    def begin(worker: _Worker, copy: list[Tensor], read: Read, held: list[Tensor], since: int) -> None:
        nonlocal first
        if worker.number == 0:
            first = copy
        batch = run.deal()
        if batch is None:
            return

        def end(gradient: list[Tensor]) -> None:
            total = list(torch._foreach_add(held, gradient)) if since else gradient
            pushes = worker.step % method.n_push == 0
            fetches = worker.step % method.n_fetch == 0

            def arrived() -> None:
                if pushes:
                    give(optimizer, total)
                    late_step(optimizer, read, run.updates)
                    run.count(run.updates - read.updates, (since + 1) * job.batch_size, x)
                if fetches:
                    fresh = [parameter.detach().clone() for parameter in x]
                    seen = note_read(optimizer, run.updates)
                    servers.reply(worker, size, lambda: go_on(fresh, seen))

            def go_on(parameters: list[Tensor], seen: Read) -> None:
                begin(worker, parameters, seen, total, 0 if pushes else since + 1)

            if pushes or fetches:
                servers.send(worker, size if pushes else 0, arrived, waits=fetches)
            if not fetches:
                go_on(copy, read)

        run.compute(worker, copy, batch, end)

    for number in range(job.workers):
        begin(_Worker(number), start, note_read(optimizer, 0), start, 0)
    run.finish()
    return x, first


def _elastic(method: SimulatedElasticAveraging, job: Job) -> tuple[list[Tensor], list[Tensor]]:
    run, size = _Run(job), job.workload.bytes
    servers, centre = _Servers(run), job.workload.start()
    alpha = method.beta / job.workers

    def begin(worker: _Worker, x: list[Tensor], optimizer: Optimizer) -> None:
        batch = run.deal()
        if batch is None:
            return

        def compute(difference: list[Tensor] | None) -> None:
            def end(gradient: list[Tensor]) -> None:
                step_with(optimizer, gradient)
                job.ledger.images += job.batch_size
                if difference is not None:
                    pull_worker(x, difference)
                begin(worker, x, optimizer)

            run.compute(worker, x, batch, end)

        def fetched(copy: list[Tensor], read: int) -> None:
            difference = elastic_difference(x, copy, alpha)

            def pushed() -> None:
                pull_centre(centre, difference)
                run.count(run.updates - read, 0, centre)

            servers.send(worker, size, pushed, waits=False)
            compute(difference)

        def asked() -> None:
            copy, read = [value.clone() for value in centre], run.updates
            servers.reply(worker, size, lambda: fetched(copy, read))

        if worker.step % method.period == 0:
            servers.send(worker, 0, asked, waits=True)
        else:
            compute(None)

    own = [leaves(job.workload.start()) for _ in range(job.workers)]
    for number, x in enumerate(own):
        begin(_Worker(number), x, job.make_optimizer(x))
    run.finish()
    return centre, own[0]
