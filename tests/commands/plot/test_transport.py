import re
import shlex
from functools import partial
from pathlib import Path

import pytest
import torch
from PIL import Image

from lightning_optreg.__main__ import main as program
from lightning_optreg.analysis import TRANSPORTS, train_point_resnet, transport_problems
from lightning_optreg.commands.plot.transport import _FIELDS

SMALL = ("--grid", "17", "--dpi", "30")


def run(*words: str, output: Path) -> None:
    assert program(["plot", "transport", *SMALL, *words, "--output", str(output)]) == 0


def test_solution_is_drawn_and_its_agreement_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, threads = tmp_path / "a.png", torch.get_num_threads()
    run("--field", "contraction", "--sigmas", "0", "0.2", "--paths", "100", "--steps", "20", output=path)
    assert torch.get_num_threads() == threads
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == str(path)
    rows = [[float(cell) for cell in line.split()] for line in lines[2:4]]
    assert [row[0] for row in rows] == [0.0, 0.2]
    assert rows[0][3:] == [0.0, 0.0]
    for _, largest, mean, error, mean_error in rows:
        assert mean <= largest <= 0.1 + 5 * error  # few nodes and few steps
        assert mean_error <= error
    assert lines[4].startswith("40 instead of 20 steps of the paths, at sigma 0, change u by 0.0")
    with Image.open(path) as image:
        assert image.size == (225, 207)


@pytest.fixture
def quick_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport_problems, "train_point_resnet", partial(train_point_resnet, steps=5))


@pytest.mark.usefixtures("quick_training")
def test_a_trained_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--depth", "2", "--steps", "4", "--paths", "4", "--sigmas", "0.01", "--seed", "1")
    run(*words, output=tmp_path / "a.png")
    first, *others = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"trained on two spirals: 400 points, [\d.]+% of them classified correctly", first)
    assert [line.split()[0] for line in others] == ["Monte", "sigma", "0.01", "8", str(tmp_path / "a.png")]


def test_stability_is_fitted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.svg"
    run("--field", "rotation", "--view", "stability", "--sigmas", "0.5", output=path)
    head, *rows, law, bound, file = capsys.readouterr().out.splitlines()
    assert head.split() == ["sigma", "|d|", "|d|/sigma", "largest", "difference"]
    assert [row.split()[:2] for row in rows] == [["0.5", d] for d in ("0.1875", "0.375", "0.75", "1.5")]
    alpha, c = map(float, re.findall(r"(?:alpha|C) = ([\d.]+)", law))
    assert 0.7 < alpha < 1.05
    assert float(bound.rpartition(" = ")[2]) >= c
    assert file == str(path)


def test_order_of_the_depth(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("--field", "rotation", "--view", "euler", output=tmp_path / "a.pdf")
    _, *rows, order, _ = capsys.readouterr().out.splitlines()
    assert [int(row.split()[0]) for row in rows] == [2**k for k in range(1, 9)]
    assert float(order.rpartition(" ")[2]) == pytest.approx(1.0, abs=0.03)


def test_all_given_fields_can_be_named() -> None:
    assert set(_FIELDS) == {"trained", *TRANSPORTS}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "--output FILE is missing"),
        (["--output", "a.gif"], "--output must end in .png, .svg, .pdf, got a.gif"),
        (["--field", "vortex"], "--field: invalid choice: 'vortex'"),
        (["--view", "3d"], "--view: invalid choice: '3d'"),
        (["--paths", "1"], "--paths must be >= 2, got 1"),
        (["--paths", "many"], "--paths: invalid int value: 'many'"),
        (["--steps", "0"], "--steps must be >= 1, got 0"),
        (["--steps", "25"], "--steps must be a multiple of --depth 10, got 25"),
        (["--grid", "16"], "--grid must be >= 17, got 16"),
        (["--depth", "0"], "--depth must be >= 1, got 0"),
        (["--seed", "-1"], "--seed must be >= 0, got -1"),
        (["--dpi", "0"], "--dpi must be >= 1, got 0"),
        (["--sigmas", "0", "-0.1"], "--sigmas must be in [0, 1], got 0 -0.1"),
        (["--sigmas", "nan"], "--sigmas must be in [0, 1], got nan"),
        (["--view", "stability", "--sigmas", "0"], "--sigmas must be in (0, 1] for --view stability, got 0"),
        (["--view", "euler", "--sigmas", "0.1"], "--sigmas has no meaning for --view euler"),
        (["--sigma", "0.1"], "unknown option --sigma; did you mean --sigmas?"),
    ],
)
def test_mistakes_are_one_line(
    words: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    output = [] if not words or "--output" in words else ["--output", "a.png"]
    assert program(["plot", "transport", *words, *output]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"error: {message}")
    assert captured.err.count("\n") == 1


def test_a_law_that_cannot_be_fitted_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "--field",
        "shear",
        "--view",
        "stability",
        "--sigmas",
        "0.05",
        "--output",
        str(tmp_path / "a.png"),
    ]
    assert program(["plot", "transport", *SMALL, *words]) == 2
    assert capsys.readouterr().err.startswith("error: --sigmas: no law can be fitted: of |d| / sigma, 0 are")


def documented() -> list[str]:
    page = (Path(__file__).parents[3] / "docs" / "plot.md").read_text()
    blocks = "".join(re.findall(r"^```shell\n(.*?)^```", page, re.M | re.S)).replace("\\\n", " ")
    commands = [line.removeprefix("python -m lightning_optreg ") for line in blocks.splitlines()]
    return [line for line in commands if line.startswith("plot transport ")]


@pytest.mark.usefixtures("quick_training")
@pytest.mark.parametrize("command", documented())
def test_documented_commands_run(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = shlex.split(command)
    sigmas = () if "euler" in words else ("--sigmas", "0.5")
    assert program([*words, *SMALL, *sigmas, "--depth", "1", "--steps", "1", "--paths", "2"]) == 0
    assert (tmp_path / words[words.index("--output") + 1]).stat().st_size > 0
