import math
import shutil
import struct
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_optreg.__main__ import main as program
from lightning_optreg.analysis.surfaces import SURFACES, Surface
from lightning_optreg.analysis.trajectories import follow, is_cut
from lightning_optreg.commands import plot
from lightning_optreg.commands.plot.named_optimizer import METHODS, STEPS, known_optimizers, read_optimizer
from lightning_optreg.figures import animate_surface, draw_surface
from lightning_optreg.figures.optimizer_paths import _cut_to_window

ALL = sorted(SURFACES)


def gradient(surface: Surface, point: tuple[float, float]) -> torch.Tensor:
    x = torch.tensor(point, dtype=torch.float64, requires_grad=True)
    return torch.autograd.grad(surface.function(*x), x)[0]


@pytest.mark.parametrize("name", ALL)
def test_minima_and_saddle_points_are_stationary(name: str) -> None:
    surface = SURFACES[name]
    assert surface.minima or surface.saddle_points
    for point in (*surface.minima, *surface.saddle_points):
        x = torch.tensor(point, dtype=torch.float64)
        assert surface.function(*x).item() == pytest.approx(0.0, abs=1e-25)
        assert gradient(surface, point).abs().max() < 1e-12
        eigenvalues = torch.linalg.eigvalsh(
            torch.autograd.functional.hessian(lambda p: SURFACES[name].function(*p), x)
        )
        assert (eigenvalues[0] > 0) == (point in surface.minima)


@pytest.mark.parametrize("name", ALL)
def test_nothing_in_the_window_is_below_the_minima(name: str) -> None:
    surface = SURFACES[name]
    x_from, x_to, y_from, y_to = surface.window
    for point in (*surface.minima, surface.start):
        assert x_from < point[0] < x_to
        assert y_from < point[1] < y_to
    x, y = torch.meshgrid(torch.linspace(x_from, x_to, 99), torch.linspace(y_from, y_to, 99), indexing="xy")
    values = surface.function(x.double(), y.double())
    assert values.shape == (99, 99)
    assert bool(values.min() >= -1e-12) == bool(surface.minima)


def test_surfaces_by_hand() -> None:
    x = torch.tensor([2.0, -1.0], dtype=torch.float64)
    by_hand = {  # Beale: 1.5 - 2 - 2 = -2.5; 2.25 - 2 + 2 = 2.25; 2.625 - 2 - 2 = -1.375
        "beale": 2.5**2 + 2.25**2 + 1.375**2,
        "rosenbrock": 1 + 100 * 5**2,
        "saddle": 3,
        "ravine": 1.2,
        "himmelblau": (4 - 1 - 11) ** 2 + (2 + 1 - 7) ** 2,
        "rastrigin": 5,
    }
    assert {name: surface.function(*x).item() for name, surface in SURFACES.items()} == pytest.approx(by_hand)


@pytest.mark.parametrize("name", ["ravine", "beale"])
def test_of_nesterovs_method_theta_is_followed_not_the_point_ahead(name: str) -> None:
    """v = gamma v + eta grad J(theta - gamma v), theta = theta - v, by hand."""
    surface, eta, gamma = SURFACES[name], 1e-3, 0.9
    theta = torch.tensor(surface.start, dtype=torch.float64)
    v, wanted = torch.zeros(2, dtype=torch.float64), [theta]
    for _ in range(30):
        ahead = theta - gamma * v
        v = gamma * v + eta * gradient(surface, (float(ahead[0]), float(ahead[1])))
        theta = theta - v
        wanted.append(theta)
    got = follow(surface, read_optimizer(f"NAG:lr={eta},momentum={gamma}", name), 30)
    torch.testing.assert_close(got, torch.stack(wanted), rtol=1e-10, atol=1e-10)


def test_gradient_descent_on_a_quadratic_is_the_closed_form() -> None:
    rate, steps = 0.9, 50
    points = follow(SURFACES["ravine"], lambda params: torch.optim.SGD(params, lr=rate), steps)
    k = torch.arange(steps + 1, dtype=torch.float64)
    expected = torch.stack([-8.0 * (1 - rate / 10) ** k, 2.5 * (1 - 2 * rate) ** k], dim=1)
    assert points.dtype == torch.float64
    torch.testing.assert_close(points, expected, rtol=1e-12, atol=1e-12)


def test_a_newton_step_solves_a_quadratic() -> None:
    points = follow(SURFACES["ravine"], read_optimizer("Newton:damping=0.0", "ravine"), 2)
    torch.testing.assert_close(points[-1], torch.zeros(2, dtype=torch.float64), rtol=0, atol=1e-10)


def test_a_diverging_run_is_cut_where_it_left() -> None:
    points = follow(SURFACES["ravine"], lambda params: torch.optim.SGD(params, lr=2.0), 40)
    assert is_cut(points)
    assert points.shape == (41, 2)
    good = ~points.isnan().any(dim=1)
    last = int(good.nonzero()[-1])
    assert bool(good[: last + 1].all())
    assert not good[last + 1 :].any()
    # y is multiplied by -3; the middle is (-3, 0), the window 14 x 8
    reach = 100 * math.hypot(14, 8) / 2
    assert math.hypot(points[last, 0] + 3, points[last, 1]) <= reach < 2.5 * 3 ** (last + 1)


@pytest.mark.slow
def test_default_rates_reach_what_the_pictures_show() -> None:
    for surface, steps in STEPS.items():
        for method in METHODS:
            points = follow(SURFACES[surface], read_optimizer(method, surface), steps)
            assert is_cut(points) <= (surface == "saddle"), (surface, method)
    beale = {
        method: follow(SURFACES["beale"], read_optimizer(method, "beale"), STEPS["beale"])
        for method in METHODS
    }
    # As in the lecture's figure: momentum is led astray below, the adaptive methods are not.
    lowest = {method: points[:, 1].min().item() for method, points in beale.items()}
    assert max(lowest["Momentum"], lowest["NAG"]) < -0.5 < 0.0 < min(lowest["Adagrad"], lowest["RMSprop"])
    left = {
        method: bool((follow(SURFACES["saddle"], read_optimizer(method, "saddle"), 100)[:, 1] < -2).any())
        for method in METHODS
    }
    assert left == {method: method != "SGD" for method in METHODS}


def test_steps_must_be_positive() -> None:
    with pytest.raises(ValueError, match="steps must be >= 1, got 0"):
        follow(SURFACES["beale"], torch.optim.SGD, 0)


def test_words_name_optimizers() -> None:
    assert read_optimizer("momentum", "beale").options == {"momentum": 0.9, "lr": 2e-3}
    for text in (
        "Adam:lr=0.5,betas=(0.5,0.9)",
        "adam(lr=0.5, betas=(0.5, 0.9))",
        "Adam:lr=0.5, betas=(0.5,0.9)",
    ):
        read = read_optimizer(text, "saddle")
        assert read.make is torch.optim.Adam
        assert read.options == {"lr": 0.5, "betas": (0.5, 0.9)}
        assert read.label == text
    assert read_optimizer("Adam", "saddle").label == "Adam, lr 0.05"  # the rate that was tuned
    assert read_optimizer("LBFGS", "saddle").label == "LBFGS, lr 1"  # the class's own
    assert read_optimizer("SGD:momentum=0.5", "saddle").label == "SGD:momentum=0.5, lr 0.01"
    assert read_optimizer("SGD:lr=0.5", "saddle").label == "SGD:lr=0.5"
    assert set(METHODS) <= set(known_optimizers())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Adan", "unknown optimizer 'Adan'; did you mean Adam"),
        ("qqq", "unknown optimizer 'qqq'; known: "),
        ("Adam:beta=1", "Adam has no option 'beta'; did you mean betas"),
        ("Adam:lr=__import__('os').getpid()", "cannot read the optimizer"),
        ("Adam:lr=", "cannot read the optimizer"),
        ("Adam(0.1)", "cannot read the optimizer"),
        ("Adam(**{'lr': 1})", "cannot read the optimizer"),
        ("os.Adam(lr=1)", "cannot read the optimizer"),
        ("", "cannot read the optimizer"),
    ],
)
def test_wrong_words(text: str, message: str) -> None:
    with pytest.raises(ValueError, match="^" + message.replace("(", r"\(")):
        read_optimizer(text, "beale")


def test_figure_shows_the_ways() -> None:
    points = torch.tensor([[-8.0, 2.5], [-7.0, 1.0], [float("nan"), float("nan")]])
    figure = draw_surface(SURFACES["ravine"], {"a": points, "b": points[:2]})
    lines = {str(line.get_label()): line for line in figure.axes[0].get_lines()}
    assert lines["a"].get_xydata().tolist() == [[-8.0, 2.5], [-7.0, 1.0]]
    assert lines["b"].get_xydata().tolist() == [[-8.0, 2.5], [-7.0, 1.0]]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "a, 2 steps (diverged in step 2)",
        "b, 1 steps",
    ]
    assert draw_surface(SURFACES["ravine"], {"a": points}).legends[0].get_title().get_text() == "2 steps"


def test_losses_stand_beside_the_surface() -> None:
    points = torch.tensor([[-8.0, 2.5], [-6.0, 1.0], [0.0, 0.0], [float("nan"), float("nan")]])
    _, axes = draw_surface(SURFACES["ravine"], {"a": points, "b": points[:2]}).axes
    lines = [line.get_xydata().tolist() for line in axes.get_lines() if line.get_linewidth() > 1.7]
    by_hand = [[0.0, 64 / 20 + 6.25], [1.0, 36 / 20 + 1.0], [2.0, 0.0]]
    assert np.allclose(lines[0], by_hand)  # without the row of NaN
    assert np.allclose(lines[1], by_hand[:2])
    assert axes.get_yscale() == "log"
    low, high = axes.get_ylim()
    assert 0 < low < 2.8 < 9.45 < high
    assert axes.get_xlim() == (0.0, 3.0)
    # there is no minimum: the axis ends where the surface's window does
    _, linear = draw_surface(SURFACES["saddle"], {"a": points[2:3]}).axes
    assert linear.get_yscale() == "linear"
    assert linear.get_ylim()[0] == -4.0


@pytest.mark.parametrize("count", [2, 3, 7, 12])
def test_no_path_is_hidden_under_another(count: int) -> None:
    """All paths are the same: of each, pixels are seen, and no two have one colour and one mark."""
    points = torch.stack([torch.linspace(-8, 0, 41), torch.linspace(2.5, 0, 41)], dim=1)
    figure = draw_surface(SURFACES["ravine"], {str(number): points for number in range(count)})
    axes = figure.axes[0]
    lines = {str(line.get_label()): line for line in axes.get_lines()}
    paths = [lines[str(number)] for number in range(count)]
    solid, dashed = paths[::2], paths[1::2]
    assert all(line.get_linestyle() == "-" for line in solid)
    assert all(line.get_linestyle() == "--" for line in dashed)
    for group in (solid, dashed):
        widths = [line.get_linewidth() for line in group]
        assert widths == sorted(set(widths), reverse=True)
        orders = [line.get_zorder() for line in group]
        assert orders == sorted(set(orders))
    assert max(line.get_zorder() for line in solid) < min(line.get_zorder() for line in dashed)
    marks = [line for line in axes.get_lines() if line.get_marker() != "None" and 11 < line.get_zorder() < 20]
    assert len(marks) == count
    assert len({(line.get_color(), line.get_marker()) for line in marks}) == count
    assert min(line.get_zorder() for line in marks) > max(line.get_zorder() for line in paths)
    if count <= 7:  # the marks of each at steps of its own
        steps = [{tuple(row) for row in line.get_xydata().tolist()} for line in marks]
        assert sum(map(len, steps)) == len(set().union(*steps))


def test_figure_in_space_has_the_height_of_the_surface() -> None:
    points = torch.tensor([[1.0, 0.5], [0.5, 1.0]])
    axes, _ = draw_surface(SURFACES["saddle"], {"a": points}, "3d").axes
    (line,) = [line for line in axes.get_lines() if line.get_label() == "a"]
    assert [list(values) for values in line.get_data_3d()] == [[1.0, 0.5], [0.5, 1.0], [0.75, -0.75]]  # type: ignore[attr-defined]


def test_ways_in_space_end_on_the_border() -> None:
    window = (-2.0, 2.0, -1.0, 1.0)
    points = torch.tensor([[0.0, 0.0], [1.0, 0.5], [3.0, 1.0], [0.0, 0.0]])
    assert _cut_to_window(points, window).tolist() == [[0.0, 0.0], [1.0, 0.5], [2.0, 0.75]]
    assert _cut_to_window(points[:2], window).tolist() == points[:2].tolist()
    assert _cut_to_window(points[2:], window).shape == (0, 2)


@pytest.mark.parametrize("points", [torch.zeros(3), torch.zeros(3, 3), torch.zeros(0, 2)])
def test_figure_refuses_other_shapes(points: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"must be \(steps \+ 1, 2\)"):
        draw_surface(SURFACES["beale"], {"a": points})


def test_figure_refuses_nothing() -> None:
    with pytest.raises(ValueError, match="no trajectories"):
        draw_surface(SURFACES["beale"], {})
    with pytest.raises(ValueError, match="frames must be >= 2, got 1"):
        animate_surface(SURFACES["beale"], {"a": torch.zeros(3, 2)}, frames=1)


def draw(*words: str) -> int:
    return program(["plot", "surface", *words])


def test_still_pictures_open(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    png, svg, pdf = (tmp_path / "new" / f"a.{ending}" for ending in ("png", "svg", "pdf"))
    for path in (png, svg, pdf):
        assert draw("--steps", "5", "--dpi", "40", "--output", str(path)) == 0
        assert capsys.readouterr().out.splitlines() == [str(path)]
    with Image.open(png) as image:
        assert image.size == (456, 236)
    assert ET.parse(svg).getroot().tag.endswith("svg")
    assert pdf.read_bytes()[:5] == b"%PDF-"
    assert sorted(path.name for path in png.parent.iterdir()) == ["a.pdf", "a.png", "a.svg"]


def test_film_has_a_frame_for_each_step(tmp_path: Path) -> None:
    path = tmp_path / "a.gif"
    words = ("--surface", "ravine", "--optimizers", "SGD", "Adam:lr=0.5", "--steps", "6", "--dpi", "30")
    assert draw(*words, "--fps", "10", "--output", str(path)) == 0
    with Image.open(path) as image:
        frames = getattr(image, "n_frames", 1)
        total = 0
        for number in range(frames):
            image.seek(number)
            total += image.info["duration"]
    assert frames >= 7  # the start and 6 steps; equal pictures at the end may be one that stays longer
    assert total == 8 * 100


def test_film_keeps_the_colours_of_thin_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.gif"
    assert draw("--surface", "saddle", "--steps", "4", "--dpi", "80", "--output", str(path)) == 0
    with Image.open(path) as image:
        for number in range(getattr(image, "n_frames", 1)):
            image.seek(number)
            pixels = np.asarray(image.convert("RGB"), dtype=int)[-90:]  # the legend
            assert image.convert("RGB").getpixel((0, 0)) == (255, 255, 255)
            for color in ("#D55E00", "#009E73", "#CC79A7", "#0072B2", "#E69F00", "#56B4E9", "#4D4D4D"):
                wanted = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)])
                assert np.abs(pixels - wanted).sum(axis=-1).min() < 24, (number, color)


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="writing MP4 needs the program ffmpeg")
def test_mp4(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    assert draw("--steps", "3", "--dpi", "40", "--output", str(path)) == 0
    size, kind = struct.unpack(">I4s", path.read_bytes()[:8])
    assert kind == b"ftyp"
    assert size < path.stat().st_size


def test_mp4_without_ffmpeg(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert draw("--output", str(tmp_path / "a.mp4")) == 2
    assert capsys.readouterr().err == (
        f"error: --output {tmp_path}/a.mp4: the program ffmpeg is not installed; a .gif needs none\n"
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "--output FILE is missing"),
        (["--output", "a.bmp"], "--output must end in .png, .svg, .pdf, .gif, .mp4, got a.bmp"),
        (["--surface", "bealy", "--output", "a.png"], "--surface: invalid choice: 'bealy'"),
        (["--step", "3", "--output", "a.png"], "unknown option --step; did you mean --steps?"),
        (["--steps", "0", "--output", "a.png"], "--steps must be >= 1, got 0"),
        (["--steps", "x", "--output", "a.png"], "--steps: invalid int value: 'x'"),
        (["--optimizers", "Adan", "--output", "a.png"], "--optimizers: unknown optimizer 'Adan'"),
        (
            ["--optimizers", "Adam:lr=-1", "--output", "a.png"],
            "--optimizers Adam:lr=-1: Invalid learning rate",
        ),
        (["--optimizers", "SparseAdam", "--output", "a.png"], "--optimizers SparseAdam: "),
        (["--output", "/dev/null/a.png", "--steps", "1"], "/dev/null"),
    ],
)
def test_mistakes_are_one_line(
    words: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert draw(*words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"error: {message}")
    assert captured.err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_kinds(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert plot.main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(kind in out for kind in ("surface", "dynamics", "landscape"))
    assert plot.main([]) == 2
    assert "surface, dynamics, landscape" in capsys.readouterr().err
    assert plot.main(["surfaces"]) == 2
    assert capsys.readouterr().err == "error: unknown kind of picture 'surfaces'; did you mean surface?\n"
    assert plot.main(["xyz"]) == 2
    assert "known: surface, dynamics, landscape" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["plot", "--halp"])
    assert plot.main() == 2
    assert capsys.readouterr().err.startswith("error: unknown option '--halp'")
