"""Cross-validation: every method on every fold, and statistics that know that runs share images."""

import math
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pytest
import torch
import yaml

from lightning_optreg.commands.crossval import main
from lightning_optreg.data import FashionMNISTDataModule
from lightning_optreg.studies import Point, RunRecord
from lightning_optreg.studies.crossval import Crossval, read_crossval
from lightning_optreg.studies.crossval_report import CrossvalResult, crossval_notes, crossval_table
from lightning_optreg.studies.plan import Run
from lightning_optreg.studies.resampled import resampled
from lightning_optreg.studies.run_queue import Queue
from lightning_optreg.studies.runner import do_run
from tests.studies.tools import softmax_regression

pytest.importorskip("optuna", reason="the extra 'tune' is not installed")

pytestmark = pytest.mark.usefixtures("blank_curves")
scipy_stats = pytest.importorskip("scipy.stats", reason="the extra 'report' is not installed")


# ---- statistics --------------------------------------------------------------------------------------------


def test_without_the_correction_it_would_be_the_paired_t_test() -> None:
    """With very many folds n_test / n_train vanishes."""
    first, second = [0.8, 0.7, 0.75, 0.9], [0.7, 0.72, 0.7, 0.8]
    differences = [a - b for a, b in zip(first, second, strict=True)]
    result = resampled(differences, folds=10**9)
    expected = scipy_stats.ttest_rel(first, second)
    assert result.p_value == pytest.approx(expected.pvalue)
    assert result.interval == pytest.approx(tuple(expected.confidence_interval(0.95)))


def test_the_correction_is_that_of_nadeau_and_bengio() -> None:
    values, folds = [0.02, -0.01, 0.03, 0.0, 0.01, 0.02, 0.05, -0.02, 0.01, 0.0], 5
    result = resampled(values, folds)
    error = math.sqrt((1 / 10 + 1 / 4) * stdev(values) ** 2)
    statistic = mean(values) / error
    assert result.p_value == pytest.approx(2 * scipy_stats.t.sf(abs(statistic), 9))
    half = scipy_stats.t.ppf(0.975, 9) * error
    assert result.interval == pytest.approx((mean(values) - half, mean(values) + half))
    assert result.spread == pytest.approx(stdev(values))


def test_what_cannot_be_known_is_left_out() -> None:
    assert resampled([0.5], folds=5).interval is None
    assert resampled([0.5], folds=5).p_value is None
    same = resampled([0.0, 0.0, 0.0], folds=3)
    assert same.interval == (0.0, 0.0)
    assert same.p_value is None


# ---- the plan ----------------------------------------------------------------------------------------------


def crossval(folder: Path, **changes: Any) -> Crossval:
    study = {"name": "small", "base": [{"data": {"class_path": "FashionMNISTDataModule"}}], "epochs": 2}
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump({**study, **changes}, sort_keys=False))
    return read_crossval(path)


def test_every_method_has_the_same_folds_and_seeds(tmp_path: Path) -> None:
    methods = {"SGD": {"optimizer": "SGD"}, "Adam": {"optimizer": "Adam"}}
    plan = crossval(tmp_path, methods=methods, folds=3, repeats=2)
    assert plan.reference == "SGD"
    assert len(plan.runs) == plan.size == 12
    seen: dict[str, list[Any]] = {"SGD": [], "Adam": []}
    for run in plan.runs:
        settings = plan.settings(run)
        seen[settings["optimizer"]].append((settings["seed_everything"], settings["data"]["init_args"]))
    assert seen["SGD"] == seen["Adam"]
    assert [(arguments["fold"], arguments["fold_seed"]) for _, arguments in seen["SGD"]] == [
        (fold, repeat) for repeat in range(2) for fold in range(3)
    ]
    assert {arguments["folds"] for _, arguments in seen["SGD"]} == {3}
    assert crossval(tmp_path).methods == {"recipe": {}}


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"folds": 1}, "folds: must be >= 2, got 1"),
    ({"repeats": 0}, "repeats: must be >= 1, got 0"),
    ({"reference": "Adam"}, "reference: must be one of the methods recipe, got 'Adam'"),
    ({"methods": {"a b": {}, "a_b": {}}}, "'a b' and 'a_b' would share a folder"),
    (
        {"methods": {"a": {"data": {"init_args": {"fold": 1}}}}},
        "methods.a: data.init_args.fold must be left out",
    ),
    ({"methods": {"a": {"data": {"init_args": {"groups": "g.csv"}}}}}, "groups must be set in base"),
    ({"methods": {"a": {"data": {"init_args": {"train_size": 9}}}}}, "pool_size limits the images"),
    ({"methods": {"a": {"data": {"init_args": {"val_fraction": 0.2}}}}}, "the fold takes its place"),
    ({"base": [{"model": {}}]}, "base: must have data with a class_path"),
    ({"seeds": [0]}, "seeds: unknown key"),
]


@pytest.mark.parametrize(("changes", "sentence"), WRONG)
def test_mistakes_are_named(changes: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"study\.yaml") as error:
        crossval(tmp_path, **changes)
    assert sentence in str(error.value)


# ---- the report --------------------------------------------------------------------------------------------


def result_of(plan: Crossval, scores: dict[str, list[float]]) -> CrossvalResult:
    """With the given scores of each method, fold by fold; NaN for a run that diverged."""
    records = []
    for method, values in scores.items():
        for fold, value in enumerate(values):
            points = (Point(1.0, 1.0, {plan.metric: value}),)
            status: Any = "diverged" if math.isnan(value) else "complete"
            records.append(RunRecord(method, float(fold), 0, status, points, {plan.test_metric: value}))
    return CrossvalResult(plan, tuple(records), ())


def test_differences_are_taken_fold_by_fold(tmp_path: Path) -> None:
    plan = crossval(tmp_path, methods={"a": {}, "b": {}}, folds=4)
    result = result_of(plan, {"a": [0.1, 0.5, 0.9, 0.5], "b": [0.2, 0.6, math.nan, 0.6]})
    assert result.differences("b") == pytest.approx([0.1, 0.1, 0.1])
    header, *rows = crossval_table(result)
    by_method = {row[0]: dict(zip(header, row, strict=True)) for row in rows}
    assert by_method["a"]["val/accuracy"] == "0.5000"
    assert by_method["a"]["less a"] == "reference"
    assert by_method["b"]["less a"] == "+0.1000"
    assert by_method["b"]["folds"] == "3"
    assert crossval_notes(result) == [
        "1 runs diverged: their folds are missing, so the means are of different folds"
    ]


def test_the_best_comes_first(tmp_path: Path) -> None:
    changes: dict[str, Any] = {"methods": {"a": {}, "b": {}, "c": {}}, "folds": 2, "metric": "val/loss"}
    plan = crossval(tmp_path, **changes)
    result = result_of(plan, {"a": [2.0, 2.0], "b": [1.0, 1.0], "c": [3.0, 3.0]})
    assert [row[0] for row in crossval_table(result)[1:]] == ["b", "a", "c"]
    (note,) = crossval_notes(result)
    assert "2 methods are compared with a" in note
    assert "p < 0.025" in note


# ---- the command -------------------------------------------------------------------------------------------


@pytest.fixture
def study(fashion_mnist_dir: Path, tmp_path: Path) -> Path:
    base = {
        **softmax_regression(fashion_mnist_dir, pool_size=90),
        "optimizer": {"class_path": "SGD", "init_args": {"lr": 0.01}},
    }
    methods = {"fast": {}, "slow": {"optimizer": {"init_args": {"lr": 0.0001}}}}
    given = {
        "name": "small",
        "base": [base],
        "methods": methods,
        "folds": 2,
        "epochs": 2,
        "metric": "val/loss",
    }
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(given, sort_keys=False))
    return path


def test_it_trains_on_all_folds_and_reports(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--config", str(study), "--output", str(tmp_path / "out"), "--workers", "1"]
    assert main(options) == 0
    said = capsys.readouterr().out
    assert "2 methods x 2 folds x 1 repeats = 4 runs, 8 passes" in said
    lines = said.splitlines()
    assert next(line for line in lines if line.startswith("fast ")).split()[1] == "2"
    for name in ("report.html", "table.md", "table.csv", "scores.csv", "folds.png", "folds.svg"):
        assert (tmp_path / "out" / name).stat().st_size > 0
    # The folds that were held out share no image and are all images of the pool.
    held = []
    for fold in range(2):
        arguments = read_crossval(study).settings(Run("fast", float(fold), 0))["data"]["init_args"]
        data = FashionMNISTDataModule(**arguments)
        data.setup("fit")
        held += [index for batch in data.val_dataloader() for index in batch.index.tolist()]  # type: ignore[union-attr]
    assert len(held) == len(set(held)) == 90
    # More repeats are added to what is there.
    given = yaml.safe_load(study.read_text()) | {"repeats": 2}
    study.write_text(yaml.safe_dump(given, sort_keys=False))
    assert main([*options, "--plan"]) == 0
    queue = Queue(read_crossval(study), f"sqlite:///{tmp_path / 'out' / 'study.db'}")
    assert len(queue.records()) == 4
    assert len(queue.unfinished()) == 4


def test_a_fold_goes_on_from_its_checkpoint(study: Path, tmp_path: Path) -> None:
    plan = read_crossval(study)
    run = Run("fast", 1.0, 0)
    straight = do_run(plan, run, plan.settings(run), tmp_path / "straight")
    steps = 0

    def stop_later() -> None:
        nonlocal steps
        steps += 1
        if steps == 3:  # in the second epoch
            raise torch.OutOfMemoryError("as if the process ended")

    with pytest.raises(torch.OutOfMemoryError):
        do_run(plan, run, plan.settings(run), tmp_path / "broken", stop_later)
    resumed = do_run(plan, run, plan.settings(run), tmp_path / "broken")
    assert [point.metrics for point in resumed.points] == [point.metrics for point in straight.points]
    assert resumed.test == straight.test
