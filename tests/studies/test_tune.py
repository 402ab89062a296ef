"""The command `tune`, from its YAML to the page and the recipe that it writes."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from lightning_optreg.cli.main_cli import run as run_command
from lightning_optreg.commands import _study
from lightning_optreg.commands.tune import main
from lightning_optreg.studies.run_queue import Queue
from lightning_optreg.studies.search_file import read_search
from lightning_optreg.studies.search_report import search_notes
from lightning_optreg.studies.search_result import collect_search
from lightning_optreg.studies.workers import Broken
from tests.studies.search_tools import LR, queue, record, search
from tests.studies.tools import claimed, die, softmax_regression

pytest.importorskip("optuna", reason="the extra 'tune' is not installed")

pytestmark = pytest.mark.usefixtures("blank_curves")

KEY = "optimizer.init_args.lr"


@pytest.fixture
def study(fashion_mnist_dir: Path, tmp_path: Path) -> Path:
    base = softmax_regression(fashion_mnist_dir)
    given = {
        "name": "small",
        "base": [{**base, "optimizer": {"class_path": "SGD", "init_args": {"momentum": 0.9}}}],
        "epochs": 2,
        "trials": 3,
        "search": {KEY: LR, "data.init_args.batch_size": {"choice": [16, 32]}},
        "first": [{KEY: 0.001, "data.init_args.batch_size": 32}],
        "pruner": "none",
        "metric": "val/loss",
    }
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(given, sort_keys=False))
    return path


def tune(path: Path, *options: str) -> int:
    return main(["--config", str(path), "--output", str(path.parent / "out"), "--workers", "1", *options])


@pytest.mark.parametrize("storage", [pytest.param(None, marks=pytest.mark.slow), "journal"])
def test_it_finds_settings_that_fit_takes(
    study: Path, tmp_path: Path, storage: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"sqlite:///{tmp_path / 'out' / 'study.db'}"
    options = []
    if storage is not None:
        url = f"journal:///{tmp_path / 'study.log'}"
        options = ["--storage", url]
    assert tune(study, *options) == 0
    said = capsys.readouterr().out
    assert "2 settings, tpe, 2 passes a trial, at most 3 trials" in said
    assert "[3/3] trial 2 (lr " in said
    result = collect_search(Queue(read_search(study), url))
    assert [each.number for each in result.tried] == [0, 1, 2]
    assert result.tried[0].values == {KEY: 0.001, "data.init_args.batch_size": "32"}
    best = result.best
    assert best is not None
    # The recipe repeats the trial, up to its metric.
    recipe = tmp_path / "out" / "best.yaml"
    assert yaml.safe_load(recipe.read_text())["optimizer"]["init_args"]["lr"] == best.values[KEY]
    cli = run_command(["fit", "--config", str(recipe), f"--trainer.default_root_dir={tmp_path / 'again'}"])
    assert float(cli.trainer.callback_metrics["val/loss"]) == best.reached("val/loss")
    page = (tmp_path / "out" / "report.html").read_text()
    own = re.sub(r"<script>/\*\*.*?</script>", "", page, flags=re.DOTALL)  # without plotly
    assert len(own) < 100_000
    assert not re.search(r"https?://|src=|<link", own)  # nothing to fetch
    assert "Importance of the settings" in page
    # Another start finds nothing to do.
    capsys.readouterr()
    assert tune(study, *options) == 0
    assert "3 of them are done already\n0 runs in" in capsys.readouterr().out


@pytest.mark.slow
def test_a_pruned_trial_ends_early(tmp_path: Path, study: Path) -> None:
    """The second trial is worse than the first: it ends after its first validation."""
    given = yaml.safe_load(study.read_text())
    given |= {"epochs": 4, "trials": 2, "pruner": {"name": "median", "n_startup_trials": 1}}
    given["search"][KEY] = {**LR, "low": 1e-9}
    given["first"] = [{KEY: lr, "data.init_args.batch_size": 16} for lr in (0.03, 1e-9)]
    study.write_text(yaml.safe_dump(given, sort_keys=False))
    assert tune(study) == 0
    it = Queue(read_search(study), f"sqlite:///{tmp_path / 'out' / 'study.db'}")
    first, second = it.results().values()
    assert (first.state.name, second.state.name) == ("COMPLETE", "PRUNED")
    assert list(second.intermediate_values) == [1]
    records = it.records()
    assert [record.status for record in records] == ["complete", "pruned"]
    assert [len(record.points) for record in records] == [4, 1]
    assert second.intermediate_values[1] == records[1].points[0].metrics["val/loss"]


def test_trials_that_no_process_began_are_not_done(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All processes are killed before they begin another trial: a search knows of those begun alone."""
    given = yaml.safe_load(study.read_text())
    study.write_text(yaml.safe_dump({**given, "trials": 1, "epochs": 1}, sort_keys=False))
    assert tune(study) == 0
    study.write_text(yaml.safe_dump({**given, "trials": 3, "epochs": 1}, sort_keys=False))
    broken = Broken("2 of 2 processes ended with signal 9", 1)
    monkeypatch.setattr(_study, "run_workers", lambda *args: broken)
    capsys.readouterr()
    assert tune(study, "--workers", "2", "--oversubscribe") == 1
    assert "ended with signal 9; the same command goes on where they stopped" in capsys.readouterr().err


def test_plan_runs_nothing_and_finds_mistakes(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tune(study, "--plan") == 0
    assert not (tmp_path / "out").exists()
    given = yaml.safe_load(study.read_text())
    given["search"]["optimizer.init_args.lrr"] = LR
    study.write_text(yaml.safe_dump(given, sort_keys=False))
    assert tune(study, "--plan") == 2
    said = capsys.readouterr().err
    assert "search, " in said
    assert "lrr" in said


def test_the_report_says_what_to_beware_of(tmp_path: Path) -> None:
    it = queue(search(tmp_path, trials=5, first=[{KEY: 0.001}, {KEY: 0.5}, {KEY: 0.2}]), tmp_path)
    for accuracies, status in (([0.8], "complete"), ([float("nan")], "diverged"), ([0.7], "complete")):
        claim = claimed(it)
        it.choose(claim)
        it.finish(claim, record(claim, accuracies, status))
    die(claimed(it))
    notes = search_notes(collect_search(it))
    assert notes == [
        "incomplete: of the trials that were begun, 1 waiting",
        "1 trials diverged",
        f"the best {KEY} lies at the low end 0.001 of its range: a better one may lie outside",
        "no trial was better than trial 0, whose settings were given",
    ]


def test_the_best_is_the_best_complete_one(tmp_path: Path) -> None:
    lower = search(tmp_path, metric="val/loss", test_metric="test/loss")
    assert lower.mode == "min"
    it = queue(lower, tmp_path)
    for loss, status in ((0.5, "complete"), (0.1, "pruned"), (0.3, "complete"), (0.4, "complete")):
        claim = claimed(it)
        it.choose(claim)
        made = record(claim, [loss], status)
        points = tuple(type(p)(p.epoch, p.seconds, {"val/loss": loss}) for p in made.points)
        it.finish(claim, type(made)(*claim.run, status, points, {}))
    best = collect_search(it).best
    assert best is not None
    assert best.number == 2


def options_of(mistake: str, folder: Path) -> Any:
    (folder / "text.log").write_text("not a journal\n")
    return {
        "journal:study.log": "did you mean journal:///study.log?",
        "journal:///": "did you mean journal:///study.log?",
        f"journal:///{folder}": "is a folder",
        f"journal:///{folder}/none/study.log": "there is no folder",
        f"journal:///{folder}/text.log": "is not a journal of Optuna",
    }[mistake.format(folder=folder)]


@pytest.mark.parametrize(
    "mistake",
    [
        "journal:study.log",
        "journal:///",
        "journal:///{folder}",
        "journal:///{folder}/none/study.log",
        "journal:///{folder}/text.log",
    ],
)
def test_what_can_be_no_journal_is_refused(
    study: Path, tmp_path: Path, mistake: str, capsys: pytest.CaptureFixture[str]
) -> None:
    sentence = options_of(mistake, tmp_path)
    assert tune(study, "--storage", mistake.format(folder=tmp_path)) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
