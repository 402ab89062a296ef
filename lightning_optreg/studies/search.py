"""The plan of a tuning study: which settings are searched, how, and for how long."""

import json
import math
from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from lightning_optreg.studies.plan import Chosen, Plan, Run, put
from lightning_optreg.studies.search_space import Choice, SearchSpace

if TYPE_CHECKING:  # optuna is imported when a study is run
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial, Trial

__all__ = ["Search"]

TRIAL = "trial"


@dataclass(frozen=True)
class Search(Plan):
    """A search for the best settings, as described in its YAML.

    Its runs are `Run("trial", number, seed)`, with the same seed, added one after another as workers ask for
    them. Grids and the settings that are tried first are known in advance; the rest is chosen by the sampler
    when a worker takes the trial, from the results so far.

    Attributes:
        space: What is searched.
        first: Settings to be tried first, by their dotted keys; keys that are missing are chosen.
        grid: All settings of a grid; None if a sampler chooses.
        sampler_name: "tpe", "random", "grid" or "cmaes".
        sampler_options: Arguments of Optuna's class.
        pruner_name: "none", "median" or "hyperband".
        pruner_options: Likewise.
        trials: How many trials there will be at most; None for no limit.
        total_epochs: No new trial is begun when all have used so many passes together; None for no limit.
        minutes: No new trial is begun after so many minutes of a command; None for no limit.
        seed: Seed of all trials, and of the sampler.
        folds: Number of folds of a nested cross-validation; None: there is none.
        fold: The fold that this search does not see, and on which its trials are tested; None: no fold.
    """

    space: SearchSpace
    first: tuple[dict[str, Any], ...]
    grid: tuple[dict[str, Any], ...] | None
    sampler_name: str
    sampler_options: dict[str, Any]
    pruner_name: str
    pruner_options: dict[str, Any]
    trials: int | None
    total_epochs: float | None
    minutes: float | None
    seed: int
    folds: int | None = None
    fold: int | None = None

    def of_fold(self, fold: int) -> "Search":
        """Return the search on all folds but one, which has a name of its own.

        Args:
            fold: From 0.

        Raises:
            ValueError: If there is no such fold.
        """
        if self.folds is None:
            raise ValueError(f"fold: the study must give folds, got fold {fold} of none")
        if not 0 <= fold < self.folds:
            raise ValueError(f"fold: must be >= 0 and < {self.folds}, the folds of the study, got {fold}")
        title = f"{self.title}, fold {fold} held out"
        return replace(self, fold=fold, name=f"{self.name}_fold{fold}", title=title)

    @property
    @override
    def size(self) -> int | None:
        """How many trials there will be; None if passes or minutes decide."""
        return self.trials if self.total_epochs is None and self.minutes is None else None

    @property
    @override
    def seconds(self) -> float:
        """For how long a command begins new trials."""
        return math.inf if self.minutes is None else 60.0 * self.minutes

    @override
    def outline(self) -> str:
        """Return the size of the study in one line."""
        limits = [
            f"{limit:g} {name}"
            for limit, name in (
                (self.trials, "trials"),
                (self.total_epochs, "passes in all"),
                (self.minutes, "minutes"),
            )
            if limit is not None
        ]
        pruner = "" if self.pruner_name == "none" else f", {self.pruner_name} pruning"
        return (
            f"{self.title}: {len(self.space.parts)} settings, {self.sampler_name}{pruner}, "
            f"{self.epochs} passes a trial, at most {' or '.join(limits)}"
        )

    @override
    def fingerprint(self) -> str:
        """Return JSON that is equal for equal studies: more trials may be added, and sampled otherwise."""
        same = ("base", "epochs", "metric", "mode", "test_metric", "seed", "diverged_above")
        parts = {name: getattr(self, name) for name in same}
        parts["search"] = {key: asdict(part) for key, part in self.space.parts.items()}
        if self.fold is not None:
            parts["fold"] = [self.fold, self.folds]
        return json.dumps(parts, sort_keys=True, default=list)

    @override
    def describe(self, run: Run) -> str:
        """Name a run by its number."""
        return f"{TRIAL} {run.value:g}"

    @override
    def rehearsals(self) -> dict[str, dict[str, Any]]:
        """Return the settings at ends of the ranges, so that each option is in one of them."""
        options = [len(part.options) for part in self.space.parts.values() if isinstance(part, Choice)]
        found: dict[str, dict[str, Any]] = {}
        for number in range(max([2, *options])):
            values = self.space.corner(number)
            found[f"search, {_in_words(values)}"] = self.settings(values)
        for number, values in enumerate(self.first):
            found[f"first.{number}"] = self.settings(values)
        return found

    @override
    def planned(self, found: Iterable[Run]) -> list[Run]:
        """Return the runs that were begun, in the order of their numbers."""
        return sorted(set(found))

    @override
    def another(self, trials: "Mapping[Run, FrozenTrial]") -> Run | None:
        """Return the next trial, unless trials or passes are used up."""
        number = 1 + max((int(run.value) for run in trials), default=-1)
        known = None if self.grid is None else len(self.grid)
        limits = [limit for limit in (self.trials, known) if limit is not None]
        if limits and number >= min(limits):
            return None
        if self.total_epochs is not None and sum(map(self._spent, trials.values())) >= self.total_epochs:
            return None
        return Run(TRIAL, float(number), self.seed)

    def _spent(self, trial: "FrozenTrial") -> float:
        """Return the passes of a trial: all of its budget, as long as it has not ended."""
        record = trial.user_attrs.get("record")
        points = record["points"] if record is not None else [{"epoch": self.epochs}]
        return float(points[-1]["epoch"]) if points else 0.0

    @override
    def parameters(self, run: Run) -> dict[str, Any]:
        """Return the settings of a run as far as they are known in advance."""
        known = self.first if self.grid is None else self.grid
        return dict(known[int(run.value)]) if run.value < len(known) else {}

    @override
    def choose(self, run: Run, trial: "Trial") -> Chosen:
        """Let the trial choose."""
        values = self.space.suggest(trial)
        return Chosen(self.settings(values), f"{self.describe(run)} ({_in_words(values)})")

    def settings(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the settings of `fit` for the values of a trial.

        Raises:
            ValueError: If the base has no place for a key.
        """
        settings = deepcopy(self.base)
        for key, value in self.space.settings(values).items():
            try:
                put(settings, key.split("."), deepcopy(value))
            except KeyError as error:
                raise ValueError(f"search.{key}: {error.args[0]}") from None
        if self.fold is not None:
            held = {"fold": self.fold, "folds": self.folds, "held_out": "test"}
            for name, value in held.items():
                put(settings, ("data", "init_args", name), value)
        settings["seed_everything"] = self.seed
        settings.setdefault("trainer", {})["max_epochs"] = self.epochs
        return settings

    @override
    def sampler(self) -> "BaseSampler":
        """Return Optuna's sampler."""
        from optuna.samplers import RandomSampler

        from lightning_optreg.studies.samplers import make_sampler, seeded_sampler

        if self.grid is not None:
            return RandomSampler(self.seed)  # nothing is left to it
        return seeded_sampler(
            lambda seed: make_sampler(self.sampler_name, self.sampler_options, self.space, seed), self.seed
        )

    @override
    def pruner(self) -> "BasePruner":
        """Return Optuna's pruner; one that does nothing still gets the values, for the pictures."""
        from lightning_optreg.studies.samplers import make_pruner

        return make_pruner(self.pruner_name, self.pruner_options, self.epochs)


def _in_words(values: Mapping[str, Any]) -> str:
    """Return values by the last parts of their keys."""
    rounded = {key: f"{value:.4g}" if isinstance(value, float) else value for key, value in values.items()}
    return ", ".join(f"{key.rpartition('.')[2]} {value}" for key, value in rounded.items())
