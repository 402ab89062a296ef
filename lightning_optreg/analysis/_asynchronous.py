"""Simulated methods whose workers wait for nobody: Hogwild, Downpour, asynchronous elastic averaging."""

import heapq
from collections.abc import Callable, Sequence

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
    DownpourServer,
    DownpourWorker,
    ElasticServer,
    late_step,
    note_read,
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
        self.ledger.delays.add(delay)
        self.ledger.images += images
        self.ledger.measure_if_due(parameters, self.events.now)

    def finish(self) -> None:
        """Let everything happen that is planned, and what comes of it."""
        self.events.run()
        self.ledger.seconds = self.events.now


class _Copies:
    """Copies of parameters that others change, one for all who read them between two updates."""

    def __init__(self) -> None:
        self._updates = -1
        self._copy: list[Tensor] = []

    def of(self, parameters: Sequence[Tensor], updates: int) -> list[Tensor]:
        """Return a copy of the parameters after so many updates."""
        if updates != self._updates:
            self._updates, self._copy = updates, [parameter.detach().clone() for parameter in parameters]
        return self._copy


class _Servers:
    """The way to the servers and back: delays, and one port each way for each server."""

    def __init__(self, run: _Run) -> None:
        self._run, self._wires, self._latencies = run, run.job.wires, run.job.latencies
        self._free = {"in": 0.0, "out": 0.0}

    def send(self, worker: _Worker, size: int, then: Callable[[], None], *, waits: bool) -> None:
        """Send from a worker, which may wait for the answer, to the servers, each its share of the bytes."""
        events = self._run.events
        worker.last_arrival = max(worker.last_arrival, events.now + self._latencies.message())
        self._run.ledger.bytes += size
        waiting = worker if waits else None
        events.at(worker.last_arrival, lambda: events.at(self._through("in", waiting, size), then))

    def reply(self, worker: _Worker, size: int, then: Callable[[], None]) -> None:
        """Send from the servers to a worker."""
        self._run.ledger.bytes += size
        done = self._through("out", worker, size)
        self._run.events.at(done + self._latencies.message(), then)

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
    copies, updates = _Copies(), 0

    def begin(worker: _Worker) -> None:
        batch = run.deal()
        if batch is None:
            return
        optimizer = optimizers[worker.number % own]
        read = note_read(optimizer, updates)

        def end(gradient: list[Tensor]) -> None:
            nonlocal updates
            give(optimizer, gradient)
            late_step(optimizer, read, updates)
            run.count(updates - read.updates, job.batch_size, x)
            updates += 1
            begin(worker)

        run.compute(worker, copies.of(x, updates), batch, end)

    for number in range(job.workers):
        begin(_Worker(number))
    run.finish()
    return x, x


def _downpour(method: SimulatedDownpour, job: Job) -> tuple[list[Tensor], list[Tensor]]:
    run, size, x = _Run(job), job.workload.bytes, leaves(job.workload.start())
    servers, server = _Servers(run), DownpourServer(job.make_optimizer(x))
    rates = [group["lr"] for group in server.optimizer.param_groups for _ in group["params"]]
    copies = _Copies()
    own: list[DownpourWorker] = []

    def fetch(worker: _Worker) -> list[Tensor]:
        copy = copies.of(server.fetch(worker.number), server.updates)
        return copy if method.n_fetch == 1 else [value.clone() for value in copy]  # local steps change it

    def push(worker: _Worker, gradients: Sequence[Tensor | None], images: int) -> None:
        run.count(server.push(worker.number, gradients), images, x)

    def begin(worker: _Worker, unpushed: int) -> None:
        rule = own[worker.number]
        batch = run.deal()
        if batch is None:
            if (rest := rule.flush()) is not None:
                servers.send(worker, size, lambda: push(worker, rest, unpushed), waits=False)
            return

        def end(gradient: list[Tensor]) -> None:
            images = unpushed + job.batch_size
            pushed, fetches = rule.step(gradient, rates)

            def arrived() -> None:
                if pushed is not None:
                    push(worker, pushed, images)
                if fetches:
                    fresh = fetch(worker)
                    servers.reply(worker, size, lambda: go_on(fresh))

            def go_on(fresh: list[Tensor] | None) -> None:
                if fresh is not None:
                    rule.parameters = fresh
                begin(worker, images if pushed is None else 0)

            if pushed is not None or fetches:
                servers.send(worker, 0 if pushed is None else size, arrived, waits=fetches)
            if not fetches:
                go_on(None)

        run.compute(worker, rule.parameters, batch, end)

    workers = [_Worker(number) for number in range(job.workers)]
    own += [DownpourWorker(fetch(worker), method.n_push, method.n_fetch) for worker in workers]
    for worker in workers:
        begin(worker, 0)
    run.finish()
    return x, own[0].parameters


def _elastic(method: SimulatedElasticAveraging, job: Job) -> tuple[list[Tensor], list[Tensor]]:
    run, size, centre = _Run(job), job.workload.bytes, job.workload.start()
    servers, server = _Servers(run), ElasticServer(centre, method.beta / job.workers)

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

        def arrived() -> None:
            difference = server.exchange(worker.number, x)
            job.ledger.measure_if_due(centre, run.events.now)
            servers.reply(worker, size, lambda: compute(difference))

        if worker.step % method.period == 0:
            servers.send(worker, size, arrived, waits=True)
        else:
            compute(None)

    own = [leaves(job.workload.start()) for _ in range(job.workers)]
    for number, x in enumerate(own):
        begin(_Worker(number), x, job.make_optimizer(x))
    run.finish()
    job.ledger.delays = server.delays
    return centre, own[0]
