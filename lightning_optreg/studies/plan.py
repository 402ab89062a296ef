"""The plan of a study: what is compared, on which problem, over which values and seeds."""

import copy
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from typing_extensions import override

if TYPE_CHECKING:  # optuna is imported when a study is run
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial, Trial

__all__ = ["Chosen", "FixedPlan", "Plan", "Run", "StudyPlan", "folder_name", "is_foreign", "merge", "put"]


class Run(NamedTuple):
    """One training run: a method at a value of the tuned setting, with a seed."""

    method: str
    value: float
    seed: int

    @property
    def key(self) -> str:
        """A unique name among the study's runs, also the name of its folder."""
        return f"{folder_name(self.method)}/{self.value:g}/seed{self.seed}"


class Chosen(NamedTuple):
    """What a run does.

    Attributes:
        settings: The settings of `fit`.
        name: The run's name with what distinguishes it, for messages.
    """

    settings: dict[str, Any]
    name: str


@dataclass(frozen=True)
class Plan(ABC):
    """What every kind of study has; by this the queue and its workers know it.

    Attributes:
        name: Name of the study, also in its storage.
        title: Heading of the report.
        base: Settings of `fit` that all runs share, merged.
        epochs: Budget of a run, in passes over the training data.
        metric: Metric by which runs are chosen.
        mode: "max" or "min": whether large or small values of `metric` are better.
        test_metric: Metric that is reported for the chosen runs.
        diverged_above: Training loss above which a run has diverged; None: only one that is not finite.
    """

    name: str
    title: str
    base: dict[str, Any]
    epochs: int
    metric: str
    mode: Literal["max", "min"]
    test_metric: str
    diverged_above: float | None

    @property
    @abstractmethod
    def size(self) -> int | None:
        """How many runs there will be; None if that is open."""

    @abstractmethod
    def outline(self) -> str:
        """Return the size of the study in one line."""

    @property
    def seconds(self) -> float:
        """For how long a command begins new runs."""
        return math.inf

    def check(self) -> None:
        """Raise an error if Optuna will not make the sampler or the pruner.

        Raises:
            ModuleNotFoundError: If a package is missing.
            ValueError: If an argument is not understood.
        """
        self.sampler()
        self.pruner()

    @abstractmethod
    def fingerprint(self) -> str:
        """Return JSON that is equal for equal studies."""

    @abstractmethod
    def describe(self, run: Run) -> str:
        """Name a run, for messages."""

    @abstractmethod
    def rehearsals(self) -> dict[str, dict[str, Any]]:
        """Return settings of `fit` that are checked before the first run, by where the YAML has them."""

    @abstractmethod
    def planned(self, found: Iterable[Run]) -> list[Run]:
        """Return the study's runs in its order, given those that its storage has."""

    @abstractmethod
    def another(self, trials: "Mapping[Run, FrozenTrial]") -> Run | None:
        """Return a run to be added when no other is waiting; None if the plan is complete.

        Args:
            trials: The latest trial of each run in the storage.
        """

    @abstractmethod
    def parameters(self, run: Run) -> dict[str, Any]:
        """Return the parameters that a new trial of a run begins with."""

    @abstractmethod
    def choose(self, run: Run, trial: "Trial") -> Chosen:
        """Return the settings of `fit` for a run; its trial may choose some."""

    def sampler(self) -> "BaseSampler | None":
        """Return what chooses values; None if nothing is left to choose."""
        return None

    def pruner(self) -> "BasePruner | None":
        """Return what ends runs early; None if nothing does."""
        return None


@dataclass(frozen=True)
class FixedPlan(Plan):
    """A study whose runs and their settings are all known from the start: Optuna only keeps the queue."""

    @property
    @abstractmethod
    def runs(self) -> list[Run]:
        """All runs, in the order in which they are done."""

    @abstractmethod
    def settings(self, run: Run) -> dict[str, Any]:
        """Return the settings of `fit` for a run."""

    @property
    @override
    def size(self) -> int:
        """How many runs there are."""
        return len(self.runs)

    @override
    def planned(self, found: Iterable[Run]) -> list[Run]:
        """Return all runs."""
        return self.runs

    @override
    def another(self, trials: "Mapping[Run, FrozenTrial]") -> None:
        """Return None: no run is added."""

    @override
    def choose(self, run: Run, trial: "Trial") -> Chosen:
        """Return the settings of `fit` for a run."""
        return Chosen(self.settings(run), self.describe(run))


def folder_name(method: str) -> str:
    """Return a method's label as the name of a folder.

    Example:
        >>> folder_name("SGD, lr=0.1"), folder_name("..")
        ('SGD__lr_0.1', '__')
    """
    safe = "".join(c if c.isalnum() or c in "-_." else "_" for c in method)
    return safe.replace(".", "_") if set(safe) <= {"."} else safe


@dataclass(frozen=True)
class StudyPlan(FixedPlan):
    """A comparison of methods, as described in its YAML.

    Attributes:
        methods: For each label, settings of `fit` that are laid over the base.
        tune: For each label, the dotted key of the setting that is tuned, or None if nothing is.
        tuned: Name of this setting in the report.
        values: For each label, the values to try.
        seeds: Seeds, all used with each value.
        target: Value of `metric` to be timed, or None.
        reference: Label of the method that the others are compared with in the ranking, or None.
    """

    methods: dict[str, dict[str, Any]]
    tune: dict[str, str | None]
    tuned: str
    values: dict[str, tuple[float, ...]]
    seeds: tuple[int, ...]
    target: float | None
    reference: str | None

    @override
    def describe(self, run: Run) -> str:
        """Name a run: its method, what it is tuned by and the value, its seed."""
        key = self.tune[run.method]
        shared = len(set(self.tune.values())) == 1
        name = self.tuned if shared else str(key).rpartition(".")[2]
        value = "" if key is None else f", {name} {run.value:g}"
        return f"{run.method}{value}, seed {run.seed}"

    @property
    @override
    def runs(self) -> list[Run]:
        """All runs, those of the first seed first, so that a study that is stopped early has all methods."""
        return [
            Run(method, value, seed)
            for seed in self.seeds
            for method, values in self.values.items()
            for value in values
        ]

    @override
    def settings(self, run: Run) -> dict[str, Any]:
        """Return the settings of `fit` for a run."""
        settings = merge(self.base, self.methods[run.method])
        key = self.tune[run.method]
        if key is not None:
            whole = run.value.is_integer()
            try:
                put(settings, key.split("."), int(run.value) if whole else run.value)
            except KeyError as error:
                raise ValueError(f"methods.{run.method}: tune: {error.args[0]}") from None
        settings["seed_everything"] = run.seed
        settings.setdefault("trainer", {})["max_epochs"] = self.epochs
        return settings

    @override
    def parameters(self, run: Run) -> dict[str, Any]:
        """Return the run itself, for those who look at the storage with Optuna's tools."""
        return run._asdict()

    @override
    def rehearsals(self) -> dict[str, dict[str, Any]]:
        """Return the settings of one run of each method."""
        firsts = {method: Run(method, values[0], self.seeds[0]) for method, values in self.values.items()}
        return {f"methods.{method}": self.settings(run) for method, run in firsts.items()}

    @override
    def outline(self) -> str:
        """Return the size of the study in one line: methods, values, seeds, runs and passes."""
        runs, passes = len(self.runs), len(self.runs) * self.epochs
        tuned = [method for method, key in self.tune.items() if key is not None]
        tried = {len(self.values[method]) for method in tuned} or {1}
        count = " to ".join(str(n) for n in sorted({min(tried), max(tried)}))
        as_they_are = len(self.methods) - len(tuned)
        return (
            f"{self.title}: {len(tuned)} methods x {count} values of the {self.tuned}"
            f"{f' and {as_they_are} without' if as_they_are else ''} "
            f"x {len(self.seeds)} seeds = {runs} runs, "
            f"{passes} passes over the training data"
        )

    @override
    def fingerprint(self) -> str:
        """Return JSON that is equal for equal studies."""
        same = ("base", "methods", "epochs", "metric", "mode", "test_metric")
        parts = {name: getattr(self, name) for name in same}
        keys = set(self.tune.values())
        parts["tune"] = keys.pop() if len(keys) == 1 else self.tune
        if self.diverged_above is not None:
            parts["diverged_above"] = self.diverged_above
        return json.dumps(parts, sort_keys=True)


def is_foreign(settings: Mapping[str, Any]) -> bool:
    """Return whether settings of a study name a module that is not this package's classifier.

    Example:
        >>> is_foreign({"model": {"class_path": "my_project.Mine"}}), is_foreign({"model": {"net": "LeNet5"}})
        (True, False)
    """
    model = settings.get("model")
    return isinstance(model, Mapping) and "class_path" in model


def merge(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Lay settings over others: mappings merge, another class_path drops the old one's init_args.

    Args:
        under: The settings below.
        over: Those laid over them.

    Example:
        >>> merge({"trainer": {"max_epochs": 1, "devices": 1}}, {"trainer": {"max_epochs": 2}})
        {'trainer': {'max_epochs': 2, 'devices': 1}}
    """
    merged = copy.deepcopy(dict(under))
    for key, value in over.items():
        old = merged.get(key)
        if isinstance(value, dict) and isinstance(old, dict):
            changed = "class_path" in value and value["class_path"] != old.get("class_path")
            merged[key] = copy.deepcopy(value) if changed else merge(old, value)
        elif key.endswith("+"):
            merged[key] = [*merged.get(key, []), *copy.deepcopy(value)]
        else:
            merged[key] = copy.deepcopy(value)
    return merged


def put(settings: Any, path: Sequence[str], value: Any) -> None:
    """Set the value at a place.

    Args:
        settings: Nested mappings and lists, changed in place.
        path: The keys; a list's items are named by their index or by their class.
        value: The value.

    Raises:
        KeyError: If there is no such place.

    Example:
        >>> settings = {"callbacks": [{"class_path": "MaxNorm"}]}
        >>> put(settings, ["callbacks", "MaxNorm", "init_args", "max_norm"], 3.0)
        >>> settings
        {'callbacks': [{'class_path': 'MaxNorm', 'init_args': {'max_norm': 3.0}}]}
    """
    key, *rest = path
    if isinstance(settings, list):
        names = [_class_name(item) for item in settings]
        known = {name: item for i, item in enumerate(settings) for name in (str(i), names[i])}
        if key not in known or not rest:
            raise KeyError(f"{'.'.join(path)!r} is not in a list of {', '.join(names) or 'nothing'}")
        put(known[key], rest, value)
    elif not isinstance(settings, dict):
        raise KeyError(f"{'.'.join(path)!r} is not in {settings!r}")
    elif rest:
        put(settings.setdefault(key, {}), rest, value)
    else:
        settings[key] = value


def _class_name(item: Any) -> str:
    path = item.get("class_path", "") if isinstance(item, dict) else item
    return str(path).rpartition(".")[2]
