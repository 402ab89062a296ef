"""Two machines that share nothing but the storage of a study: both have the whole report."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.studies.search_tools import LR
from tests.studies.tools import softmax_regression

pytest.importorskip("optuna", reason="the extra 'tune' is not installed")

SGD = {"optimizer": {"class_path": "SGD"}}
STUDIES: dict[str, tuple[dict[str, Any], int, list[str]]] = {
    "compare": (
        {
            "tune": "optimizer.init_args.lr",
            "values": [0.01, 0.1],
            "seeds": [0, 1],
            "methods": {"SGD": SGD, "Adam": {"optimizer": {"class_path": "Adam"}}},
        },
        8,
        ["report.html", "table.md"],
    ),
    "crossval": ({"folds": 3, "repeats": 2}, 6, ["report.html", "scores.csv", "folds.png"]),
    "tune": (
        {"search": {"optimizer.init_args.lr": LR}, "trials": 6, "pruner": "none"},
        6,
        ["report.html", "trials.csv", "best.yaml"],
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("command", STUDIES)
def test_both_have_the_whole_report(command: str, fashion_mnist_dir: Path, tmp_path: Path) -> None:
    study, runs, files = STUDIES[command]
    base = softmax_regression(fashion_mnist_dir)
    given = {"name": "shared", "base": [{**SGD, **base}], "epochs": 2, **study}
    copies = [tmp_path / "one", tmp_path / "two"]
    for copy in copies:
        copy.mkdir()
        (copy / "study.yaml").write_text(yaml.safe_dump(given, sort_keys=False))
    arguments = [sys.executable, "-m", "lightning_optreg", command, "--config=study.yaml"]
    arguments += [f"--storage=journal:///{tmp_path / 'shared.log'}", "--output=out"]
    workers = [
        subprocess.Popen([*arguments, "--workers=1"], cwd=copy, stdout=subprocess.PIPE) for copy in copies
    ]
    done = []
    for worker in workers:
        said, _ = worker.communicate(timeout=300)
        done.append(said.decode().count(": complete"))
    assert sum(done) == runs
    for copy in copies:
        subprocess.run([*arguments, "--report_only"], cwd=copy, check=True, timeout=300)
    for name in files:
        first, second = (copy.joinpath("out", name).read_bytes() for copy in copies)
        assert first == second, name
        assert first
