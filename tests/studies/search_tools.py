"""A search without networks: its trials are claimed and finished by hand."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from lightning_optreg.studies import Point, RunRecord
from lightning_optreg.studies.run_queue import Claim, Queue
from lightning_optreg.studies.search import Search
from lightning_optreg.studies.search_file import read_search

LR = {"low": 1e-3, "high": 1.0, "log": True}


def search(folder: Path, **changes: Any) -> Search:
    study = {"name": "small", "base": [{"optimizer": {"class_path": "SGD", "init_args": {}}}], "epochs": 3}
    path = folder / "study.yaml"
    settings = {**study, "search": {"optimizer.init_args.lr": LR}, "trials": 4, **changes}
    given = {key: value for key, value in settings.items() if value is not None}
    path.write_text(yaml.safe_dump(given, sort_keys=False))
    return read_search(path)


def queue(plan: Search, folder: Path, storage: str | None = None) -> Queue[Search]:
    return Queue(plan, storage or f"sqlite:///{folder / 'study.db'}", 5.0)


def record(claim: Claim, accuracies: list[float], status: Any = "complete") -> RunRecord:
    points = [Point(n + 1.0, 1.0, {"val/accuracy": accuracy}) for n, accuracy in enumerate(accuracies)]
    return RunRecord(*claim.run, status, tuple(points), {"test/accuracy": accuracies[-1]})


def work_through(
    queue: Queue[Search], score: Callable[[dict[str, Any]], float]
) -> list[tuple[int, dict[str, Any]]]:
    """Do all trials; return their numbers and what was chosen for them."""
    chosen = []
    while (claim := queue.claim()) is not None:
        queue.choose(claim)
        values = dict(claim.trial.params)
        chosen.append((int(claim.run.value), values))
        queue.finish(claim, record(claim, [score(values)]))
    return chosen
