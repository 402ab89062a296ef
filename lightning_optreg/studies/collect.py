"""The result of a study, collected from its storage."""

import lightning
import torch

from lightning_optreg import __version__
from lightning_optreg.studies.plan import StudyPlan
from lightning_optreg.studies.records import StudyResult
from lightning_optreg.studies.run_queue import Queue

__all__ = ["collect"]


def collect(queue: Queue[StudyPlan]) -> StudyResult:
    """Collect from its storage what a report shows of a study.

    Args:
        queue: The study's runs.

    Raises:
        StorageUnavailableError: If the database does not answer.
    """
    plan = queue.plan
    return StudyResult(
        name=plan.name,
        title=plan.title,
        tuned=plan.tuned,
        metric=plan.metric,
        mode=plan.mode,
        test_metric=plan.test_metric,
        target=plan.target,
        description=_description(plan),
        planned=len(plan.runs),
        records=tuple(queue.records()),
        unfinished=tuple(queue.unfinished()),
        settings=_own_settings(plan),
        reference=plan.reference,
    )


def _own_settings(plan: StudyPlan) -> dict[str, str | None]:
    """Return the setting that each method is tuned by, unless all share one."""
    keys = plan.tune
    if len(set(keys.values())) == 1 and None not in keys.values():
        return {}
    return {method: None if key is None else key.rpartition(".")[2] for method, key in keys.items()}


def _description(plan: StudyPlan) -> dict[str, str]:
    base = plan.base
    data, net = base.get("data", {}), base.get("model", {}).get("net", {})
    return {
        "Data": _named(data),
        "Network": _named(net),
        "Budget of a run": f"{plan.epochs} passes over the training data",
        "Seeds": ", ".join(map(str, plan.seeds)),
        "Versions": f"lightning_optreg {__version__}, torch {torch.__version__}, "
        f"lightning {lightning.__version__}",
    }


def _named(part: object) -> str:
    if not isinstance(part, dict):
        return str(part)
    settings = ", ".join(f"{key}={value}" for key, value in (part.get("init_args") or {}).items())
    name = str(part.get("class_path", "")).rpartition(".")[2]
    return f"{name}({settings})" if settings else name
