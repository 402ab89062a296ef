"""A study runs every run once, goes on where it stopped, and shares its work."""

import importlib.util
import math
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml

from lightning_optreg.cli import processes
from lightning_optreg.cli.monitors import LOGGED_IN_TEST
from lightning_optreg.commands import _study
from lightning_optreg.commands.compare import main
from lightning_optreg.runs.run_lock import RunLock
from lightning_optreg.studies import Point, RunRecord, runner, workers
from lightning_optreg.studies.budget import Budget
from lightning_optreg.studies.collect import collect
from lightning_optreg.studies.plan import Run, StudyPlan
from lightning_optreg.studies.plan_file import read_plan
from lightning_optreg.studies.run_queue import Queue
from lightning_optreg.studies.runner import do_run
from lightning_optreg.studies.stop import StopRequest
from lightning_optreg.studies.summary import notice, summarize
from lightning_optreg.studies.tables import table_cells
from lightning_optreg.studies.work import _remaining
from tests.studies.tools import claimed, die, record, softmax_regression

pytest.importorskip("optuna", reason="the extra 'tune' is not installed")

pytestmark = pytest.mark.usefixtures("blank_curves")


@pytest.fixture
def study(fashion_mnist_dir: Path, tmp_path: Path) -> dict[str, Any]:
    return {
        "name": "small",
        "title": "A small study",
        "base": [softmax_regression(fashion_mnist_dir)],
        "epochs": 2,
        "seeds": [0, 1],
        "values": [0.01, 0.1],
        "methods": {
            "SGD": {"optimizer": {"class_path": "SGD"}},
            "Adam <3": {"optimizer": {"class_path": "Adam"}, "values": [1e-3, 1e-2]},
        },
    }


def write(study: dict[str, Any], tmp_path: Path) -> Path:
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(study))
    return path


def compare(path: Path, *options: str) -> int:
    return main(["--config", str(path), "--output", str(path.parent / "out"), "--workers", "1", *options])


def queue_of(path: Path, folder: str = "out") -> Queue[StudyPlan]:
    out = path.parent / folder
    out.mkdir(exist_ok=True)
    return Queue(read_plan(path), f"sqlite:///{out / 'study.db'}")


def test_runs_everything_once_and_reports(
    study: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study["seeds"], study["values"] = [0], [0.1]
    study["methods"]["Adam <3"]["values"] = [1e-2]
    path = write(study, tmp_path)
    assert compare(path) == 0
    out = capsys.readouterr().out
    assert "2 methods x 1 values of the learning rate x 1 seeds = 2 runs, 4 passes" in out
    assert out.count(": complete, val/accuracy ") == 2
    result = collect(queue_of(path))
    assert [(r.method, r.value, r.seed) for r in result.records] == read_plan(path).runs
    for done in result.records:
        assert done.status == "complete"
        assert [point.epoch for point in done.points] == [1.0, 2.0]
        assert 0 < done.points[0].seconds < done.points[1].seconds
        assert {"train/loss", "val/accuracy", "val/loss"} <= done.points[1].metrics.keys()
        assert done.test.keys() == set(LOGGED_IN_TEST)
        assert 0 <= done.test["test/accuracy"] <= 1
    assert (tmp_path / "out" / "report.html").is_file()
    # Another start finds nothing to do.
    assert compare(path) == 0
    assert "2 of them are done already\n0 runs in" in capsys.readouterr().out
    # More seeds are added to what is there.
    study["seeds"] = [0, 1]
    assert compare(write(study, tmp_path)) == 0
    assert capsys.readouterr().out.count(": complete") == 2


def test_plan_runs_nothing(study: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare(write(study, tmp_path), "--plan") == 0
    assert "= 8 runs" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()
    assert compare(write(study, tmp_path), "--report_only") == 2
    assert capsys.readouterr().err == "error: report: no run has ended yet\n"
    assert not (tmp_path / "out").exists()
    # It is checked as a real run is.
    study["tune"] = "optimizer.init_args.lrr"
    assert compare(write(study, tmp_path), "--plan") == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "optimizer.lrr: Adam has no argument 'lrr'" in said.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "mode"),
    [
        ({}, "max"),
        ({"metric": "val/loss"}, "min"),
        ({"metric": "train/loss"}, "min"),
        ({"metric": "val/top5"}, "max"),
        ({"metric": "optreg/margin"}, "max"),
        ({"metric": "val/loss", "mode": "max"}, "max"),
        ({"metric": "val/accuracy", "mode": "min"}, "min"),
    ],
)
def test_the_better_value_is_known_by_the_metrics_name(
    change: dict[str, Any], mode: str, study: dict[str, Any], tmp_path: Path
) -> None:
    assert read_plan(write({**study, **change}, tmp_path)).mode == mode


def test_more_workers_than_cores_are_refused_unless_told(
    study: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "count_cores", lambda: 2)
    monkeypatch.setattr(_study, "_check", lambda *_: None)
    path = write(study, tmp_path)
    assert compare(path, "--workers", "500", "--plan") == 2
    assert capsys.readouterr().err == (
        "error: workers must be <= 2, this machine's CPU cores, got 500; --oversubscribe allows more\n"
    )
    for options in (["--workers", "2"], ["--workers", "500", "--oversubscribe"]):
        assert compare(path, *options, "--plan") == 0


def test_a_password_is_not_in_the_command_lines_of_the_workers(
    study: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[list[str], dict[str, str]]] = []

    def run_processes(words: list[str], count: int, environment: dict[str, str], stop: object) -> list[int]:
        seen.append((words, environment))
        return [0] * count

    monkeypatch.setattr(workers, "run_processes", run_processes)
    options = ["--config", str(write(study, tmp_path))]
    storage = "postgresql+psycopg://me:secret@host/db"
    assert workers.run_workers("compare", options, storage, 300.0, 2, StopRequest()) is None
    ((words, environment),) = seen
    assert "secret" not in " ".join(words)
    assert storage in environment.values()


def test_the_storage_may_be_named_by_the_environment(
    study: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIGHTNING_OPTREG_STORAGE", "nonsense")
    assert compare(write(study, tmp_path)) == 2
    assert capsys.readouterr().err.startswith("error: storage: 'nonsense' is not a database URL")


def interrupt(budget: Budget, trainer: Any, pl_module: Any) -> None:
    """Ctrl-C after the first epoch's checkpoint."""
    if trainer.current_epoch == 1:
        raise KeyboardInterrupt


def test_a_run_goes_on_from_its_checkpoint(
    study: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = read_plan(write(study, tmp_path))
    run = plan.runs[2]
    straight = do_run(plan, run, plan.settings(run), tmp_path / "straight")
    monkeypatch.setattr(Budget, "on_train_epoch_start", interrupt)
    with pytest.raises(KeyboardInterrupt):
        do_run(plan, run, plan.settings(run), tmp_path / "broken")
    monkeypatch.undo()
    resumed = do_run(plan, run, plan.settings(run), tmp_path / "broken")
    assert [p.metrics for p in resumed.points] == [p.metrics for p in straight.points]
    assert [p.epoch for p in resumed.points] == [1.0, 2.0]
    assert resumed.test == straight.test
    weights = [
        torch.load(next((tmp_path / name).rglob("last.ckpt")), weights_only=True)["state_dict"]
        for name in ("straight", "broken")
    ]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


@pytest.mark.slow
def test_workers_share_the_runs(study: dict[str, Any], tmp_path: Path) -> None:
    """Two processes that start at the same time on one storage: every run is done once."""
    study["epochs"], study["seeds"] = 1, [0]
    path = write(study, tmp_path)
    out = tmp_path / "out"
    command = [sys.executable, "-m", "lightning_optreg", "compare", "--config", str(path), "--workers", "1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen([*command, "--output", str(out)], stdout=subprocess.PIPE, text=True, env=environment)
        for _ in range(2)
    ]
    said = "".join(process.communicate(timeout=120)[0] for process in processes)
    assert [process.returncode for process in processes] == [0, 0]
    done = Counter(line.split("] ")[1].split(":")[0] for line in said.splitlines() if ": complete" in line)
    assert len(done) == 4
    assert set(done.values()) == {1}
    assert len(collect(queue_of(path)).records) == 4


def test_a_metric_that_no_run_logs_ends_the_study_with_the_first(
    study: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Callbacks may log what can't be known before."""
    study["metric"], study["epochs"] = "optreg/budget/pases", 1
    path = write(study, tmp_path)
    assert compare(path) == 2
    assert capsys.readouterr().err.startswith(
        "error: metric: Adam <3, learning rate 0.001, seed 0 has logged no 'optreg/budget/pases'"
    )
    assert [run.state for run in queue_of(path).unfinished()] == ["waiting"] * 8


@pytest.mark.slow
def test_a_run_whose_folder_is_open_elsewhere_gets_another(study: dict[str, Any], tmp_path: Path) -> None:
    """A process that was stopped, and whose run was taken over, still has it open."""
    study["epochs"], study["seeds"], study["values"] = 1, [0], [0.1]
    study["methods"] = {"SGD": {"optimizer": {"class_path": "SGD"}}}
    path = write(study, tmp_path)
    folder = tmp_path / "out" / "runs" / "SGD" / "0.1" / "seed0" / "version_0"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints" / "last.ckpt").touch()
    plan = read_plan(path)
    do_run(plan, plan.runs[0], plan.settings(plan.runs[0]), tmp_path / "first")
    shutil.copy(next((tmp_path / "first").rglob("last.ckpt")), folder / "checkpoints")
    lock = RunLock(folder, "fit")
    lock.acquire()
    try:
        assert compare(path) == 0
    finally:
        lock.release()
    assert (folder.parent.parent / "seed0_again0" / "version_0" / "metrics.csv").is_file()
    assert not (folder / "metrics.csv").exists()


@pytest.mark.slow
def test_diverged_and_failed_runs_are_recorded(
    study: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study["seeds"], study["epochs"] = [0], 1
    study["methods"] = {
        "SGD": {"optimizer": {"class_path": "SGD"}, "values": [1e38, 0.01]},
        "wrong": {"optimizer": {"class_path": "SGD", "init_args": {"momentum": -1.0}}},
    }
    path = write(study, tmp_path)
    assert compare(path) == 1
    out, err = capsys.readouterr()
    assert "failed: wrong, learning rate 0.01, seed 0: " in err
    assert "momentum" in err
    said = "incomplete: 2 of 4 runs are done, 2 failed; the figures are provisional"
    assert f"\n{said}\n  failed: wrong, learning rate 0.01, seed 0 (" in out
    assert (tmp_path / "out" / "table.md").read_text().startswith(f"**{said}**\n")
    body = (tmp_path / "out" / "report.html").read_text().partition("<body>\n")[2]
    assert body.startswith(f'<div class="notice">{said[0].upper()}{said[1:]}.<details>')
    assert "<li>failed: wrong, learning rate 0.1, seed 0 (" in body
    records = {(r.method, r.value): r for r in collect(queue_of(path)).records}
    assert records["SGD", 1e38].status == "diverged"
    assert records["SGD", 1e38].test == {}
    assert records["SGD", 0.01].status == "complete"
    assert records["wrong", 0.1].status == "failed"
    # The failed ones are tried again, and only those.
    assert compare(path) == 1
    assert capsys.readouterr().out.count(": failed") == 2


def test_a_run_that_another_process_does_is_told(
    study: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(study, tmp_path)
    queue = queue_of(path)
    queue.fill()
    done, kept = claimed(queue), claimed(queue)
    queue.finish(done, record(done.run))
    assert compare(path, "--report_only") == 1
    assert capsys.readouterr().out.startswith(
        "incomplete: 1 of 8 runs are done, 1 running elsewhere, 6 waiting; the figures are provisional\n"
        f"  running: Adam <3, learning rate 0.01, seed 0 (process {os.getpid()} on "
    )
    die(kept)  # nobody does it any more
    assert "1 of 8 runs are done, 7 waiting" in notice(collect(queue_of(path)))
    second = queue_of(path)
    for claim in iter(second.claim, None):
        second.finish(claim, record(claim.run))
    assert notice(collect(second)) == ""


def test_another_study_of_the_same_name_is_refused(
    study: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(study, tmp_path)
    queue_of(path)
    study["epochs"] = 3
    assert compare(write(study, tmp_path)) == 2
    assert capsys.readouterr().err == (
        "error: name: the storage has a study 'small' with other settings (epochs is 2 there and 3 here); "
        "give this one another name\n"
    )
    study["epochs"] = 2
    study["methods"]["SGD"]["optimizer"]["init_args"] = {"momentum": 0.9}
    with pytest.raises(ValueError, match=r"SGD\.optimizer\.init_args\.momentum is not set there and 0\.9"):
        queue_of(write(study, tmp_path))


def test_what_is_enqueued_twice_is_done_once(study: dict[str, Any], tmp_path: Path) -> None:
    path = write(study, tmp_path)
    first, second = queue_of(path), queue_of(path)
    first.fill()
    run = first.plan.runs[0]
    second._study.enqueue_trial({"method": run.method}, {"run": list(run)})
    claims = []
    while (claim := first.claim()) is not None:
        claims.append(claim.run)
    assert sorted(claims) == sorted(first.plan.runs)


def test_a_run_that_is_given_back_waits_again(study: dict[str, Any], tmp_path: Path) -> None:
    path = write(study, tmp_path)
    queue = queue_of(path)
    queue.fill()
    claim = queue.claim()
    assert claim is not None
    queue.fill()  # this process lives: nothing is taken from it
    assert sum(1 for _ in iter(queue.claim, None)) == 7
    queue.give_back(claim)
    queue.fill()
    again = queue.claim()
    assert again is not None
    assert again.run == claim.run
    queue.finish(again, RunRecord(*again.run, "complete", (Point(1.0, 1.0, {"val/accuracy": 0.5}),), {}))
    assert [record.method for record in queue.records()] == [again.run.method]


MAX_NORM = {"trainer": {"callbacks+": [{"class_path": "lightning_optreg.callbacks.MaxNorm"}]}}
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"epoch": 3}, "epoch: unknown key; did you mean epochs?"),
    ({"epochs": 0}, "epochs: must be >= 1, got 0"),
    ({"epochs": "many"}, "epochs: must be a whole number, got 'many'"),
    ({"epochs": True}, "epochs: must be a whole number, got True"),
    ({"seeds": [1, 1]}, "seeds: must be different whole numbers >= 0, got [1, 1]"),
    ({"values": ["a"]}, "methods.SGD.values: must be a list of numbers, got ['a']"),
    ({"values": [1.0]}, "values: every method must have as many, to be tuned fairly, got"),
    ({"mode": "best"}, "mode: must be max or min, got 'best'"),
    ({"methods": {}}, "methods: must name at least one"),
    ({"methods": {"SGD": 3}}, "methods.SGD: must be a mapping of settings of fit, got 3"),
    ({"base": ["nowhere.yaml"]}, "base: 'nowhere.yaml' exists neither here nor beside"),
    ({"target": "high"}, "target: must be a number, got 'high'"),
    ({"diverged_above": -1.0}, "diverged_above: must be > 0, got -1.0"),
    (
        {"methods": {"A": {"optimizer": {"class_path": "Adan"}}}},
        "methods.A: optimizer: 'Adan' is not a known",
    ),
    ({"methods": {"A": {"optimiser": {"class_path": "Adam"}}}}, "methods.A: unknown key optimiser"),
    (
        {"metric": "val/acuracy"},
        "metric: there is no metric 'val/acuracy' in a fit; did you mean val/acc",
    ),
    ({"metric": "accuracy"}, "metric: there is no metric 'accuracy' in a fit; did you mean "),
    ({"metric": "train/loss_step"}, "metric: there is no metric 'train/loss_step' in a fit"),
    (
        {"test_metric": "test/los"},
        "test_metric: there is no metric 'test/los' in a test; did you mean test/",
    ),
    ({"reference": "none"}, "reference: must be one of the methods Adam <3, SGD, got 'none'"),
    ({"methods": {"A": {"tune": 3}}}, "methods.A.tune: must be a dotted key or null, got 3"),
    (
        {"methods": {"A": {"tune": None, "values": [1]}}},
        "methods.A.values: must be left out where tune is null",
    ),
    (
        {"methods": {"A": {"tune": "trainer.callbacks+.L2Penalty.lambd", **MAX_NORM}}},
        "methods.A: tune: 'L2Penalty.lambd' is not in a list of MaxNorm",
    ),
    (
        {"methods": {"A": {"tune": "data.class_path.size"}}},
        "methods.A: tune: 'size' is not in 'FashionMNISTDataModule'",
    ),
    ({"tune": "optimizer.init_args.rate"}, "methods.Adam <3: optimizer.rate: Adam has no argument 'rate'"),
    (
        {"base": [{"trainer": {"devices": 2}}]},
        "base: trainer.devices must be 1, since each run of a study is one process, got 2; --workers does",
    ),
    (
        {"methods": {"SGD": {"trainer": {"num_nodes": "2"}}}},
        "methods.SGD: trainer.num_nodes must be 1, since each run of a study is one process, got '2'",
    ),
]


@pytest.mark.parametrize(("change", "message"), WRONG)
def test_wrong_studies_end_in_one_line(
    change: dict[str, Any],
    message: str,
    study: dict[str, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert compare(write({**study, **change}, tmp_path)) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_name_that_is_there_twice_is_refused(
    study: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(study, tmp_path)
    text = path.read_text()
    for twice, line in (
        (text.replace("  SGD:\n", "  SGD: {}\n  SGD:\n"), "key 'SGD' is given twice"),
        (f"{text}epochs: 3\n", "key 'epochs' is given twice"),
        (
            text.replace("  SGD:\n", "  SGD: {optimizer: {}, optimizer: {}}\n  B:\n"),
            "key 'optimizer' is given twice",
        ),
    ):
        path.write_text(twice)
        assert compare(path) == 2
        err = capsys.readouterr().err
        assert err.startswith(f"error: config file '{path}', line ")
        assert line in err
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("model: {net: MLP}\nmodel: {net: LeNet5}\n")
    assert compare(write({**study, "base": ["recipe.yaml"]}, tmp_path)) == 2
    assert f"base: '{recipe}', line 2: key 'model' is given twice" in capsys.readouterr().err


def test_a_missing_extra_is_told_before_the_first_run(
    study: dict[str, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "plotly" else name)
    assert compare(write(study, tmp_path)) == 2
    said = "error: No module named 'plotly' (pip install 'lightning-optreg[report]')\n"
    assert capsys.readouterr().err == said
    assert not (tmp_path / "out").exists()


def test_a_signal_is_no_mistake_in_the_settings(
    study: dict[str, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One that comes while `fit` reads them."""
    monkeypatch.setattr(runner, "run_command", lambda argv: signal.raise_signal(signal.SIGTERM))
    assert compare(write(study, tmp_path)) == 143
    said = "error: stopped by SIGTERM; the same command goes on where it stopped\n"
    assert capsys.readouterr().err == said


def test_a_storage_that_cannot_be_used_is_refused_before_anything_is_written(
    study: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(study, tmp_path)
    for options, message in (
        (
            ["--storage", "nonsense"],
            "storage: 'nonsense' is not a database URL; did you mean sqlite:///nonsense?",
        ),
        (["--storage_wait", "-1"], "storage_wait: must be a number of seconds >= 0, got -1.0"),
        (["--storage_wait", "nan"], "storage_wait: must be a number of seconds >= 0, got nan"),
    ):
        assert compare(path, *options) == 2
        assert capsys.readouterr().err == f"error: {message}\n"
    assert not (tmp_path / "out").exists()


def test_wrong_options_end_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for options, message in [
        (["--confg", "x"], "unknown option --confg; did you mean --config?"),
        ([], "the following arguments are required: --config"),
        (["--config", "x", "--worksers", "2"], "unknown option --worksers; did you mean --workers?"),
        (["--config", "x", "--workers", "two"], "--workers: invalid int value: 'two'"),
        (["--config", str(tmp_path / "x")], f"config: {str(tmp_path / 'x')!r} does not exist"),
    ]:
        assert main(options) == 2
        assert capsys.readouterr().err == f"error: {message}\n"


def test_lost_processes_are_told(
    study: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    dying = [sys.executable, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"]
    start = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda command, env: start(dying, env=env))
    assert compare(write(study, tmp_path), "--workers", "2", "--oversubscribe") == 1
    said = capsys.readouterr()
    assert said.err.startswith("error: 2 of 2 processes ended with signal 9; the same command goes on")
    assert "fewer than 3 seeds" in said.out


@pytest.mark.slow
def test_a_study_that_the_other_processes_have_done_is_complete(
    study: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(study, tmp_path)

    def run_processes(*_: Any) -> list[int]:
        queue = queue_of(path)
        for claim in iter(queue.claim, None):
            queue.finish(claim, record(claim.run))
        return [0, -9]

    monkeypatch.setattr(workers, "run_processes", run_processes)
    assert compare(path, "--workers", "2", "--oversubscribe") == 0
    out, err = capsys.readouterr()
    assert err == "1 of 2 processes ended with signal 9; the others have done their runs\n"
    assert "incomplete" not in out


@pytest.mark.parametrize(
    ("loss", "diverged"), [(2.9, False), (3.1, True), (math.inf, True), (math.nan, True)]
)
def test_a_loss_above_the_bound_has_diverged(loss: float, diverged: bool) -> None:
    budget, trainer = Budget(1.0, bound=3.0), SimpleNamespace(should_stop=False)
    budget.on_train_batch_end(trainer, None, {"loss": torch.tensor(loss)}, None, 0)  # type: ignore[arg-type]
    assert (budget.diverged, trainer.should_stop) == (diverged, diverged)
    with pytest.raises(ValueError, match="Budget: bound must be > 0, got nan"):
        Budget(1.0, bound=math.nan)


def test_the_rest_is_told_at_the_pace_so_far() -> None:
    assert [_remaining(*it) for it in [(10.0, 5, 10), (100.0, 4, 12), (10.0, 5, 0), (1.0, 0, 9)]] == [
        ", 20 s to go",
        ", 5 min to go",
        "",
        "",
    ]


def test_overlays(study: dict[str, Any], tmp_path: Path) -> None:
    """Mappings merge, another class drops the old one's settings, `+` adds to a list."""
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "optimizer: {class_path: SGD, init_args: {lr: 1, momentum: 0.9}}\ntrainer: {max_epochs: 9}\n"
    )
    study["base"].insert(0, "recipe.yaml")
    study["methods"]["Adam <3"]["trainer"] = {"callbacks+": [{"class_path": "Curves"}]}
    plan = read_plan(write(study, tmp_path))
    sgd, adam = (plan.settings(Run(method, 0.5, 7)) for method in ("SGD", "Adam <3"))
    assert sgd["optimizer"] == {"class_path": "SGD", "init_args": {"lr": 0.5, "momentum": 0.9}}
    assert adam["optimizer"] == {"class_path": "Adam", "init_args": {"lr": 0.5}}
    assert adam["trainer"] == {
        "max_epochs": 2,
        "accelerator": "cpu",
        "callbacks+": [{"class_path": "Curves"}],
    }
    assert adam["seed_everything"] == 7
    assert Run("Adam <3", 0.5, 7).key == "Adam__3/0.5/seed7"


@pytest.mark.slow
def test_methods_that_are_tuned_by_settings_of_their_own(study: dict[str, Any], tmp_path: Path) -> None:
    study["seeds"], study["epochs"], study["values"], study["reference"] = [0], 1, [1, 0.5], "none"
    study["methods"] = {
        "none": {"tune": None},
        "max-norm": {"tune": "trainer.callbacks+.MaxNorm.init_args.max_norm", **MAX_NORM},
        "batch size": {"tune": "data.init_args.batch_size", "values": [8, 4]},
    }
    path = write(study, tmp_path)
    plan = read_plan(path)
    assert sorted((run.method, run.value) for run in plan.runs) == [
        ("batch size", 4.0),
        ("batch size", 8.0),
        ("max-norm", 0.5),
        ("max-norm", 1.0),
        ("none", 0.0),
    ]
    settings = plan.settings(Run("max-norm", 0.5, 0))
    assert settings["trainer"]["callbacks+"] == [
        {"class_path": "lightning_optreg.callbacks.MaxNorm", "init_args": {"max_norm": 0.5}}
    ]
    size = plan.settings(Run("batch size", 8.0, 0))["data"]["init_args"]["batch_size"]
    assert (size, type(size)) == (8, int)
    assert plan.describe(Run("none", 0.0, 1)) == "none, seed 1"
    assert plan.describe(Run("max-norm", 0.5, 1)) == "max-norm, max_norm 0.5, seed 1"
    assert compare(path) == 0
    result = collect(queue_of(path))
    assert result.settings == {"none": None, "max-norm": "max_norm", "batch size": "batch_size"}
    assert result.reference == "none"
    cells = {row[0]: row[1] for row in table_cells(summarize(result))}
    assert cells["none"] == ""
    assert cells["max-norm"] in ("max_norm 1 *", "max_norm 0.5 *")


@pytest.mark.slow
def test_with_weights_and_biases_the_runs_are_one_group(study: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("wandb", reason="the extra 'wandb' is not installed")
    study["base"].append(
        {
            "trainer": {
                "logger+": [
                    {"class_path": "RunWandbLogger", "init_args": {"project": "p", "mode": "offline"}}
                ]
            }
        }
    )
    study["epochs"] = 1
    plan = read_plan(write(study, tmp_path))
    run = plan.runs[0]
    record = do_run(plan, run, plan.settings(run), tmp_path / "run")
    assert record.status == "complete", record.message
    assert record.points[-1].metrics["val/accuracy"] >= 0  # metrics.csv is still written
    (configuration,) = (tmp_path / "run").rglob("config.yaml")
    loggers = yaml.safe_load(configuration.read_text())["trainer"]["logger"]
    assert [logger["class_path"].rpartition(".")[2] for logger in loggers] == [
        "RunCSVLogger",
        "RunWandbLogger",
    ]
    assert loggers[1]["init_args"]["group"] == "small"
    assert loggers[1]["init_args"]["name"] == run.key.replace("/", " ")
    other = plan.runs[1]
    assert do_run(plan, other, plan.settings(other), tmp_path / "other").status == "complete"
    for folder in ("run", "other"):  # not one run with the figures of both
        assert len(list((tmp_path / folder).rglob("*.wandb"))) == 1
