"""Simulated workers that wait for nobody: what happens when, and on which way messages travel."""

import heapq
from collections.abc import Callable, Sequence

from torch import Tensor

from lightning_optreg.analysis._job import Job

__all__ = ["Copies", "Run", "Servers", "Worker"]


class Events:
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


class Gradients:
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


class Worker:
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


class Run:
    """What all these methods share: events, the deal of the batches, the delays of the updates."""

    def __init__(self, job: Job) -> None:
        self.job, self.ledger = job, job.ledger
        self.events = Events()
        self._gradients = Gradients(job)
        self._dealt = 0

    def deal(self) -> Tensor | None:
        """Return the next batch, or None after the last."""
        if self._dealt == self.job.batches:
            return None
        self._dealt += 1
        return self.job.batch(self._dealt - 1)

    def compute(
        self,
        worker: Worker,
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
        self.ledger.delays.add(delay)
        self.ledger.images += images
        self.ledger.measure_if_due(parameters, self.events.now)

    def finish(self) -> None:
        """Let everything happen that is planned, and what comes of it."""
        self.events.run()
        self.ledger.seconds = self.events.now


class Copies:
    """Copies of parameters that others change, one for all who read them between two updates."""

    def __init__(self) -> None:
        self._updates = -1
        self._copy: list[Tensor] = []

    def of(self, parameters: Sequence[Tensor], updates: int) -> list[Tensor]:
        """Return a copy of the parameters after so many updates."""
        if updates != self._updates:
            self._updates, self._copy = updates, [parameter.detach().clone() for parameter in parameters]
        return self._copy


class Servers:
    """The way to the servers and back: delays, and one port each way for each server."""

    def __init__(self, run: Run) -> None:
        self._run, self._wires, self._latencies = run, run.job.wires, run.job.latencies
        self._free = {"in": 0.0, "out": 0.0}

    def send(self, worker: Worker, size: int, then: Callable[[], None], *, waits: bool) -> None:
        """Send from a worker, which may wait for the answer, to the servers, each its share of the bytes."""
        events = self._run.events
        worker.last_arrival = max(worker.last_arrival, events.now + self._latencies.message())
        self._run.ledger.bytes += size
        waiting = worker if waits else None
        events.at(worker.last_arrival, lambda: events.at(self._through("in", waiting, size), then))

    def reply(self, worker: Worker, size: int, then: Callable[[], None]) -> None:
        """Send from the servers to a worker."""
        self._run.ledger.bytes += size
        done = self._through("out", worker, size)
        self._run.events.at(done + self._latencies.message(), then)

    def _through(self, port: str, waiting: Worker | None, size: int) -> float:
        """When a message that is at the ports now is through; the worker's own port has to pass all of it."""
        now = self._run.events.now
        begin = max(now, self._free[port])
        if waiting is not None:
            waiting.queued += begin - now
        self._free[port] = begin + size / self._wires.bandwidth / self._wires.shards
        return begin + size / self._wires.bandwidth
