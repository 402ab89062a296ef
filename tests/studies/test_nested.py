"""A search nested in a cross-validation: each is tested on the fold that it never saw."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from lightning_optreg.commands.tune import main
from lightning_optreg.studies.nested_report import nested_notes, nested_table
from lightning_optreg.studies.run_queue import Queue
from lightning_optreg.studies.search_result import SearchResult, collect_search
from lightning_optreg.studies.workers import STORAGE
from tests.studies.search_tools import LR, queue, record, search
from tests.studies.tools import claimed, softmax_regression

pytest.importorskip("optuna", reason="the extra 'tune' is not installed")

KEY = "optimizer.init_args.lr"
BASE = [{"optimizer": {"class_path": "SGD", "init_args": {}}, "data": {"class_path": "X", "init_args": {}}}]


@pytest.fixture
def study(fashion_mnist_dir: Path, tmp_path: Path) -> Path:
    base = softmax_regression(fashion_mnist_dir)
    given = {
        "name": "small",
        "base": [{**base, "optimizer": {"class_path": "SGD"}}],
        "epochs": 1,
        "folds": 2,
        "sampler": "grid",
        "search": {KEY: {"choice": [1e-9, 0.05]}},
        "pruner": "none",
    }
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(given, sort_keys=False))
    return path


def tune(path: Path, *options: str) -> int:
    return main(["--config", str(path), "--output", str(path.parent / "out"), "--workers", "1", *options])


def test_every_fold_has_a_search_and_one_report_has_all(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tune(study, "--fold", "1") == 0  # as another machine would
    assert not (tmp_path / "out" / "folds.csv").exists()
    assert tune(study) == 0
    said = capsys.readouterr().out
    assert "small, fold 1 held out: 1 settings, grid" in said
    assert "2 of them are done already" in said
    table = (tmp_path / "out" / "folds.csv").read_text().splitlines()
    assert table[0] == "fold,trial,state,val/accuracy,lr,passes,seconds,test/accuracy"
    assert len(table) == 3
    for fold, row in enumerate(table[1:]):
        folder = tmp_path / "out" / f"fold{fold}"
        best = yaml.safe_load((folder / "best.yaml").read_text())
        assert {name: best["data"]["init_args"][name] for name in ("fold", "folds", "held_out")} == {
            "fold": fold,
            "folds": 2,
            "held_out": "test",
        }
        assert row.split(",")[1] in (folder / "trials.csv").read_text()
    assert "on images that it never saw: mean 0." in said
    assert "| fold | trial |" in (tmp_path / "out" / "folds.md").read_text()
    drawn = (tmp_path / "out" / "folds.svg").read_text()
    assert "val/accuracy, by which it was chosen" in drawn
    assert "test/accuracy, on the fold" in drawn


@pytest.mark.slow
def test_all_folds_share_a_storage_that_the_environment_names(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(STORAGE, f"sqlite:///{tmp_path / 'shared.db'}")
    assert tune(study) == 0
    assert "on images that it never saw: mean 0." in capsys.readouterr().out
    assert not list((tmp_path / "out").rglob("study.db"))


def results(folder: Path, accuracies: list[list[float]]) -> list[SearchResult]:
    found = []
    plan = search(folder, base=BASE, folds=len(accuracies), trials=2, search={KEY: LR})
    for fold, reached in enumerate(accuracies):
        it: Queue[Any] = queue(plan.of_fold(fold), folder)  # all in one database, by their names
        for accuracy in reached:
            claim = claimed(it)
            it.choose(claim)
            it.finish(claim, record(claim, [accuracy]))
        found.append(collect_search(it))
    return found


def test_the_estimate_is_of_the_best_trials(tmp_path: Path) -> None:
    found = results(tmp_path, [[0.5, 0.75], [0.25, 0.125], []])
    assert [row[:2] for row in nested_table(found)[1:]] == [["0", "1"], ["1", "0"], ["2", ""]]
    first, second = nested_notes(found)
    assert "mean 0.5000, sd 0.3536" in first
    assert second == "incomplete: 2 of 3 folds have a best trial with test/accuracy"


def test_searches_of_different_folds_are_different_studies(tmp_path: Path) -> None:
    plan = search(tmp_path, base=BASE, folds=3)
    of_fold = plan.of_fold(2)
    assert of_fold.settings({KEY: 0.1})["data"]["init_args"] == {"fold": 2, "folds": 3, "held_out": "test"}
    assert len({plan.fingerprint(), of_fold.fingerprint(), plan.of_fold(1).fingerprint()}) == 3
    assert len({plan.name, of_fold.name, plan.of_fold(1).name}) == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"folds": 1}, "folds: must be >= 2, got 1"),
        (
            {"folds": 2, "base": [{"optimizer": {"class_path": "SGD"}}]},
            "base: must have data with a class_path",
        ),
        (
            {"folds": 2, "base": [{**BASE[0], "data": {"class_path": "X", "init_args": {"fold": 0}}}]},
            "data.init_args.fold must be left out; `folds` of the study sets it",
        ),
        (
            {"folds": 2, "base": BASE, "search": {"data.init_args.folds": {"choice": [2, 3]}}},
            "data.init_args.folds must be left out",
        ),
    ],
)
def test_mistakes_are_named(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        search(tmp_path, **changes)


def test_a_fold_that_is_not_there(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tune(study, "--fold", "2") == 2
    assert "fold: must be >= 0 and < 2, the folds of the study, got 2" in capsys.readouterr().err
    given = yaml.safe_load(study.read_text())
    del given["folds"]
    study.write_text(yaml.safe_dump(given, sort_keys=False))
    assert tune(study, "--fold", "0") == 2
    assert "the study must give folds" in capsys.readouterr().err
