import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from lightning_optreg.__main__ import main as program
from lightning_optreg.analysis import (
    SimulatedDDP,
    SimulatedDownpour,
    SimulatedElasticAveraging,
    SimulatedHogwild,
    SimulatedLocalSGD,
    simulate,
)
from lightning_optreg.commands.plot.named_method import METHODS, read_method
from lightning_optreg.commands.plot.scaling import make_workload
from lightning_optreg.figures import ScalingCurve, draw_scaling, draw_speedup, read_scaling
from lightning_optreg.nets import MLP

REAL = Path("/usr/share/datasets/fashion-mnist")
HEAD = "method,workers,seconds,images,bytes,accuracy\n"
SPARSE = ("--model", "sparse", "--images", "1000", "--batch_size", "20", "--dpi", "30")


def test_command_draws_simulated_and_measured_curves(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table, path = tmp_path / "m.csv", tmp_path / "a.png"
    table.write_text(f"{HEAD}DDP,2,0.5,64,80,0.4\nDDP,2,1,128,160,0.6\n")
    words = ("--workers", "2", "10", "--lr", "1", "--measured", str(table))
    threads = torch.get_num_threads()
    assert program(["plot", "scaling", *SPARSE, *words, "--output", str(path)]) == 0
    assert torch.get_num_threads() == threads
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == str(path)
    rows = [line.split() for line in lines[1:-1]]
    usual = ("DDP", "LocalSGD", "ElasticAveraging", "Downpour", "Hogwild")
    assert [row[:2] for row in rows] == [[name, n] for name in usual for n in ("2", "10")]
    assert {row[2] for row in rows} == {"1"}
    times = {(row[0], row[1]): float(row[3]) for row in rows}
    assert times["Hogwild", "2"] == pytest.approx(0.25)  # 25 steps of 0.01 s each
    assert times["Hogwild", "10"] == pytest.approx(0.05)
    assert all(float(row[4]) == 0.0 for row in rows if row[0] == "Hogwild")
    with Image.open(path) as image:
        assert image.size == (210, 204)


def test_the_first_rate_is_taken_unless_another_is_clearly_better(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def chosen(*rates: str) -> str:
        words = ("--workers", "2", "--methods", "DDP", "--lr", *rates)
        assert program(["plot", "scaling", *SPARSE, *words, "--output", str(tmp_path / "a.png")]) == 0
        return capsys.readouterr().out.splitlines()[1].split()[2]

    assert chosen("1000", "0.5") == chosen("0.5", "1000") == "0.5"
    assert (chosen("0.5", "0.51"), chosen("0.51", "0.5")) == ("0.5", "0.51")


def test_command_draws_the_speedup(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.svg"
    words = ("--methods", "DDP", "--workers", "4", "--lr", "0.3", "--view", "speedup", "--accuracy", "0.6")
    assert program(["plot", "scaling", *SPARSE, *words, "--output", str(path)]) == 0
    out = capsys.readouterr().out
    assert [line.split()[1] for line in out.splitlines()[1:-1]] == ["1", "4"]
    assert path.stat().st_size > 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "--output FILE is missing"),
        (["--output", "a.gif"], "--output must end in .png, .svg, .pdf, got a.gif"),
        (["--workers", "0", "2"], "--workers must be >= 1, got 0"),
        (["--workers", "two"], "--workers: invalid int value: 'two'"),
        (["--batch_size", "0"], "--batch_size must be >= 1, got 0"),
        (["--images", "100"], "--images must be at least a batch for each worker, 32000, got 100"),
        (["--lr", "0.1", "nan"], "--lr must be in (0, inf), got 0.1 nan"),
        (["--step_time", "0"], "--step_time must be in (0, inf), got 0.0"),
        (["--sigma", "-1"], "--sigma must be in [0, inf), got -1.0"),
        (["--stragglers", "2"], "--stragglers must be in [0, 1], got 2.0"),
        (["--slowdown", "0.5"], "--slowdown must be in [1, inf), got 0.5"),
        (["--latency", "-1"], "--latency must be in [0, inf), got -1.0"),
        (["--bandwidth", "0"], "--bandwidth must be > 0, got 0.0"),
        (["--shards", "0"], "--shards must be >= 1, got 0"),
        (["--seed", "-1"], "--seed must be >= 0, got -1"),
        (["--dpi", "0"], "--dpi must be >= 1, got 0"),
        (["--accuracy", "80"], "--accuracy must be in (0, 1), got 80.0"),
        (["--distribution", "uniform"], "--distribution: invalid choice: 'uniform'"),
        (["--methods", "LocalSDG"], "--methods: unknown method 'LocalSDG'; did you mean LocalSGD?"),
        (["--methods", "DDP:period=3"], "--methods: DDP has no option 'period'; known: optimizer, lr, "),
        (["--methods", "LocalSGD:period=0"], "--methods: SimulatedLocalSGD: period must be >= 1, got 0"),
        (["--methods", "LocalSGD:period=often"], "--methods: LocalSGD: "),
        (
            ["--methods", "Downpour:optimizer=Adagrat"],
            "--methods: Downpour: unknown optimizer 'Adagrat'; did",
        ),
        (["--methods", "DDP:lr=1+1"], "--methods: cannot read the method 'DDP:lr=1+1'"),
        (["--measured", "missing.csv"], "missing.csv: No such file or directory"),
        (["--worker", "2"], "unknown option --worker; did you mean --workers?"),
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
    assert program(["plot", "scaling", *words, *output]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"error: {message}")
    assert captured.err.count("\n") == 1


def test_mistakes_that_show_when_it_runs_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*SPARSE, "--workers", "2", "--output", str(tmp_path / "a.png")]
    for more, message in (
        (["--methods", "DDP:momentum=-1"], "--methods DDP:momentum=-1: Invalid momentum value: -1"),
        (
            ["--view", "speedup", "--accuracy", "0.99"],
            "--accuracy 0.99: no method reaches it with one worker",
        ),
    ):
        assert program(["plot", "scaling", *words, *more]) == 2
        assert capsys.readouterr().err == f"error: {message}\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("method,workers\n", "has no column seconds, but"),
        (f"{HEAD}DDP,2,0.5,64,80,high\n", "line 2: could not convert string to float: 'high'"),
        (f"{HEAD}DDP,2,0.5,64,80,40\n", r"line 2: workers must be >= 1, .*, got 2, 0.5, 80, 40"),
        (f"{HEAD}DDP,2,0.5\n", "line 2: float"),
    ],
)
def test_tables_that_are_not_as_they_should_be(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_text(content)
    with pytest.raises(ValueError, match=f"^read_scaling: .*{message}"):
        read_scaling(path)


def test_words_name_methods() -> None:
    classes = {name: type(read_method(name).method) for name in METHODS}
    assert classes == {
        "DDP": SimulatedDDP,
        "LocalSGD": SimulatedLocalSGD,
        "DiLoCo": SimulatedLocalSGD,
        "ElasticAveraging": SimulatedElasticAveraging,
        "AsyncElasticAveraging": SimulatedElasticAveraging,
        "Downpour": SimulatedDownpour,
        "Hogwild": SimulatedHogwild,
    }
    assert read_method("downpour(n_push=2, n_fetch=5)").method == SimulatedDownpour(2, 5)
    assert read_method("AsyncElasticAveraging:beta=0.5").method == SimulatedElasticAveraging(10, 0.5, True)
    assert read_method("Hogwild:shared_state=True").method == SimulatedHogwild(True)
    assert read_method("ddp").label == "DDP"
    parameter = [torch.zeros(1)]
    adagrad = read_method("Downpour:optimizer=adagrad,eps=0.5").optimizer(0.3)(parameter)
    assert isinstance(adagrad, torch.optim.Adagrad)
    assert (adagrad.defaults["lr"], adagrad.defaults["eps"]) == (0.3, 0.5)
    assert read_method("DDP:lr=0.5,optimizer=Momentum").optimizer(0.3)(parameter).defaults["lr"] == 0.5
    for text, lr, momentum in (
        ("DiLoCo:period=7", 0.7, 0.9),
        ("LocalSGD:outer_lr=0.5", 0.5, 0.0),
        ("DiLoCo:outer_momentum=0.8", 0.7, 0.8),
    ):
        method = read_method(text).method
        assert isinstance(method, SimulatedLocalSGD)
        assert method.make_outer is not None
        outer = method.make_outer(parameter).defaults
        assert (outer["lr"], outer["momentum"], outer["nesterov"]) == (lr, momentum, momentum > 0)


def test_figure_shows_the_values() -> None:
    curves = [ScalingCurve("A$", 2, [0.0, 1.0, 2.0], [0, 0, 0], [0.1, 0.5, 0.6])]
    measured = [ScalingCurve("A$", 2, [1.5], [80], [0.55]), ScalingCurve("B", 4, [1.0], [160], [0.7])]
    figure = draw_scaling(curves, measured, caption="said")
    time2, time4, bytes2, bytes4 = figure.axes
    line, mark = time2.get_lines()
    assert line.get_xydata().tolist() == [[1.0, 50.0], [2.0, 60.0]]  # type: ignore[union-attr]
    assert mark.get_xydata().tolist() == [[1.5, pytest.approx(55.0)]]  # type: ignore[union-attr]
    assert [each.get_linestyle() for each in (line, mark)] == ["-", "None"]
    assert line.get_color() == mark.get_color() != time4.get_lines()[0].get_color()
    assert bytes2.get_lines()[0].get_xydata().tolist() == [[80.0, pytest.approx(55.0)]]  # type: ignore[union-attr]
    assert bytes4.get_xlabel() == "bytes sent by all"
    assert figure.legends[0].get_title().get_text() == "lines: simulated; marks: measured"
    empty = draw_scaling(curves).axes[1]
    assert [text.get_text() for text in empty.texts] == ["nothing is sent"]
    with pytest.raises(ValueError, match="nothing to draw"):
        draw_scaling([])


def test_speedup_is_the_ratio_of_times_between_measurements() -> None:
    """0.5 is reached by 1 worker halfway from 2 to 4 s, by 3 workers halfway from 0 to 2 s."""
    curves = [
        ScalingCurve("A", 3, [0.0, 2.0], [0, 1], [0.1, 0.9]),
        ScalingCurve("A", 1, [0.0, 2.0, 4.0], [0, 0, 0], [0.1, 0.4, 0.6]),
        ScalingCurve("never", 1, [0.0, 2.0], [0, 0], [0.1, 0.4]),
        ScalingCurve("alone", 3, [0.0, 2.0], [0, 0], [0.1, 0.9]),
    ]
    ideal, line = draw_speedup(curves, 0.5).axes[0].get_lines()
    assert ideal.get_xydata().tolist() == [[1.0, 1.0], [3.0, 3.0]]  # type: ignore[union-attr]
    assert line.get_xydata().tolist() == [[1.0, 1.0], [3.0, 3.0]]  # type: ignore[union-attr]
    assert line.get_label() == "A"
    with pytest.raises(ValueError, match="no method reaches an accuracy of"):
        draw_speedup(curves, 0.99)


@pytest.mark.skipif(not REAL.is_dir(), reason=f"Fashion-MNIST is not in {REAL}")
def test_images_become_a_workload_that_learns() -> None:
    state = torch.get_rng_state()
    workload = make_workload("mlp", seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(1)
    assert torch.equal(workload.start()[0], next(iter(MLP(hidden=[128]).parameters())))
    assert workload.bytes == 4 * (784 * 128 + 128 + 128 * 10 + 10)
    assert workload.examples == 54_000
    work = {"workers": 8, "images": 12_800, "measurements": 1}
    run = simulate(SimulatedDDP(), workload, lambda params: torch.optim.SGD(params, lr=0.1), **work)
    assert run.moments[-1].accuracy > 0.75


@pytest.mark.slow
def test_help_does_not_import_lightning() -> None:
    program_text = (
        "import sys; from lightning_optreg.commands.plot import main\n"
        "try:\n    main(['scaling', '--help'])\nexcept SystemExit:\n    sys.exit('lightning' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program_text], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--measured FILE" in done.stdout


def test_documented_command_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = Path(__file__).parents[3]
    page = (root / "docs" / "plot.md").read_text()
    blocks = "".join(re.findall(r"^```shell\n(.*?)^```", page, re.M | re.S)).replace("\\\n", " ")
    (command,) = [line for line in blocks.splitlines() if " plot scaling " in line]
    monkeypatch.chdir(root)  # it reads a file of the repository
    words = shlex.split(command.removeprefix("python -m lightning_optreg "))
    path = tmp_path / "a.png"
    assert program([*words, *SPARSE, "--workers", "2", "--output", str(path)]) == 0
    assert path.stat().st_size > 0
