"""Simulated workers: exact limits, times worked out by hand, and known expectations."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from lightning_optreg.analysis import (
    Interconnect,
    ScalingRun,
    SimulatedDDP,
    SimulatedDownpour,
    SimulatedElasticAveraging,
    SimulatedHogwild,
    SimulatedLocalSGD,
    StepTimes,
    Workload,
    simulate,
    sparse_logistic_regression,
)
from lightning_optreg.analysis.parallel_methods import MakeOptimizer, ParallelMethod
from lightning_optreg.optimizers import AdaDelay, AdaptiveRevision

FREE = Interconnect(latency=0.0, bandwidth=math.inf)
SIZE = 4  # examples in a batch


def momentum(params: list[Tensor]) -> torch.optim.Optimizer:
    return torch.optim.SGD(params, lr=0.05, momentum=0.9)


def plain(lr: float) -> MakeOptimizer:
    return lambda params: torch.optim.SGD(params, lr=lr)


def network(dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).to(dtype)


def task(dtype: torch.dtype = torch.float32, examples: int = 64) -> Workload:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(examples, 6, generator=generator, dtype=dtype)
    y = torch.randint(3, (examples,), generator=generator)
    return Workload(network(dtype), nn.CrossEntropyLoss(), (x, y), (x, y))


def run(
    method: ParallelMethod, work: Workload, make: MakeOptimizer, workers: int, batches: int, **more: object
) -> ScalingRun:
    settings = {"wires": FREE, "batch_size": SIZE, "measurements": 2, **more}
    return simulate(method, work, make, workers=workers, images=batches * SIZE, **settings)  # type: ignore[arg-type]


def equal(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def close(a: list[Tensor], b: list[Tensor]) -> None:
    for x, y in zip(a, b, strict=True):  # float64, tens of steps of sums in another order
        torch.testing.assert_close(x, y, rtol=1e-11, atol=1e-13)


def trained_alone(batches: int) -> list[Tensor]:
    """An ordinary loop with an ordinary backward pass."""
    work, net = task(), network()
    optimizer = momentum(list(net.parameters()))
    for number in range(batches):
        batch = work.batch(number, SIZE, seed=0)
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(work._x[batch]), work._y[batch]).backward()
        optimizer.step()
    return [parameter.detach() for parameter in net.parameters()]


@pytest.mark.parametrize(
    "method",
    [
        SimulatedDDP(),
        SimulatedHogwild(),
        SimulatedHogwild(shared_state=True),
        SimulatedDownpour(),
        SimulatedLocalSGD(period=1),
        SimulatedLocalSGD(period=7),
        SimulatedElasticAveraging(beta=0.0),
        SimulatedElasticAveraging(beta=0.0, asynchronous=True),
    ],
    ids=str,
)
def test_one_worker_is_ordinary_training_bit_for_bit(method: ParallelMethod) -> None:
    wanted = trained_alone(40)  # more than two epochs of 16 batches
    found = run(method, task(), momentum, 1, 40)
    assert equal(found.first_worker, wanted)
    if not isinstance(method, SimulatedElasticAveraging):  # without a spring the centre stays
        assert equal(found.parameters, wanted)
    assert found.seconds == pytest.approx(40 * 0.01)
    assert found.waiting_share == pytest.approx(0.0, abs=1e-12)
    assert found.moments[-1].images == 160


def reference_elastic(work: Workload, workers: int, batches: int, tau: int, beta: float) -> list[Tensor]:
    """Zhang et al. 2015, equations 5 and 6, with the momentum of each worker."""
    centre = work.start()
    x = [[p.clone().requires_grad_() for p in centre] for _ in range(workers)]
    optimizers = [momentum(each) for each in x]
    for step in range(batches // workers):
        old = [[p.detach().clone() for p in each] for each in x]
        for i, each in enumerate(x):
            for p, g in zip(each, work.gradient(each, work.batch(step * workers + i, SIZE, 0)), strict=True):
                p.grad = g
            optimizers[i].step()
        if step % tau == 0:
            with torch.no_grad():
                for j, c in enumerate(centre):
                    mean = torch.stack([each[j] for each in old]).mean(dim=0)
                    for i in range(workers):
                        x[i][j] -= beta / workers * (old[i][j] - c)
                    c.copy_((1 - beta) * c + beta * mean)
    return centre


def reference_local(work: Workload, workers: int, batches: int, tau: int, outer: bool) -> list[Tensor]:
    """Local SGD; with `outer`, DiLoCo's Nesterov step by torch's formula."""
    common = work.start()
    speed = [torch.zeros_like(c) for c in common]
    states = [[torch.zeros_like(c) for c in common] for _ in range(workers)]
    x = [[c.clone() for c in common] for _ in range(workers)]
    steps = batches // workers
    for step in range(steps):
        for i, each in enumerate(x):
            gradients = work.gradient(each, work.batch(step * workers + i, SIZE, 0))
            for p, v, g in zip(each, states[i], gradients, strict=True):
                v.mul_(0.9).add_(g)
                p.sub_(0.05 * v)
        if (step + 1) % tau == 0 or (step + 1 == steps and not outer):
            for j, c in enumerate(common):
                delta = c - sum(each[j] for each in x) / workers
                speed[j] = 0.9 * speed[j] + delta
                c.sub_(0.7 * (delta + 0.9 * speed[j]) if outer else delta)
                for each in x:
                    each[j].copy_(c)
    return common


def reference_parallel(work: Workload, workers: int, batches: int) -> list[Tensor]:
    x = [p.clone().requires_grad_() for p in work.start()]
    optimizer = momentum(x)
    for step in range(batches // workers):
        found = [work.gradient(x, work.batch(step * workers + i, SIZE, 0)) for i in range(workers)]
        for p, values in zip(x, zip(*found, strict=True), strict=True):
            p.grad = torch.stack(values).mean(dim=0)
        optimizer.step()
    return x


def nesterov(params: list[Tensor]) -> torch.optim.Optimizer:
    return torch.optim.SGD(params, lr=0.7, momentum=0.9, nesterov=True)


@pytest.mark.parametrize("vectorize", [True, False])
@pytest.mark.parametrize(
    ("method", "reference"),
    [
        (SimulatedDDP(), reference_parallel),
        (SimulatedElasticAveraging(3, 0.9), lambda w, n, b: reference_elastic(w, n, b, 3, 0.9)),
        (SimulatedElasticAveraging(1, 1.0), lambda w, n, b: reference_elastic(w, n, b, 1, 1.0)),
        (SimulatedLocalSGD(3), lambda w, n, b: reference_local(w, n, b, 3, outer=False)),
        (SimulatedLocalSGD(3, nesterov), lambda w, n, b: reference_local(w, n, b, 3, outer=True)),
    ],
    ids=["ddp", "elastic", "elastic mean", "local", "diloco"],
)
def test_synchronous_methods_are_a_plain_loop(
    method: ParallelMethod, reference: Callable[[Workload, int, int], list[Tensor]], vectorize: bool
) -> None:
    work = task(torch.float64)
    found = run(method, work, momentum, 5, 50, vectorize=vectorize)
    close(found.parameters, [p.detach() for p in reference(work, 5, 50)])
    assert found.steps == [10] * 5


@pytest.mark.parametrize(
    "method",
    [SimulatedHogwild(), SimulatedDownpour(), SimulatedElasticAveraging(2, asynchronous=True)],
    ids=str,
)
def test_gradients_computed_together_are_those_one_by_one(method: ParallelMethod) -> None:
    times = StepTimes(1.0, "lognormal", sigma=0.5, stragglers=0.2)
    found, wanted = (
        run(method, task(torch.float64), plain(0.05), 6, 60, step_times=times, vectorize=vectorize)
        for vectorize in (True, False)
    )
    close(found.parameters, wanted.parameters)
    assert found.steps == wanted.steps
    assert found.delays == wanted.delays
    assert found.seconds == wanted.seconds


def test_an_optimizer_of_whole_tensors_is_not_stacked() -> None:
    """Rprop is by element, this one's norm is not: every worker must have its own."""

    class Normalized(torch.optim.SGD):
        def step(self, closure: object = None) -> None:  # type: ignore[override]
            for p in self.param_groups[0]["params"]:
                p.data.sub_(0.1 * p.grad / p.grad.norm())

    def make(params: list[Tensor]) -> torch.optim.Optimizer:
        return Normalized(params, lr=0.1)

    work = task(torch.float64)
    found = run(SimulatedLocalSGD(2), work, make, 4, 16, vectorize=True)
    close(found.parameters, run(SimulatedLocalSGD(2), work, make, 4, 16, vectorize=False).parameters)


def test_local_sgd_at_every_step_is_synchronous_sgd() -> None:
    work = task(torch.float64)
    wanted = run(SimulatedDDP(), work, plain(0.1), 4, 40)
    close(run(SimulatedLocalSGD(1), work, plain(0.1), 4, 40).parameters, wanted.parameters)
    outer = SimulatedLocalSGD(1, plain(1.0))
    close(run(outer, work, plain(0.1), 4, 40).parameters, wanted.parameters)


class Slope(nn.Module):
    """Its loss sum (w - y)^2 / 2 has the gradient w - y, all y alike."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(1, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return self.w.expand(len(x))


def slope() -> Workload:
    y = torch.ones(16, dtype=torch.float64)
    return Workload(Slope(), lambda w, y: ((w - y) ** 2).mean() / 2, (y, y), (y, y))


def seconds_and_loss(found: ScalingRun) -> list[tuple[float, float]]:
    return [(round(moment.seconds, 9), moment.loss) for moment in found.moments]


def test_the_order_of_events_by_hand() -> None:
    """A needs 2 s a step, B 3 s; a message takes 1 s, learning rate 1/2, 5 batches of 1.

    A reads 0 at 0, its gradient -1 is at the server at 3 and w = 1/2, which A has at 4; it computes until 6.
    B reads 0 at 0, computes until 3; at 4 its -1 makes w = 1, with delay 1; B has it at 5, computes until 8.
    A's gradient of 1/2, -1/2, comes at 7: w = 5/4, delay 1; A has it at 8, computes until 10.
    B's gradient of 1, 0, comes at 9: w = 5/4, delay 1. B has it at 10; all batches are dealt.
    A's gradient of 5/4, 1/4, comes at 11: w = 9/8, delay 1, and A has it at 12.
    """
    found = simulate(
        SimulatedDownpour(),
        slope(),
        plain(0.5),
        workers=2,
        images=5,
        batch_size=1,
        step_times=StepTimes(2.0, stragglers=0.5, slowdown=1.5),
        wires=Interconnect(latency=1.0, bandwidth=math.inf),
        measurements=5,
    )
    w = [0.0, 0.5, 1.0, 1.25, 1.25, 1.125]
    times = [0.0, 3.0, 4.0, 7.0, 9.0, 12.0]  # the last measurement is at the end
    assert seconds_and_loss(found) == [(t, (v - 1) ** 2 / 2) for t, v in zip(times, w, strict=True)]
    assert found.delays == {0: 1, 1: 4}
    assert sorted(found.steps) == [2, 3]
    assert found.seconds == 12.0
    assert sorted(found.computing) == [6.0, 6.0]
    assert found.moments[-1].bytes == 10 * 8


def test_messages_queue_at_the_port_of_the_server() -> None:
    """8 bytes take 1 s. Both push at 1: through at 2 and 3. The answers, the first at 3, the second at 4."""

    def make(shards: int) -> ScalingRun:
        wires = Interconnect(latency=0.0, bandwidth=8.0, shards=shards)
        return run(SimulatedDownpour(), slope(), plain(0.5), 2, 2, step_times=StepTimes(1.0), wires=wires)

    one, two = make(1), make(2)
    assert one.seconds == 4.0
    assert [moment.seconds for moment in one.moments] == [0.0, 2.0, 4.0]
    assert two.seconds == 3.5  # ports are free after 0.5 s each, but a worker's own port needs 1 s


def test_elastic_averaging_on_a_server_by_hand() -> None:
    """beta = 1 and two workers: alpha = 1/2. Steps of 1 s and messages of 1 s each way; rate 1/2.

    Both send 0 at 0, have d = 0 at 2; their gradient -1 is there at 3: x = 1/2. Both send it at 3. At 4 the
    server answers the first d = 1/2 (1/2 - 0), the centre is 1/4; the second d = 1/2 (1/2 - 1/4), the centre
    is 3/8. They have these at 5, and at 6 the gradient of 1/2, -1/2: x = 3/4 - 1/4 = 1/2 of the first.
    """
    method = SimulatedElasticAveraging(1, 1.0, asynchronous=True)
    wires = Interconnect(latency=1.0, bandwidth=math.inf)
    found = run(method, slope(), plain(0.5), 2, 4, step_times=StepTimes(1.0), wires=wires)
    assert found.parameters[0].item() == 0.375
    assert found.first_worker[0].item() == 0.5
    assert found.delays == {1: 2}  # first calls have none
    assert found.seconds == 6.0
    assert found.sending == [4.0, 4.0]
    assert found.moments[-1].bytes == 2 * 2 * 2 * 8


def test_elastic_averaging_sends_while_workers_compute() -> None:
    """8 bytes from 2 workers: 1 s. Steps of 2 s hide it, steps of 0.5 s half of it."""
    wires = Interconnect(latency=0.0, bandwidth=8.0)

    def seconds(step: float) -> float:
        method = SimulatedElasticAveraging(2)
        return run(method, slope(), plain(0.1), 2, 8, step_times=StepTimes(step), wires=wires).seconds

    assert seconds(2.0) == 8.0
    assert seconds(0.5) == 2 * (1.0 + 0.5)
    local = run(SimulatedLocalSGD(2), slope(), plain(0.1), 2, 8, step_times=StepTimes(2.0), wires=wires)
    assert local.seconds == 8.0 + 2 * 1.0


def test_the_slowest_worker_sets_the_pace_of_synchronous_sgd() -> None:
    """The largest of N exponential times has mean H_N = 1 + ... + 1/N and variance 1 + ... + 1/N^2."""
    workers, steps = 20, 500
    times = StepTimes(1.0, "exponential")
    found = run(SimulatedDDP(), slope(), plain(0.1), workers, workers * steps, step_times=times)
    mean = sum(1 / k for k in range(1, workers + 1))
    error = math.sqrt(sum(1 / k**2 for k in range(1, workers + 1)) / steps)
    assert found.seconds / steps == pytest.approx(mean, abs=4 * error)  # 4 standard errors
    assert found.waiting_share == pytest.approx(1 - 1 / mean, abs=0.01)


@pytest.mark.parametrize("method", [SimulatedHogwild(), SimulatedDownpour()], ids=str)
def test_equal_workers_have_delay_n_minus_1(method: ParallelMethod) -> None:
    """After the first round, in which all read at once: delays 0, 1, ..., N - 1."""
    found = run(method, slope(), plain(0.01), 8, 160)
    assert found.delays == {**dict.fromkeys(range(7), 1), 7: 153}
    times = StepTimes(1.0, "exponential")
    mixed = run(method, slope(), plain(0.01), 8, 1000, step_times=times)
    assert mixed.mean_delay == pytest.approx(7, rel=0.02)  # N - 1 but for the start and the end


def test_pushes_and_fetches_are_as_rare_as_told() -> None:
    step = StepTimes(1.0)
    found = run(SimulatedDownpour(n_push=5, n_fetch=10), slope(), plain(0.01), 2, 100, step_times=step)
    assert sum(found.delays.values()) == 20
    assert found.moments[-1].bytes == (20 + 10) * 8
    assert found.moments[-1].images == 400


@pytest.mark.parametrize(
    ("make", "late"),
    [
        (lambda params: AdaDelay(params, lr=0.3), "delay"),
        (lambda params: AdaptiveRevision(params, lr=0.3), "gbar_old"),
    ],
)
@pytest.mark.parametrize("method", [SimulatedDownpour(), SimulatedHogwild(shared_state=True)], ids=str)
def test_delay_tolerant_rules_get_the_delay_of_each_update(
    method: ParallelMethod, make: Callable[[list[Tensor]], AdaDelay | AdaptiveRevision], late: str
) -> None:
    """Two equal workers take turns, and each update but the first has delay 1."""
    w = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    optimizer = make([w])
    reads = [(w.detach().clone(), optimizer.snapshot() if late == "gbar_old" else None)] * 2
    for number in range(10):
        value, gbar = reads[number % 2]
        w.grad = value - 1
        optimizer.step(**{late: min(number, 1) if late == "delay" else gbar})  # type: ignore[arg-type]
        reads[number % 2] = (w.detach().clone(), optimizer.snapshot() if late == "gbar_old" else None)
    found = run(method, slope(), make, 2, 10)
    assert torch.equal(found.parameters[0], w.detach())
    assert not torch.equal(w.detach(), run(method, slope(), make, 1, 10).parameters[0])


def test_traffic_and_time_of_a_sum_over_the_workers() -> None:
    """280 bytes: 2 x 3 x 280 at each meeting, in 4 delays and 2 x 3/4 x 280 / 1000 s."""
    work = task()
    assert work.bytes == 4 * (6 * 5 + 5 + 5 * 3 + 3)
    wires, step = Interconnect(latency=0.5, bandwidth=1000.0), StepTimes(2.0)
    every = run(SimulatedDDP(), work, plain(0.1), 4, 80, wires=wires, step_times=step)
    assert every.moments[-1].bytes == 20 * 6 * work.bytes
    assert every.seconds == pytest.approx(20 * (2.0 + 2.0 + 1.5 * work.bytes / 1000))
    assert every.sending_share == pytest.approx(1 - 20 * 2.0 / every.seconds)
    for method in (SimulatedLocalSGD(10), SimulatedElasticAveraging(10)):
        rare = run(method, work, plain(0.1), 4, 80, wires=wires, step_times=step)
        assert rare.moments[-1].bytes == every.moments[-1].bytes / 10


def test_a_straggler_holds_up_those_who_wait() -> None:
    times = StepTimes(1.0, stragglers=0.25, slowdown=3.0)
    waiting = run(SimulatedDDP(), slope(), plain(0.1), 4, 40, step_times=times)
    assert waiting.seconds == pytest.approx(30.0)
    assert waiting.waiting_share == pytest.approx(1 - 6 / 12)
    free = run(SimulatedHogwild(), slope(), plain(0.1), 4, 400, step_times=times)
    assert sorted(free.steps) == [40, 120, 120, 120]
    assert free.seconds == pytest.approx(120.0)
    assert free.waiting_share == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("method", [SimulatedDDP(), SimulatedDownpour()], ids=str)
def test_one_seed_one_result(method: ParallelMethod) -> None:
    times = StepTimes(1.0, "lognormal", stragglers=0.5)
    wires = Interconnect(0.1, 1000.0, "exponential")

    def make(seed: int) -> ScalingRun:
        torch.manual_seed(seed + 100)  # must not matter
        return run(method, task(), momentum, 6, 60, step_times=times, wires=wires, seed=seed)

    first, second, other = make(3), make(3), make(4)
    assert first.moments == second.moments
    assert equal(first.parameters, second.parameters)
    assert (first.steps, first.delays, first.computing) == (second.steps, second.delays, second.computing)
    assert first.seconds != other.seconds


def test_training_helps_and_is_measured_as_often_as_told() -> None:
    work = sparse_logistic_regression(2000, 200, 10)
    found = simulate(
        SimulatedHogwild(), work, plain(0.5), workers=10, images=8000, batch_size=10, measurements=8
    )
    assert [moment.images for moment in found.moments] == [1000 * k for k in range(9)]
    first, last = found.moments[0], found.moments[-1]
    assert first.loss == pytest.approx(math.log(2))
    assert last.loss < 0.6
    assert last.accuracy > 0.65
    assert found.first_time(0.65) is not None
    assert found.first_time(1.0) is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"workers": 0}, "workers must be >= 1, got 0"),
        ({"batch_size": 0}, "batch_size must be >= 1, got 0"),
        ({"batch_size": 65, "images": 999}, r"batch_size must be in \[1, 64\], got 65"),
        ({"workers": 9, "images": 35}, "images must be at least a batch for each worker, 36, got 35"),
        ({"measurements": 0}, "measurements must be >= 1"),
        ({"seed": -1}, "seed must be >= 0"),
    ],
)
def test_wrong_numbers_are_refused(settings: dict[str, int], message: str) -> None:
    given = {"workers": 1, "images": 64, "batch_size": SIZE, **settings}
    with pytest.raises(ValueError, match=f"^simulate: {message}"):
        simulate(SimulatedDDP(), task(), momentum, **given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: StepTimes(0.0), r"StepTimes: mean must be in \(0, inf\)"),
        (lambda: StepTimes(distribution="uniform"), "StepTimes: distribution must be 'constant'"),  # type: ignore[arg-type]
        (lambda: StepTimes(sigma=-1.0), "StepTimes: sigma"),
        (lambda: StepTimes(stragglers=1.5), "StepTimes: stragglers"),
        (lambda: StepTimes(slowdown=0.5), "StepTimes: slowdown"),
        (lambda: Interconnect(latency=-1.0), "Interconnect: latency"),
        (lambda: Interconnect(bandwidth=0.0), "Interconnect: bandwidth must be > 0, got 0.0"),
        (lambda: Interconnect(shards=0), "Interconnect: shards must be >= 1"),
        (lambda: SimulatedHogwild("own"), "SimulatedHogwild: shared_state must be True or False"),  # type: ignore[arg-type]
        (lambda: SimulatedDownpour(n_push=0), "SimulatedDownpour: n_push must be >= 1"),
        (lambda: SimulatedElasticAveraging(beta=1.1), r"SimulatedElasticAveraging: beta must be in \[0, 1\]"),
        (lambda: SimulatedLocalSGD(0), "SimulatedLocalSGD: period must be >= 1, got 0"),
    ],
)
def test_wrong_settings_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        make()


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nn.BatchNorm1d(6), "must have no buffers, has running_mean"),
        (nn.ReLU(), "must have parameters"),
        (nn.Sequential(nn.Linear(6, 3), nn.Dropout(0.5)), "must be without randomness"),
    ],
)
def test_modules_that_cannot_be_simulated_are_refused(module: nn.Module, message: str) -> None:
    x, y = torch.randn(4, 6), torch.zeros(4, dtype=torch.int64)
    with pytest.raises(ValueError, match=f"^Workload: module {message}"):
        Workload(module, nn.CrossEntropyLoss(), (x, y), (x, y))


def test_batches_are_epochs() -> None:
    work = task(examples=10)
    batches = [work.batch(number, 3, seed=5) for number in range(6)]
    for epoch in (batches[:3], batches[3:]):
        seen = torch.cat(epoch)
        assert len(seen.unique()) == 9
    assert not torch.equal(torch.cat(batches[:3]), torch.cat(batches[3:]))
    assert torch.equal(work.batch(0, 3, seed=5), batches[0])


@pytest.mark.slow
@pytest.mark.parametrize(
    "method",
    [
        SimulatedDDP(),
        SimulatedHogwild(),
        SimulatedDownpour(),
        SimulatedElasticAveraging(),
        SimulatedLocalSGD(),
    ],
    ids=str,
)
def test_a_thousand_workers_take_less_than_a_minute(method: ParallelMethod) -> None:
    import time

    begin = time.perf_counter()
    work = sparse_logistic_regression()
    found = simulate(method, work, plain(0.05), workers=1000, images=500_000, batch_size=20)
    assert sum(found.steps) == 25_000
    assert time.perf_counter() - begin < 60.0
