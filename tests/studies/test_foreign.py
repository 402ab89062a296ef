"""Studies of somebody else's LightningModule and LightningDataModule, named by their class paths."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from lightning_optreg.commands import compare, crossval, tune
from lightning_optreg.studies.plan_file import read_plan
from lightning_optreg.studies.run_queue import Queue
from lightning_optreg.studies.runner import do_run

pytest.importorskip("optuna", reason="the extra 'tune' is not installed")

pytestmark = pytest.mark.usefixtures("blank_curves")

HERE = "tests.studies.other_project"
BASE = {
    "model": {"class_path": f"{HERE}.Line", "init_args": {"lr": 0.01}},
    "data": {"class_path": f"{HERE}.Points"},
    "trainer": {"accelerator": "cpu", "log_every_n_steps": 1},
}
COMMON = {
    "name": "other",
    "base": [BASE],
    "epochs": 3,
    "metric": "error_on_validation",
    "test_metric": "error_on_test",
    "mode": "min",
}
COMPARED = {
    **COMMON,
    "tune": "model.init_args.lr",
    "values": [0.001, 0.1],
    "seeds": [0, 1],
    "methods": {"line": {}, "net": {"model": {"init_args": {"hidden": 4}}}},
}


def write(study: dict[str, Any], folder: Path) -> Path:
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(study, sort_keys=False))
    return path


def options(path: Path) -> list[str]:
    return ["--config", str(path), "--output", str(path.parent / "out"), "--workers", "1"]


@pytest.mark.slow
def test_compare(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write({**COMPARED, "seeds": [0]}, tmp_path)
    assert compare.main(options(path)) == 0
    records = Queue(read_plan(path), f"sqlite:///{tmp_path / 'out' / 'study.db'}").records()
    assert len(records) == 4
    assert {record.status for record in records} == {"complete"}
    by_rate = {(r.method, r.value, r.seed): r.test["error_on_test"] for r in records}
    assert by_rate["line", 0.1, 0] < by_rate["line", 0.001, 0]
    assert [point.epoch for point in records[0].points] == [1.0, 2.0, 3.0]
    assert "line" in capsys.readouterr().out


@pytest.mark.slow
def test_tune(tmp_path: Path) -> None:
    search = {"model.init_args.lr": {"low": 0.001, "high": 0.3, "log": True}}
    path = write({**COMMON, "search": search, "trials": 3}, tmp_path)
    assert tune.main(options(path)) == 0
    best = yaml.safe_load((tmp_path / "out" / "best.yaml").read_text())
    assert best["model"]["class_path"] == f"{HERE}.Line"
    assert 0.001 <= best["model"]["init_args"]["lr"] <= 0.3


@pytest.mark.slow
def test_crossval(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    methods = {"slow": {}, "fast": {"model": {"init_args": {"lr": 0.1}}}}
    path = write({**COMMON, "folds": 3, "methods": methods}, tmp_path)
    assert crossval.main(options(path)) == 0
    said = capsys.readouterr().out.splitlines()
    rows = [line.split()[:2] for line in said if line.startswith(("slow", "fast"))]
    assert rows == [["fast", "3"], ["slow", "3"]]  # less error is better


def test_a_run_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    plan = read_plan(write(COMPARED, tmp_path))
    run = plan.runs[0]
    straight = do_run(plan, run, plan.settings(run), tmp_path / "straight")
    batches = 0

    def stop_later() -> None:
        nonlocal batches
        batches += 1
        if batches == 9:  # in the second epoch: each has 5 batches of training and 2 of validation
            raise torch.OutOfMemoryError("as if the process ended")

    with pytest.raises(torch.OutOfMemoryError):
        do_run(plan, run, plan.settings(run), tmp_path / "broken", stop_later)
    resumed = do_run(plan, run, plan.settings(run), tmp_path / "broken")
    assert [point.metrics for point in resumed.points] == [point.metrics for point in straight.points]
    assert resumed.test == straight.test


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"tune": "model.init_args.rate"}, "rate"),
        ({"base": [{**BASE, "model": {"class_path": f"{HERE}.Lines"}}]}, "Lines"),
    ],
)
def test_mistakes_are_found_before_the_first_run(
    changes: dict[str, Any], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compare.main(options(write({**COMPARED, **changes}, tmp_path))) == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert not (tmp_path / "out").exists()


def test_a_stranger_s_study_may_not_name_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(COMPARED, tmp_path)
    assert compare.main([*options(path), "--safe", "--plan"]) == 2
    assert f"{HERE}.Line is not of lightning_optreg" in capsys.readouterr().err
    assert compare.main([*options(path), "--safe", "--allow", "tests", "--plan"]) == 0
