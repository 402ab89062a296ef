"""Runs that share a process, and what it has parsed before, are the runs that they would be alone."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from lightning_optreg.cli.parsed_before import ParsedBefore
from lightning_optreg.studies.plan import Run
from lightning_optreg.studies.plan_file import read_plan
from lightning_optreg.studies.runner import do_run
from tests.studies.tools import softmax_regression

RUNS = [Run("SGD", 0.1, 0), Run("momentum", 0.1, 0), Run("SGD", 0.01, 1), Run("SGD", 0.1, 0)]


@pytest.fixture
def study(fashion_mnist_dir: Path, tmp_path: Path) -> Path:
    crop = {"class_path": "RandomCrop", "init_args": {"padding": 2}}
    noise = {"class_path": "GradientNoise", "init_args": {"eta": 0.1}}
    path = tmp_path / "study.yaml"
    study = {
        "name": "small",
        "base": [softmax_regression(fashion_mnist_dir, augment=[crop])],
        "epochs": 1,
        "seeds": [0, 1],
        "values": [0.01, 0.1],
        "methods": {
            "SGD": {"optimizer": {"class_path": "SGD"}, "trainer": {"callbacks": [noise]}},
            "momentum": {"optimizer": {"class_path": "SGD", "init_args": {"momentum": 0.9}}},
        },
    }
    path.write_text(yaml.safe_dump(study))
    return path


def results(study: Path, run: Run, before: ParsedBefore | None) -> tuple[Any, ...]:
    """What a run leaves, but for times; nothing of its folder stays."""
    plan = read_plan(study)
    folder = study.parent / "run"
    record = do_run(plan, run, plan.settings(run), folder, before=before)
    assert record.status == "complete", record.message
    (configuration,) = folder.rglob("config.yaml")
    (checkpoint,) = folder.rglob("last.ckpt")
    saved = torch.load(checkpoint, weights_only=True)
    weights = {name: value.tolist() for name, value in saved["state_dict"].items()}
    kept = (saved["hyper_parameters"], list(saved["callbacks"]), str(saved["optimizer_states"]))
    text = configuration.read_text()
    folder.rename(study.parent / f"run{len(list(study.parent.iterdir()))}")
    metrics = [point.metrics for point in record.points]
    return text, metrics, record.test, weights, kept


def test_each_run_is_what_it_is_alone(study: Path) -> None:
    """In particular its configuration, its weights and what its checkpoint notes, bit for bit."""
    before = ParsedBefore()
    together = [results(study, run, before) for run in RUNS]
    assert together[0] == together[-1]
    assert together[0] != together[1]
    for run, found in zip(RUNS[:3], together[:3], strict=True):
        assert found == results(study, run, None)
