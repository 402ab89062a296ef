"""Newton against references of its definition, its rates, saddle points, and what it refuses."""

import copy
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_optreg.optimizers import Newton
from lightning_optreg.optimizers._flat_vectors import flatten, unflatten
from lightning_optreg.optimizers._minres import minres
from tests.optimizers.problems import PROBLEMS, SOME_PROBLEMS, Problem

DOWN = 0.3  # with 0.1 dampings come back to where they were, and rounding decides whether they are least
METHODS = ("trust_region", "line_search", None)


def train(problem: Problem, steps: int, **options: Any) -> list[Tensor]:
    """Flat parameters before the first step and after each."""
    theta = [t.requires_grad_() for t in problem.start()]
    optimizer = Newton(theta, **options)
    path = [flatten(theta).detach().clone()]
    for _ in range(steps):
        optimizer.step(lambda: problem.loss(theta))
        path.append(flatten(theta).detach().clone())
    return path


def reference(problem: Problem, steps: int, method: str | None, damping: float, decay: float) -> list[Tensor]:
    """The same from the definitions."""
    return reference_run(problem, flatten(problem.start()), steps, method, damping, decay)[0]


def reference_run(
    problem: Problem,
    start: Tensor,
    steps: int,
    method: str | None,
    damping: float,
    decay: float,
) -> tuple[list[Tensor], float]:
    """With eigenvalues in place of Cholesky, solving anew in place of factors; the last damping too."""
    like = problem.start()

    def loss(v: Tensor) -> Tensor:
        return problem.loss(unflatten(v, like)) + decay / 2 * v.square().sum()

    path = [start]
    for _ in range(steps):
        theta = path[-1]
        f = float(loss(theta))
        g = torch.autograd.functional.jacobian(loss, theta)
        h = torch.autograd.functional.hessian(loss, theta)
        eye = torch.eye(len(g), dtype=g.dtype)
        least = 1e-3 * abs(float(g @ h @ g)) / float(g @ g) if float(g @ g) > 0 else 1e-3
        least = least or 1e-3
        if method is None:
            path.append(theta - torch.linalg.solve(h + damping * eye, g))
            continue
        lowest = float(torch.linalg.eigvalsh(h).min())
        noise = 10 * 2.220446049250313e-16 * abs(f)
        if method == "line_search":
            lam = damping
            while not lowest + lam > 0:
                lam = max(10 * lam, least)
            d = -torch.linalg.solve(h + lam * eye, g)
            t = 1.0
            for _ in range(25):
                promised = -t * float(g @ d)
                if float(loss(theta + t * d)) - f <= (noise if promised <= noise else -1e-4 * promised):
                    break
                t /= 2
            else:
                t = 0.0
            path.append(theta + t * d)
            continue
        for _ in range(40):
            if lowest + damping > 0:
                d = -torch.linalg.solve(h + damping * eye, g)
                predicted = -float(g @ d + d @ h @ d / 2)
                actual = f - float(loss(theta + d))
                if predicted <= noise and abs(actual) <= noise:
                    theta = theta + d
                    break
                if predicted > 0 and actual / predicted >= 1e-4:
                    theta = theta + d
                    if actual / predicted < 0.25:
                        damping = max(10 * damping, least)
                    elif actual / predicted > 0.75 and damping > 0:
                        damping = damping * DOWN if damping * DOWN >= least else 0.0
                    break
            damping = max(10 * damping, least)
        path.append(theta)
    return path, damping


@pytest.mark.parametrize("name", SOME_PROBLEMS)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("damping", "decay"), [(0.0, 0.01), pytest.param(0.5, 0.001, marks=pytest.mark.slow)]
)
def test_follows_the_reference(name: str, method: Any, damping: float, decay: float) -> None:
    # On their way through the network's saddles both multiply rounding errors, without damping a millionfold.
    steps = 200 if name != "small_network" else 15
    if method is None and name == "small_network":
        damping = 2.0
    options = {"globalization": method, "damping": damping, "damping_down": DOWN, "weight_decay": decay}
    ours = torch.stack(train(PROBLEMS[name], steps, **options))
    plain = torch.stack(reference(PROBLEMS[name], steps, method, damping, decay))
    assert (ours - plain).abs().max() <= 1e-10
    assert not torch.equal(ours[0], ours[1])


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_each_step_of_a_network_follows_the_reference(method: Any) -> None:
    """200, or until convergence; each from where the one before has led: saddles multiply rounding errors."""
    problem, decay, damping = PROBLEMS["small_network"], 0.003, 2.0
    theta = [t.requires_grad_() for t in problem.start()]
    optimizer = Newton(theta, globalization=method, damping=damping, damping_down=DOWN, weight_decay=decay)
    state = optimizer.state[theta[0]]
    for _ in range(200):
        before = flatten(theta).detach().clone()
        damping = state.get("damping", damping)
        path, after = reference_run(problem, before, 1, method, damping, decay)
        optimizer.step(lambda: problem.loss(theta))
        assert (flatten(theta).detach() - path[1]).abs().max() <= 1e-10
        step = float((path[1] - before).norm())
        if step < 1e-10:
            break  # converged
        if method == "trust_region" and step > 1e-6:  # below that the loss changes by rounding errors
            assert state["damping"] == pytest.approx(after, rel=1e-9)


@pytest.mark.parametrize("hessian", ["exact", "free"])
@pytest.mark.parametrize("method", METHODS)
def test_solves_a_quadratic_in_one_step(hessian: Any, method: Any) -> None:
    path = train(PROBLEMS["quadratic"], 1, hessian=hessian, globalization=method, cg_tolerance=1e-12)
    torch.testing.assert_close(path[1], torch.ones(6, dtype=torch.float64), rtol=0, atol=1e-10)


def logistic(theta: list[Tensor]) -> Tensor:
    """With a penalty, so that there is a minimum."""
    penalty = sum(t.square().sum() for t in theta)
    return PROBLEMS["logistic_regression"].loss(theta) + 0.01 * penalty


@pytest.mark.parametrize("hessian", ["exact", "free"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["rosenbrock", "logistic_regression"])
def test_converges_quadratically(name: str, method: Any, hessian: Any) -> None:
    """The error after a step is at most a constant times its square before: its exponent doubles."""
    problem = PROBLEMS[name]
    if name == "logistic_regression":
        problem = Problem(problem.start, logistic, problem.rate)
    path = train(problem, 40, globalization=method, hessian=hessian, cg_tolerance=1e-13)
    minimum = path[-1]
    errors = [float((theta - minimum).norm()) for theta in path]
    close = [(a, b) for a, b in pairwise(errors) if 1e-7 < a < 1e-2]
    assert close
    assert all(b <= 300.0 * a**2 for a, b in close)  # on Rosenbrock's function the constant is about 200
    assert errors[-2] < 1e-12
    if name == "rosenbrock":
        torch.testing.assert_close(minimum, torch.ones(2, dtype=torch.float64), rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", SOME_PROBLEMS)
@pytest.mark.parametrize("damping", [0.0, 0.1])
def test_the_hessian_free_direction_is_the_exact_one(name: str, damping: float) -> None:
    """At points where the Hessian is positive definite; to what conjugate gradients are asked for."""
    start = reference(PROBLEMS[name], 50, "trust_region", 0.0, 0.01)[-1]
    problem = Problem(
        lambda: [t.clone() for t in unflatten(start + 0.01, PROBLEMS[name].start())],
        PROBLEMS[name].loss,
        0.0,
    )
    options = {"globalization": None, "damping": damping, "weight_decay": 0.05}
    exact, free = (
        train(problem, 1, hessian=hessian, cg_tolerance=1e-13, **options)[1] for hessian in ("exact", "free")
    )
    assert (exact - free).abs().max() <= 1e-8
    assert (exact - start).norm() > 1e-4


@pytest.mark.parametrize("signs", [(1, -1, 1, -1, 1), (-1, -1, -1, -1, -1), (1, 1, 1, 1, -1)])
@pytest.mark.parametrize("damping", [0.0, 0.05])
def test_the_hessian_free_step_as_it_stands_is_exact_where_the_hessian_is_not_positive(
    signs: tuple[int, ...], damping: float
) -> None:
    """(H + lambda I) d = -g on an indefinite quadratic, against torch.linalg."""
    q = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))[0]
    h = q @ torch.diag(torch.tensor(signs, dtype=torch.float64) * torch.arange(1, 6)) @ q.T
    theta = torch.arange(1.0, 6.0, dtype=torch.float64).requires_grad_()
    start = theta.detach().clone()
    optimizer = Newton([theta], hessian="free", globalization=None, damping=damping, cg_tolerance=1e-12)
    optimizer.step(lambda: 0.5 * theta @ h @ theta)
    wanted = start - torch.linalg.solve(h + damping * torch.eye(5, dtype=torch.float64), h @ start)
    torch.testing.assert_close(theta.detach(), wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("hessian", ["exact", "free"])
def test_a_singular_hessian_that_the_gradient_leaves_is_refused(hessian: Any) -> None:
    x, y = (torch.ones((), dtype=torch.float64, requires_grad=True) for _ in range(2))
    with pytest.raises(RuntimeError, match=r"^Newton: H \+ 0 I is singular; use a larger damping$"):
        Newton([x, y], hessian=hessian, globalization=None, cg_tolerance=1e-8).step(lambda: y - x.square())


def test_minres_takes_the_smallest_residual_of_each_subspace() -> None:
    """Against least squares on Krylov's space, for a matrix with eigenvalues of both signs."""
    draw = torch.Generator().manual_seed(1)
    a = torch.randn(8, 8, dtype=torch.float64, generator=draw)
    a, b = a + a.T, torch.randn(8, dtype=torch.float64, generator=draw)
    basis = [b]
    for count in range(1, 9):
        k = torch.linalg.qr(torch.stack(basis, dim=1))[0]
        best = k @ torch.linalg.lstsq(a @ k, b[:, None]).solution[:, 0]
        found = minres(a.mv, b, tolerance=0.0, max_iterations=count)
        assert found is not None
        torch.testing.assert_close(found, best, rtol=1e-8, atol=1e-8)
        basis.append(a @ basis[-1])
    assert torch.equal(
        minres(a.mv, torch.zeros_like(b), tolerance=0.0, max_iterations=3), torch.zeros_like(b)
    )


def saddle(theta: list[Tensor]) -> Tensor:
    """Saddle at 0, minima at (0, +-1)."""
    x, y = theta
    return x.square() - y.square() + 0.5 * y.pow(4)


@pytest.mark.parametrize("hessian", ["exact", "free"])
def test_saddle_points(hessian: Any) -> None:
    problem = Problem(lambda: [torch.tensor(v, dtype=torch.float64) for v in (0.5, 0.1)], saddle, 0.0)
    attracted = train(problem, 20, globalization=None, hessian=hessian)[-1]
    torch.testing.assert_close(attracted, torch.zeros(2).double(), rtol=0, atol=1e-8)
    for method in ("trust_region", "line_search"):
        escaped = train(problem, 40, globalization=method, hessian=hessian)[-1]
        torch.testing.assert_close(escaped, torch.tensor([0.0, 1.0]).double(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("hessian", ["exact", "free"])
@pytest.mark.parametrize("method", METHODS)
def test_parts_are_as_good_as_the_whole(method: Any, hessian: Any) -> None:
    problem = PROBLEMS["small_network"]

    def run(parts: bool) -> Tensor:
        theta = [t.requires_grad_() for t in problem.start()]
        optimizer = Newton(theta, globalization=method, hessian=hessian, damping=1.0, cg_tolerance=1e-12)

        def closure() -> Any:
            if parts:
                return (w * problem.loss(theta) for w in (0.6, 0.4))
            return problem.loss(theta)

        for _ in range(5):
            optimizer.step(closure)
        return flatten(theta).detach()

    assert (run(True) - run(False)).abs().max() <= 1e-9


def test_the_loss_never_rises_with_a_trust_region() -> None:
    problem = PROBLEMS["small_network"]
    for hessian in ("exact", "free"):
        path = train(problem, 30, hessian=hessian)
        losses = [float(problem.loss(unflatten(v, problem.start()))) for v in path]
        assert all(b <= a + 1e-15 for a, b in pairwise(losses))
        assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("method", METHODS)
def test_maximize(method: Any) -> None:
    problem = PROBLEMS["small_network"]
    negative = Problem(problem.start, lambda theta: -problem.loss(theta), problem.rate)
    options = {"globalization": method, "damping": 0.3, "weight_decay": 0.1}
    up, down = train(negative, 8, maximize=True, **options), train(problem, 8, **options)
    torch.testing.assert_close(up[-1], down[-1], rtol=0, atol=1e-12)


@pytest.mark.parametrize("hessian", ["exact", "free"])
def test_a_loaded_state_goes_on_as_if_nothing_had_happened(hessian: Any) -> None:
    problem = PROBLEMS["small_network"]

    def step(theta: list[Tensor], optimizer: Newton, steps: int) -> None:
        for _ in range(steps):
            optimizer.step(lambda: problem.loss(theta))

    theta = [t.requires_grad_() for t in problem.start()]
    optimizer = Newton(theta, damping=0.7, hessian=hessian)
    step(theta, optimizer, 3)
    again = [t.detach().clone().requires_grad_() for t in theta]
    state = copy.deepcopy(optimizer.state_dict())
    loaded = Newton(again)
    loaded.load_state_dict(state)
    assert loaded.state_dict() == state
    step(theta, optimizer, 5)
    step(again, loaded, 5)
    assert all(torch.equal(a, b) for a, b in zip(theta, again, strict=True))


def test_float32() -> None:
    theta = torch.tensor([-1.2, 1.0], requires_grad=True)
    optimizer = Newton([theta])
    for _ in range(40):
        optimizer.step(lambda: (1 - theta[0]).square() + 100 * (theta[1] - theta[0].square()).square())
    torch.testing.assert_close(theta.detach(), torch.ones(2), rtol=0, atol=1e-3)


def test_trains_a_network_hessian_free() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 3)).double()
    x, y = torch.randn(60, 4).double(), torch.randint(3, (60,))
    optimizer = Newton(net.parameters(), hessian="free")
    losses = [float(optimizer.step(lambda: nn.functional.cross_entropy(net(x), y))) for _ in range(30)]
    assert losses[-1] < 0.5 * losses[0]
    assert all(p.grad is None for p in net.parameters())


# ---- what it refuses ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"lr": 0.0}, "lr must be in"),
        ({"lr": float("nan")}, "lr must be in"),
        ({"hessian": "gauss"}, "hessian must be 'exact' or 'free'"),
        ({"globalization": "dogleg"}, "globalization must be"),
        ({"damping": -1.0}, "damping must be in"),
        ({"damping_up": 1.0}, "damping_up must be in"),
        ({"damping_down": 1.0}, "damping_down must be in"),
        ({"weight_decay": float("nan")}, "weight_decay must be in"),
        ({"max_exact": 0}, "max_exact must be >= 1"),
        ({"cg_tolerance": 1.0}, "cg_tolerance must be in"),
        ({"cg_iterations": 0}, "cg_iterations must be >= 1"),
        ({"max_exact": 2}, "takes at most 2 numbers, got 3: .*hessian='free'"),
    ],
)
def test_wrong_settings(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=f"^Newton: {text}"):
        Newton([torch.zeros(3, requires_grad=True)], **options)


def test_wrong_parameters() -> None:
    for dtypes, got in (((torch.bfloat16,), "bfloat16"), ((torch.complex64,), "complex64")):
        with pytest.raises(ValueError, match=f"all float32 or all float64, got {got}"):
            Newton([torch.zeros(3, dtype=dtype, requires_grad=True) for dtype in dtypes])
    one, two = torch.zeros(1, requires_grad=True), torch.zeros(1, dtype=torch.float64, requires_grad=True)
    with pytest.raises(ValueError, match="float32 and float64"):
        Newton([one, two])
    with pytest.raises(ValueError, match="Newton: takes one parameter group, got 2"):
        Newton([{"params": [one]}, {"params": [torch.zeros(1, requires_grad=True)]}])


def test_wrong_closures() -> None:
    theta = torch.ones(2, requires_grad=True)
    optimizer = Newton([theta])
    with pytest.raises(RuntimeError, match="Newton: step needs a closure"):
        optimizer.step()

    def usual() -> Tensor:
        loss = theta.square().sum()
        loss.backward()
        return loss.detach()

    with pytest.raises(RuntimeError, match=r"without calling backward.*FullBatch"):
        optimizer.step(usual)


def _embedding() -> tuple[list[Tensor], Callable[[], Tensor]]:
    table = nn.Embedding(4, 2, sparse=True)
    return list(table.parameters()), lambda: table(torch.tensor([1, 2])).square().sum()


def test_sparse_gradients() -> None:
    params, closure = _embedding()
    with pytest.raises(RuntimeError, match="sparse gradients are not supported"):
        Newton(params).step(closure)


def test_a_singular_hessian() -> None:
    theta = torch.ones(2, dtype=torch.float64, requires_grad=True)

    def closure() -> Tensor:
        return theta.sum().square()

    with pytest.raises(RuntimeError, match="singular; use a larger damping"):
        Newton([theta], globalization=None).step(closure)
    optimizer = Newton([theta])
    for _ in range(10):
        optimizer.step(closure)
    assert float(closure().detach()) < 1e-12


def test_a_copy_makes_the_same_step() -> None:
    theta = torch.tensor([3.0, -1.0], requires_grad=True)
    optimizer = copy.deepcopy(Newton([theta]))
    copied = optimizer.param_groups[0]["params"][0]
    optimizer.step(lambda: (copied - 1.0).square().sum())
    assert copied.tolist() == pytest.approx([1.0, 1.0])


def test_the_loss_that_is_climbed_is_returned_with_its_sign() -> None:
    theta = torch.tensor([3.0], requires_grad=True)
    optimizer = Newton([theta], maximize=True, weight_decay=2.0)
    assert float(optimizer.step(lambda: 5.0 - theta.square().sum())) == pytest.approx(5.0 - 9.0 - 9.0)
