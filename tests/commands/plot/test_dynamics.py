import math
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy.special import j1

from lightning_optreg.__main__ import main as program
from lightning_optreg.analysis.deviations import compute_dynamics, deviation, fitted_order
from lightning_optreg.analysis.odes import Method, Problem, first_time, iterates, solve_ode
from lightning_optreg.figures import draw_dynamics

Array = NDArray[np.float64]
PROBLEM = Problem((0.1, 2.0), (1.0, -0.5))
METHODS: tuple[Method, ...] = ("heavy_ball", "nag_sc", "nag_c")
STEPS = [0.01 / 4**i for i in range(4)]
TIME = 8.0


def oscillator(friction: Array, pull: Array, x_0: Array, v_0: Array) -> Array:
    """X'' + 2 c X' + w X = 0 at TIMES, each coordinate by the roots of r^2 + 2 c r + w."""
    root = np.sqrt((friction**2 - pull).astype(complex))
    r_1, r_2 = -friction + root, -friction - root
    b = (v_0 - r_1 * x_0) / (r_2 - r_1)
    t = TIMES[:, None]
    return np.real((x_0 - b) * np.exp(r_1 * t) + b * np.exp(r_2 * t))


TIMES = np.linspace(0.0, 20.0, 41)
EIGENVALUES, X_0 = np.array(PROBLEM.eigenvalues), np.array(PROBLEM.start)


def test_low_resolution_is_a_damped_oscillator() -> None:
    expected = oscillator(np.full(2, math.sqrt(0.1) + 1e-9), EIGENVALUES, X_0, np.zeros(2))
    for method in ("heavy_ball", "nag_sc"):
        found = solve_ode(PROBLEM, method, 0.3, TIMES, resolution="low")  # type: ignore[arg-type]
        np.testing.assert_allclose(found, expected, atol=1e-7)  # the first coordinate is critically damped


@pytest.mark.parametrize("velocity", ["paper", "matched"])
@pytest.mark.parametrize("method", ["heavy_ball", "nag_sc"])
def test_high_resolution_is_a_damped_oscillator(method: Method, velocity: str) -> None:
    s, mu = 0.04, 0.1
    correction = math.sqrt(s) * EIGENVALUES if method == "nag_sc" else np.zeros(2)
    v_0 = -2 * math.sqrt(s) * EIGENVALUES * X_0 / (1 + math.sqrt(mu * s))
    if velocity == "matched":
        v_0 += math.sqrt(s) / 2 * EIGENVALUES * X_0
    pull = (1 + math.sqrt(mu * s)) * EIGENVALUES
    expected = oscillator(math.sqrt(mu) + correction / 2, pull, X_0, v_0)
    found = solve_ode(PROBLEM, method, s, TIMES, resolution="high", velocity=velocity)  # type: ignore[arg-type]
    np.testing.assert_allclose(found, expected, atol=1e-9)


def test_low_resolution_of_nag_c_is_a_bessel_function() -> None:
    # X = x_0 2 J_1(w t) / (w t), w = sqrt(lambda): Su, Boyd and Candes 2016, section 3.2.
    found = solve_ode(PROBLEM, "nag_c", 0.3, TIMES, resolution="low")
    wt = np.sqrt(EIGENVALUES) * TIMES[1:, None]
    np.testing.assert_allclose(found[1:], X_0 * 2 * j1(wt) / wt, atol=1e-8)
    np.testing.assert_array_equal(found[0], X_0)


def test_high_resolution_of_nag_c_fulfils_its_equation() -> None:
    s, h = 0.04, 1e-3
    times = np.arange(0.0, 5.0, h)
    x = solve_ode(PROBLEM, "nag_c", s, times, resolution="high")
    t = (1.5 * math.sqrt(s) + times)[1:-1, None]
    v, a = (x[2:] - x[:-2]) / (2 * h), (x[2:] - 2 * x[1:-1] + x[:-2]) / h**2
    left = (
        a + 3 / t * v + math.sqrt(s) * EIGENVALUES * v + (1 + 1.5 * math.sqrt(s) / t) * EIGENVALUES * x[1:-1]
    )
    assert (
        np.abs(left).max() < 2e-4
    )  # differences err by h^2 times the fourth derivative, and by rounding / h^2
    np.testing.assert_allclose((x[1] - x[0]) / h, -math.sqrt(s) * EIGENVALUES * X_0, atol=2 * h)


@pytest.mark.parametrize("step", [0.3, 0.01])
def test_iterates_are_the_paper_s_recursions(step: float) -> None:
    s, mu = step, 0.1
    a = (1 - math.sqrt(mu * s)) / (1 + math.sqrt(mu * s))

    def gradient(x: NDArray[np.float64]) -> NDArray[np.float64]:
        return EIGENVALUES * x

    first = X_0 - 2 * s * gradient(X_0) / (1 + math.sqrt(mu * s))
    ball, nag = [X_0, first], [X_0, first]
    for _ in range(59):
        ball.append(ball[-1] + a * (ball[-1] - ball[-2]) - s * gradient(ball[-1]))
        change = gradient(nag[-1]) - gradient(nag[-2])
        nag.append(nag[-1] + a * (nag[-1] - nag[-2]) - s * gradient(nag[-1]) - a * s * change)
    x, y, convex = X_0, X_0, [X_0]
    for k in range(60):
        last, y = y, x - s * gradient(x)
        x = y + k / (k + 3) * (y - last)
        convex.append(x)
    for method, expected in zip(METHODS, (ball, nag, convex), strict=True):
        np.testing.assert_allclose(iterates(PROBLEM, method, s, 60), np.array(expected), rtol=0, atol=1e-13)


def order(method: Method, equation: Method, resolution: str, velocity: str = "paper") -> float:
    return fitted_order(
        STEPS,
        [
            deviation(
                PROBLEM,
                method,
                s,
                TIME,
                equation=equation,
                resolution=resolution,
                velocity=velocity,  # type: ignore[arg-type]
            )
            for s in STEPS
        ],
    )


@pytest.mark.parametrize("method", METHODS)
def test_distance_from_the_low_resolution_is_of_order_one_half(method: Method) -> None:
    assert order(method, method, "low") == pytest.approx(0.5, abs=0.03)


def test_distance_from_the_own_high_resolution_is_of_order_one() -> None:
    assert order("heavy_ball", "heavy_ball", "high", "matched") == pytest.approx(1.0, abs=0.05)
    assert order("nag_sc", "nag_sc", "high", "matched") == pytest.approx(1.0, abs=0.05)
    assert order("nag_c", "nag_c", "high") == pytest.approx(1.0, abs=0.05)


def test_the_paper_s_initial_velocity_costs_half_an_order() -> None:
    assert order("heavy_ball", "heavy_ball", "high") == pytest.approx(0.5, abs=0.05)
    assert order("nag_sc", "nag_sc", "high") == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("step", [*STEPS[:2], *(pytest.param(h, marks=pytest.mark.slow) for h in STEPS[2:])])
@pytest.mark.parametrize(("method", "other"), [("heavy_ball", "nag_sc"), ("nag_sc", "heavy_ball")])
def test_high_resolution_tells_heavy_ball_from_nag(method: Method, other: Method, step: float) -> None:
    def distance(equation: Method, resolution: str) -> float:
        return deviation(PROBLEM, method, step, TIME, equation=equation, resolution=resolution)  # type: ignore[arg-type]

    assert distance(method, "low") == distance(other, "low")
    assert distance(method, "high") < 0.7 * distance(other, "high")
    assert distance(method, "high") < 0.7 * distance(method, "low")


def test_times() -> None:
    assert [first_time(method, 0.04, "low") for method in METHODS] == [0.0, 0.0, 0.0]
    assert [first_time(method, 0.04, "high") for method in METHODS] == pytest.approx([0.0, 0.0, 0.3])


@pytest.mark.parametrize(
    ("eigenvalues", "start", "message"),
    [
        ((0.0, 1.0), (1.0, 1.0), "eigenvalues must be in"),
        ((math.nan, 1.0), (1.0, 1.0), "eigenvalues must be in"),
        ((1.0, 1.0), (1.0, math.inf), "start must be finite"),
        ((1.0,), (1.0, 1.0), "must have one length"),
    ],
)
def test_problem_refuses(eigenvalues: tuple[float, ...], start: tuple[float, ...], message: str) -> None:
    with pytest.raises(ValueError, match=f"^Problem: .*{message}"):
        Problem(eigenvalues, start)


def test_figure_shows_the_values() -> None:
    dynamics = compute_dynamics(PROBLEM, "nag_sc", 0.1, 2.0, [0.1, 0.025])
    plane, loss, distances = draw_dynamics([dynamics]).axes
    (points,) = [line for line in plane.get_lines() if str(line.get_label()).startswith("iterates")]
    np.testing.assert_array_equal(points.get_xydata(), dynamics.iterates)
    np.testing.assert_array_equal(loss.get_lines()[-1].get_ydata(), dynamics.gaps)
    assert [line.get_ydata().tolist() for line in distances.get_lines()] == [  # type: ignore[union-attr]
        list(values) for values in dynamics.deviations.values()
    ]
    assert len(dynamics.times) == len(dynamics.iterates) == math.floor(2.0 / math.sqrt(0.1)) + 1
    with pytest.raises(ValueError, match="nothing to draw"):
        draw_dynamics([])


def test_command_writes_a_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.png"
    words = ("--eigenvalues", "0.5", "1", "--start", "1", "-1", "--step", "0.5", "--time", "3", "--dpi", "30")
    assert program(["plot", "dynamics", *words, "--output", str(path)]) == 0
    assert capsys.readouterr().out == f"{path}\n"
    with Image.open(path) as image:
        assert image.size == (390, 366)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "--output FILE is missing"),
        (["--output", "a.gif"], "--output must end in .png, .svg, .pdf, got a.gif"),
        (
            ["--output", "a.png", "--step", "0.6"],
            "--step must be in (0, 0.5], one over the",
        ),
        (["--output", "a.png", "--step", "nan"], "--step must be in (0, 0.5]"),
        (["--output", "a.png", "--eigenvalues", "0", "1"], "--eigenvalues must be in (0, inf), got 0.0 1.0"),
        (["--output", "a.png", "--start", "0", "0"], "--start must be finite and not the minimum"),
        (["--output", "a.png", "--time", "0"], "--time must be"),
        (["--output", "a.png", "--dpi", "0"], "--dpi must be >= 1, got 0"),
        (
            ["--output", "a.png", "--eigenvalue", "1", "2"],
            "unknown option --eigenvalue; did you mean",
        ),
    ],
)
def test_mistakes_are_one_line(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert program(["plot", "dynamics", *words]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"error: {message}")
    assert captured.err.count("\n") == 1


def documented() -> list[str]:
    page = (Path(__file__).parents[3] / "docs" / "plot.md").read_text()
    blocks = "".join(re.findall(r"^```shell\n(.*?)^```", page, re.M | re.S)).replace("\\\n", " ")
    commands = [line.removeprefix("python -m lightning_optreg ") for line in blocks.splitlines()]
    return [line for line in commands if line.startswith(("plot surface ", "plot dynamics "))]


@pytest.mark.parametrize("command", documented())
def test_documented_commands_run(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = shlex.split(command)
    shorter = ["--time", "1"] if words[1] == "dynamics" else ["--steps", "2"]
    assert program([*words, *shorter, "--dpi", "30"]) == 0
    assert (tmp_path / words[words.index("--output") + 1]).stat().st_size > 0
