"""Simulated methods whose workers wait for nobody: Hogwild, Downpour, asynchronous elastic averaging."""

from collections.abc import Sequence

from torch import Tensor
from torch.optim import Optimizer

from lightning_optreg.analysis._events import Copies, Run, Servers, Worker
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


def _hogwild(method: SimulatedHogwild, job: Job) -> tuple[list[Tensor], list[Tensor]]:
    run, x = Run(job), leaves(job.workload.start())
    own = 1 if method.shared_state else job.workers
    optimizers = [job.make_optimizer(x) for _ in range(own)]
    copies, updates = Copies(), 0

    def begin(worker: Worker) -> None:
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
        begin(Worker(number))
    run.finish()
    return x, x


def _downpour(method: SimulatedDownpour, job: Job) -> tuple[list[Tensor], list[Tensor]]:
    run, size, x = Run(job), job.workload.bytes, leaves(job.workload.start())
    servers, server = Servers(run), DownpourServer(job.make_optimizer(x))
    rates = [group["lr"] for group in server.optimizer.param_groups for _ in group["params"]]
    copies = Copies()
    own: list[DownpourWorker] = []

    def fetch(worker: Worker) -> list[Tensor]:
        copy = copies.of(server.fetch(worker.number), server.updates)
        return copy if method.n_fetch == 1 else [value.clone() for value in copy]  # local steps change it

    def push(worker: Worker, gradients: Sequence[Tensor | None], images: int) -> None:
        run.count(server.push(worker.number, gradients), images, x)

    def begin(worker: Worker, unpushed: int) -> None:
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

    workers = [Worker(number) for number in range(job.workers)]
    own += [DownpourWorker(fetch(worker), method.n_push, method.n_fetch) for worker in workers]
    for worker in workers:
        begin(worker, 0)
    run.finish()
    return x, own[0].parameters


def _elastic(method: SimulatedElasticAveraging, job: Job) -> tuple[list[Tensor], list[Tensor]]:
    run, size, centre = Run(job), job.workload.bytes, job.workload.start()
    servers, server = Servers(run), ElasticServer(centre, method.beta / job.workers)

    def begin(worker: Worker, x: list[Tensor], optimizer: Optimizer) -> None:
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
        begin(Worker(number), x, job.make_optimizer(x))
    run.finish()
    job.ledger.delays = server.delays
    return centre, own[0]
