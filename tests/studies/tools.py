"""A study without networks: its runs are claimed, finished and lost by hand."""

from pathlib import Path
from typing import Any

import yaml

from lightning_optreg.runs.ownership import this_process
from lightning_optreg.studies import Point, RunRecord
from lightning_optreg.studies.plan import Run, StudyPlan
from lightning_optreg.studies.plan_file import read_plan
from lightning_optreg.studies.run_queue import Claim, Queue


def plan(folder: Path, **changes: Any) -> StudyPlan:
    study = {"name": "small", "base": [{}], "epochs": 1, "seeds": [0], "values": [0.1, 0.2]}
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump({**study, "methods": {"SGD": {}}, **changes}))
    return read_plan(path)


def softmax_regression(data_dir: Path, **settings: Any) -> dict[str, Any]:
    """Settings of `fit` for the quickest of runs on the small data set, but for the optimizer.

    Args:
        data_dir: The fixture `fashion_mnist_dir`.
        settings: More of the data module.
    """
    data = {"data_dir": str(data_dir), "verify_checksum": False, **settings}
    return {
        "data": {"class_path": "FashionMNISTDataModule", "init_args": data},
        "model": {"net": "SoftmaxRegression"},
        "trainer": {"accelerator": "cpu"},
    }


def queue(folder: Path, wait: float = 5.0) -> Queue[StudyPlan]:
    return Queue(plan(folder), f"sqlite:///{folder / 'study.db'}", wait)


def record(run: Run, accuracy: float = 0.5) -> RunRecord:
    return RunRecord(*run, "complete", (Point(1.0, 1.0, {"val/accuracy": accuracy}),), {})


def claimed(queue: Queue[Any]) -> Claim:
    claim = queue.claim()
    assert claim is not None
    return claim


def die(claim: Claim) -> None:
    """Let a claim's process have ended, and its number be that of a living one, as always in containers."""
    claim.trial.set_user_attr("worker", this_process()._replace(began="1")._asdict())
