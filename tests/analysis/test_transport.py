"""The transport equation: closed forms of the heat kernel, orders of the schemes, agreement of the two."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lightning_optreg.analysis import (
    TRANSPORTS,
    EulerErrors,
    PointResNet,
    TransportProblem,
    compute_transport,
    feynman_kac,
    measure_euler,
    measure_stability,
    solve_transport,
    train_point_resnet,
    two_spirals,
)

Field = Callable[[Tensor, float], Tensor]
SHIFT = torch.tensor([0.7, -0.4], dtype=torch.float64)
WAVE = torch.tensor([1.5, 2.0], dtype=torch.float64)
RADIUS = 1.0
SPREAD = 0.5  # of the Gaussian f
ROTATION = TRANSPORTS["rotation"].field


def shift(x: Tensor, t: float) -> Tensor:
    return SHIFT.to(x).expand_as(x)


def contraction(x: Tensor, t: float) -> Tensor:
    return -x


def wave(x: Tensor) -> Tensor:
    return (x @ WAVE.to(x)).cos()


def linear(x: Tensor) -> Tensor:
    return x @ WAVE.to(x)


def gaussian(x: Tensor) -> Tensor:
    return (-x.square().sum(-1) / (2 * SPREAD**2)).exp()


def axis(nodes: int, half: float = RADIUS) -> Tensor:
    return torch.linspace(-half, half, nodes, dtype=torch.float64)


def grid(x: Tensor) -> Tensor:
    return torch.cartesian_prod(x, x).view(len(x), len(x), 2)


def damped(square: float) -> float:
    """What a normal variable of this variance along the wave leaves of a cosine."""
    return math.exp(-square * float(WAVE.square().sum()) / 2)


def turned(x: Tensor) -> Tensor:
    """A quarter of a turn."""
    return torch.stack([-x[..., 1], x[..., 0]], dim=-1)


def blurred(x: Tensor, sigma: float) -> Tensor:
    """E of the Gaussian f at x + sigma Z: the Gaussian with both variances, of the same mass."""
    variance = SPREAD**2 + sigma**2
    return SPREAD**2 / variance * (-x.square().sum(-1) / (2 * variance)).exp()


# Ornstein and Uhlenbeck: with F = -x, x(1) is normal, of mean x/e and of variance sigma^2 (1 - e^-2) / 2.
OU = (1 - math.exp(-2)) / 2
CLOSED: dict[str, tuple[Field, Callable[[Tensor], Tensor], Callable[[Tensor, float], Tensor]]] = {
    "shift, linear": (shift, linear, lambda x, s: linear(x + SHIFT.to(x))),
    "shift, wave": (shift, wave, lambda x, s: damped(s**2) * wave(x + SHIFT.to(x))),
    "shift, gaussian": (shift, gaussian, lambda x, s: blurred(x + SHIFT.to(x), s)),
    "rotation, wave": (ROTATION, wave, lambda x, s: damped(s**2) * wave(turned(x))),
    "contraction, wave": (contraction, wave, lambda x, s: damped(s**2 * OU) * wave(x / math.e)),
}


def closed(name: str) -> tuple[TransportProblem, Callable[[Tensor, float], Tensor]]:
    field, terminal, exact = CLOSED[name]
    return TransportProblem(name, field, terminal), exact


@pytest.mark.parametrize("name", CLOSED)
def test_monte_carlo_is_within_its_standard_errors_of_the_closed_form(name: str) -> None:
    problem, exact = closed(name)
    x, sigma, steps = grid(axis(4)), 0.6, 50
    found, error = feynman_kac(problem, x, sigma, paths=1000, steps=steps, seed=3)
    z = (found - exact(x, sigma)).abs()
    bias = 0.0 if "shift" in name else 3 / steps  # Euler's; there is none where F is constant
    assert bool((z <= 4.5 * error + bias + 1e-12).all())  # 16 points: 4.5 happens once in 10,000 tests
    assert bool((error > 0).all())


def test_standard_error_is_that_of_the_mean() -> None:
    problem, _ = closed("shift, linear")
    _, error = feynman_kac(problem, torch.zeros(50, 2, dtype=torch.float64), 0.6, paths=1000, steps=4)
    expected = 0.6 * float(WAVE.norm()) / math.sqrt(1000)
    torch.testing.assert_close(error, torch.full_like(error, expected), rtol=0.1, atol=0)  # 4.5 / sqrt(2000)


def test_many_points_are_computed_in_parts() -> None:
    problem, exact = closed("shift, wave")
    x = grid(axis(190)).float()  # more than move together
    found, error = feynman_kac(problem, x, 0.3, paths=3, steps=1)
    assert found.shape == (190, 190)
    assert found.dtype == torch.float32
    assert abs(float((found - exact(x, 0.3)).mean())) < 5 * float(error.square().mean().sqrt()) / 190


def test_without_noise_a_path_is_eulers() -> None:
    x = grid(axis(3))
    problem = TransportProblem("contraction", contraction, linear)
    found, error = feynman_kac(problem, x, 0.0, steps=5)
    torch.testing.assert_close(found, linear(x) * (1 - 1 / 5) ** 5)
    assert not error.any()


def test_one_seed_one_result() -> None:
    problem, _ = closed("rotation, wave")
    x = grid(axis(3))
    state = torch.get_rng_state()
    first, again, other = (feynman_kac(problem, x, 0.3, paths=20, seed=s)[0] for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)


def grid_error(name: str, sigma: float, nodes: int, scheme: str, margin: float | None = None) -> float:
    problem, exact = closed(name)
    x = axis(nodes)
    found = solve_transport(problem, x, x, sigma, scheme=scheme, margin=margin)  # type: ignore[arg-type]
    return float((found - exact(grid(x), sigma)).abs().max())


@pytest.mark.parametrize(
    ("name", "sigma", "scheme", "order", "nodes"),
    [
        ("rotation, wave", 0.0, "upwind", 1, 17),
        ("shift, gaussian", 0.4, "weno", 2, 17),
        ("contraction, wave", 0.4, "weno", 2, 11),
        ("rotation, wave", 0.0, "weno", 3, 17),
    ],
)
def test_finite_differences_converge_at_their_order(
    name: str, sigma: float, scheme: str, order: int, nodes: int
) -> None:
    coarse, fine = (grid_error(name, sigma, n, scheme) for n in (nodes, 2 * nodes - 1))
    # Not yet the limit: the coarse grids have few nodes to a wave. The first order is reached from below.
    assert math.log2(coarse / fine) > order - 0.35
    assert fine < (0.3 if order == 1 else 0.01)


def test_upwind_keeps_between_the_extremes_of_f() -> None:
    problem = TransportProblem("step", TRANSPORTS["swirl"].field, lambda x: (x[..., 0] > 0).to(x))
    x = axis(25)
    found = solve_transport(problem, x, x, 0.1, scheme="upwind", courant=1.0)
    assert 0.0 <= float(found.min()) < 0.01 < 0.99 < float(found.max()) <= 1.0


def test_upwinds_error_is_the_diffusion_that_it_adds() -> None:
    """To the first order, sigma^2 is larger by |F_1| h along x_1 and by |F_2| h along x_2."""
    problem, _ = closed("shift, wave")
    x = axis(65)
    h = float(x[1] - x[0])
    found = solve_transport(problem, x, x, 0.3, scheme="upwind")
    added = damped(0.3**2) * math.exp(-float((SHIFT.abs() * h * WAVE.square()).sum()) / 2)
    torch.testing.assert_close(found, added * wave(grid(x) + SHIFT), rtol=0, atol=4 * h**2)


def test_the_edge_of_the_domain_does_not_matter() -> None:
    problem, _ = closed("rotation, wave")
    x = axis(17)
    usual = solve_transport(problem, x, x, 0.2)
    larger = solve_transport(problem, x, x, 0.2, margin=2.0)
    smaller = solve_transport(problem, x, x, 0.2, margin=0.0)
    assert float((usual - larger).abs().max()) < 1e-4  # the shorter time steps at the larger |F| count too
    assert float((smaller - larger).abs().max()) > 0.1


def test_a_field_that_jumps_in_time() -> None:
    """First along x_1, then along x_2: both methods follow each for half of the time."""
    ways = torch.tensor([[1.0, 0.0], [0.0, -0.5]], dtype=torch.float64)
    problem = TransportProblem("turn", lambda x, t: ways[int(2 * t)].to(x).expand_as(x), wave, 2)
    x = axis(17)
    exact = damped(0.3**2) * wave(grid(x) + ways.mean(0))
    assert float((solve_transport(problem, x, x, 0.3) - exact).abs().max()) < 0.01
    found, error = feynman_kac(problem, grid(x), 0.3, paths=500, steps=2)
    assert float(((found - exact).abs() / error).max()) < 5.5  # 289 points
    torch.testing.assert_close(feynman_kac(problem, grid(x), 0.0, steps=4)[0], wave(grid(x) + ways.mean(0)))


@pytest.mark.parametrize("sigma", [0.0, 0.1])
def test_the_two_methods_agree(sigma: float) -> None:
    problem, steps = TRANSPORTS["shear"], 64
    x = axis(33)
    (found,) = compute_transport(problem, x, x, [sigma], paths=100, steps=steps, seed=1)
    coarse = solve_transport(problem, axis(17), axis(17), sigma)
    on_the_grid = float(
        (found.finite_differences[::2, ::2] - coarse).abs().max()
    )  # of order 2: more than fine's
    assert bool((found.difference <= 5 * found.standard_error + on_the_grid + 1 / steps).all())
    assert float(found.difference.mean()) < 0.02


def test_stability_of_a_step_is_that_of_the_normal_distribution() -> None:
    """F = 0 and f a step: u is the normal distribution function of x_1 / sigma.

    The largest difference is erf(|d| / (sqrt(8) sigma)), and alpha = 1 where |d| / sigma is small.
    """
    steep = TransportProblem("step", lambda x, t: 0 * x, lambda x: (0.5 + 100 * x[..., 0]).clamp(0, 1))
    x = axis(25, 0.6)
    calls: list[tuple[int, int]] = []
    found = measure_stability(
        steep, x, x, [0.2, 0.4], shifts=(2, 4, 8), progress=lambda *call: calls.append(call)
    )
    expected = torch.erf(found.ratios / math.sqrt(8))
    torch.testing.assert_close(found.differences, expected, rtol=0.03, atol=0)  # h is a quarter of sigma
    assert found.alpha == pytest.approx(1.0, abs=0.03)
    assert found.constant == pytest.approx(1 / math.sqrt(2 * math.pi), rel=0.04)
    assert found.r_squared > 0.998
    assert bool((found.differences <= found.bound * found.ratios**found.alpha + 1e-12).all())
    assert calls == [(1, 2), (2, 2)]


def test_fit_leaves_out_what_is_beyond() -> None:
    x = axis(21)
    found = measure_stability(TRANSPORTS["contraction"], x, x, [0.1, 0.3], shifts=(1, 2, 4), up_to=0.8)
    inside = found.ratios <= 0.8
    assert inside.sum() == 2
    law = found.constant * found.ratios**found.alpha
    torch.testing.assert_close(found.differences[inside], law[inside])  # two points: exactly
    assert found.r_squared == pytest.approx(1.0)


@pytest.mark.parametrize("name", ["rotation", "swirl", "shear"])
def test_a_residual_network_is_of_order_one_in_its_depth(name: str) -> None:
    found = measure_euler(TRANSPORTS[name], grid(axis(5)), [2**k for k in range(1, 9)])
    if name == "shear":  # x_2 does not move, so F is constant along a path, and Euler's steps are exact
        assert max(found.errors) < 1e-12
    else:
        assert found.order == pytest.approx(1.0, abs=0.03)
        assert found.errors[-1] < found.errors[0] / 50


def test_errors_of_depths_are_exact() -> None:
    x = torch.tensor([[1.0, 0.0], [0.0, 2.0]], dtype=torch.float64)
    problem = TransportProblem("contraction", contraction, linear)
    found = measure_euler(problem, x, [2, 4])
    expected = [2 * (math.exp(-1) - (1 - 1 / n) ** n) for n in (2, 4)]
    assert found.errors == pytest.approx(expected, abs=1e-4)  # the reference's: 8 Runge-Kutta steps
    assert EulerErrors([1, 2, 4, 8], [9.0, 3.0, 1.0, 0.5]).order == pytest.approx(1.0)


def test_a_point_network_is_eulers_scheme_of_its_problem() -> None:
    net = PointResNet(depth=4, width=5, seed=2).requires_grad_(False)
    points, labels = two_spirals(10, seed=1)
    problem = net.problem()
    found, _ = feynman_kac(problem, points, 0.0, steps=4)
    torch.testing.assert_close(found, net(points).softmax(1)[:, 1])
    layer = net.residual(points, 3)
    assert torch.equal(problem.field(points, problem.time(3, 4)), layer)
    by_hand = torch.tanh(points @ net.inner[3].T + net.bias[3]) @ net.outer[3].T
    assert torch.equal(layer, by_hand)
    assert problem.field(points.float(), 0.5).dtype == torch.float32
    assert labels.tolist() == [0, 1] * 5


def test_training_separates_the_classes() -> None:
    points, labels = two_spirals(60, turns=0.4)
    state = torch.get_rng_state()
    net = train_point_resnet(points, labels, depth=4, width=8, steps=60, lr=0.05)
    assert torch.equal(torch.get_rng_state(), state)
    assert (net(points).argmax(1) == labels).double().mean() > 0.95
    assert not any(weight.requires_grad for weight in net.parameters())


def test_spirals_are_where_they_should_be() -> None:
    points, labels = two_spirals(200, turns=1.0, noise=0.0)
    radius = points.norm(dim=1) / 1.2
    angle = torch.atan2(points[:, 1], points[:, 0])
    torch.testing.assert_close(
        torch.cos(angle - 2 * math.pi * radius - math.pi * labels), torch.ones(200).double()
    )
    assert 0.1 <= float(radius.min()) < float(radius.max()) <= 1.0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_device_follows_the_tensors() -> None:
    points, labels = two_spirals(40)
    net = train_point_resnet(points.cuda(), labels.cuda(), depth=2, steps=5)
    on_gpu, x = net.problem(), axis(17)
    (found,) = compute_transport(on_gpu, x.cuda(), x.cuda(), [0.1], paths=100, steps=4)
    on_cpu = solve_transport(net.cpu().problem(), x, x, 0.1, margin=1.0)
    assert found.monte_carlo.is_cuda
    assert found.finite_differences.is_cuda
    torch.testing.assert_close(found.finite_differences.cpu(), on_cpu, rtol=0, atol=1e-3)  # other edges
    stability = measure_stability(TRANSPORTS["shear"], x.cuda(), x.cuda(), [0.5])
    assert stability.differences.is_cuda
    assert measure_euler(TRANSPORTS["swirl"], grid(x).cuda(), [64, 128]).order == pytest.approx(1.0, abs=0.1)


X, P = axis(9), TransportProblem("shift", shift, wave, 2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: TransportProblem("a", shift, wave, 0), "TransportProblem: pieces must be >= 1, got 0"),
        (lambda: feynman_kac(P, grid(X), -0.1), "feynman_kac: sigma must be in [0, inf), got -0.1"),
        (lambda: feynman_kac(P, grid(X), 0.1, paths=1), "feynman_kac: paths must be >= 2, got 1"),
        (lambda: feynman_kac(P, grid(X), 0.1, steps=3), "feynman_kac: steps must be a multiple of 2, "),
        (lambda: feynman_kac(P, grid(X), 0.1, steps=0), "feynman_kac: steps must be >= 1, got 0"),
        (lambda: solve_transport(P, X, X, math.nan), "solve_transport: sigma must be in [0, inf), got nan"),
        (lambda: solve_transport(P, X, X, 0.1, courant=1.5), "solve_transport: courant must be in (0, 1]"),
        (lambda: solve_transport(P, X, X, 0.1, scheme="eno"), "solve_transport: scheme must be 'weno' or"),  # type: ignore[arg-type]
        (lambda: solve_transport(P, X, X, 0.1, margin=-1.0), "solve_transport: margin must be in [0, inf)"),
        (lambda: solve_transport(P, X[:1], X, 0.1), "solve_transport: x must be (n,) with n >= 2, got (1,)"),
        (lambda: solve_transport(P, X, X**3, 0.1), "solve_transport: y must increase in equal steps"),
        (lambda: solve_transport(P, X, X.flip(0), 0.1), "solve_transport: y must increase in equal steps"),
        (
            lambda: solve_transport(P, X, X, 0.1, margin=1000.0),
            "solve_transport: the paths lead to a domain of 8009 x 8009 nodes, more than 4,000,000",
        ),
        (
            lambda: solve_transport(TransportProblem("a", lambda x, t: x / 0, wave), X, X, 0.1),
            "solve_transport: the paths of a are not finite",
        ),
        (lambda: measure_stability(P, X, X, [0.0]), "measure_stability: sigmas must be in (0, 1], got 0.0"),
        (lambda: measure_stability(P, X, X, [0.5], up_to=0), "measure_stability: up_to must be in (0, inf)"),
        (
            lambda: measure_stability(P, X, X, [0.5], shifts=(9,)),
            "measure_stability: shifts must be >= 1 and ",
        ),
        (lambda: measure_stability(P, X, 2 * X, [0.5]), "measure_stability: x and y must have the same spac"),
        (lambda: measure_stability(P, X, X, [0.5], shifts=(8,)), "measure_stability: no law can be fitted"),
        (lambda: measure_euler(P, grid(X), [4]), "measure_euler: depths must be at least two, got [4]"),
        (lambda: measure_euler(P, grid(X), [4, 5]), "measure_euler: steps must be a multiple of 2, "),
        (lambda: PointResNet(depth=0), "PointResNet: depth must be >= 1, got 0"),
        (lambda: two_spirals(1), "two_spirals: count must be >= 2, got 1"),
        (lambda: two_spirals(turns=0.0), "two_spirals: turns must be in (0, inf), got 0.0"),
        (lambda: two_spirals(noise=-1.0), "two_spirals: noise must be in [0, inf), got -1.0"),
        (lambda: train_point_resnet(grid(X), X, steps=1), "train_point_resnet: steps must be >= 2, got 1"),
        (lambda: train_point_resnet(grid(X), X, lr=0.0), "train_point_resnet: lr must be in (0, inf)"),
        (lambda: train_point_resnet(grid(X), X, energy=-1), "train_point_resnet: energy must be in [0, inf)"),
    ],
)
def test_what_is_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 the whole message follows
        call()
    assert str(caught.value).startswith(message)
