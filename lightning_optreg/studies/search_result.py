"""The result of a tuning study, collected from its storage."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lightning_optreg.studies.plan import Run
from lightning_optreg.studies.records import RunRecord, Unfinished
from lightning_optreg.studies.run_queue import Queue
from lightning_optreg.studies.search import Search

if TYPE_CHECKING:
    from optuna import Study

__all__ = ["SearchResult", "Tried", "collect_search", "short_names"]


@dataclass(frozen=True)
class Tried:
    """A trial that has ended.

    Attributes:
        number: Its number, from 0.
        values: What was chosen, by dotted keys.
        record: What became of it.
    """

    number: int
    values: Mapping[str, Any]
    record: RunRecord

    def reached(self, metric: str) -> float | None:
        """Return the last value of a metric; None if there is none."""
        return self.record.points[-1].metrics.get(metric) if self.record.points else None

    @property
    def passes(self) -> float:
        """Passes over the training data."""
        return self.record.points[-1].epoch if self.record.points else 0.0


@dataclass(frozen=True)
class SearchResult:
    """All that a report shows of a tuning study.

    Attributes:
        plan: The plan.
        tried: The trials that have ended, by their numbers.
        unfinished: Those without a result, failed ones too.
        study: The trials in memory for Optuna's pictures, each once, with short names for the settings.
    """

    plan: Search
    tried: tuple[Tried, ...]
    unfinished: tuple[Unfinished, ...]
    study: "Study"

    @property
    def best(self) -> Tried | None:
        """The complete trial with the best metric at its end; of equals the first. None if there is none."""
        best = max if self.plan.mode == "max" else min
        return best(self.ranked_by, key=lambda tried: tried[0])[1] if self.ranked_by else None

    @property
    def ranked_by(self) -> list[tuple[float, Tried]]:
        """The complete trials, each with the metric at its end, in the order of their numbers."""
        found = [(each.reached(self.plan.metric), each) for each in self.tried]
        return [
            (value, each)
            for value, each in found
            if each.record.status == "complete" and value is not None and value == value
        ]


def short_names(keys: Mapping[str, Any]) -> dict[str, str]:
    """Return the last part of each dotted key, or the whole key where two share it.

    Example:
        >>> short_names({"optimizer.init_args.lr": 0, "data.init_args.batch_size": 0})
        {'optimizer.init_args.lr': 'lr', 'data.init_args.batch_size': 'batch_size'}
    """
    ends = [key.rpartition(".")[2] for key in keys]
    return {key: end if ends.count(end) == 1 else key for key, end in zip(keys, ends, strict=True)}


def collect_search(queue: Queue[Search]) -> SearchResult:
    """Collect from its storage what a report shows of a tuning study.

    Args:
        queue: The study's runs.

    Raises:
        StorageUnavailableError: If the database does not answer.
    """
    import optuna
    from optuna.trial import create_trial

    plan, names = queue.plan, short_names(queue.plan.space.parts)
    records = {Run(r.method, r.value, r.seed): r for r in queue.records()}
    study = optuna.create_study(direction="maximize" if plan.mode == "max" else "minimize")
    tried = []
    for run, trial in queue.results().items():
        tried.append(Tried(int(run.value), dict(trial.params), records[run]))
        if not trial.state.is_finished():
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study.add_trial(
                create_trial(
                    state=trial.state,
                    value=trial.value,
                    params={names[key]: value for key, value in trial.params.items()},
                    distributions={names[key]: kind for key, kind in trial.distributions.items()},
                    intermediate_values=trial.intermediate_values,
                )
            )
    return SearchResult(plan, tuple(tried), tuple(queue.unfinished()), study)
