"""The plan of a study: what is compared, on which problem, over which values and seeds."""

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

__all__ = ["Run", "StudyPlan", "folder_name", "merge"]


class Run(NamedTuple):
    """One training run: a method at a value of the tuned setting, with a seed."""

    method: str
    value: float
    seed: int

    @property
    def key(self) -> str:
        """A unique name among the study's runs, also the name of its folder."""
        return f"{folder_name(self.method)}/{self.value:g}/seed{self.seed}"


def folder_name(method: str) -> str:
    """Return a method's label as the name of a folder.

    Example:
        >>> folder_name("SGD, lr=0.1"), folder_name("..")
        ('SGD__lr_0.1', '__')
    """
    safe = "".join(c if c.isalnum() or c in "-_." else "_" for c in method)
    return safe.replace(".", "_") if set(safe) <= {"."} else safe


@dataclass(frozen=True)
class StudyPlan:
    """A study, as described in its YAML.

    Attributes:
        name: Name of the study, also in its storage.
        title: Heading of the report.
        base: Settings of `fit` that all methods share, merged.
        methods: For each label, settings of `fit` that are laid over the base.
        tune: For each label, the dotted key of the setting that is tuned, or None if nothing is.
        tuned: Name of this setting in the report.
        values: For each label, the values to try.
        seeds: Seeds, all used with each value.
        epochs: Budget of a run, in passes over the training data.
        metric: Metric by which values are chosen.
        mode: "max" or "min": whether large or small values of `metric` are better.
        test_metric: Metric that is reported for the chosen values.
        target: Value of `metric` to be timed, or None.
        reference: Label of the method that the others are compared with in the ranking, or None.
        diverged_above: Training loss above which a run has diverged; None: only one that is not finite.
    """

    name: str
    title: str
    base: dict[str, Any]
    methods: dict[str, dict[str, Any]]
    tune: dict[str, str | None]
    tuned: str
    values: dict[str, tuple[float, ...]]
    seeds: tuple[int, ...]
    epochs: int
    metric: str
    mode: Literal["max", "min"]
    test_metric: str
    target: float | None
    reference: str | None
    diverged_above: float | None

    def describe(self, run: Run) -> str:
        """Name a run: its method, what it is tuned by and the value, its seed."""
        key = self.tune[run.method]
        shared = len(set(self.tune.values())) == 1
        name = self.tuned if shared else str(key).rpartition(".")[2]
        value = "" if key is None else f", {name} {run.value:g}"
        return f"{run.method}{value}, seed {run.seed}"

    @property
    def runs(self) -> list[Run]:
        """All runs, those of the first seed first, so that a study that is stopped early has all methods."""
        return [
            Run(method, value, seed)
            for seed in self.seeds
            for method, values in self.values.items()
            for value in values
        ]

    def settings(self, run: Run) -> dict[str, Any]:
        """Return the settings of `fit` for a run."""
        settings = merge(self.base, self.methods[run.method])
        key = self.tune[run.method]
        if key is not None:
            whole = run.value.is_integer()
            try:
                _put(settings, key.split("."), int(run.value) if whole else run.value)
            except KeyError as error:
                raise ValueError(f"methods.{run.method}: tune: {error.args[0]}") from None
        settings["seed_everything"] = run.seed
        settings.setdefault("trainer", {})["max_epochs"] = self.epochs
        return settings

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

    def fingerprint(self) -> str:
        """Return JSON that is equal for equal studies."""
        same = ("base", "methods", "epochs", "metric", "mode", "test_metric")
        parts = {name: getattr(self, name) for name in same}
        keys = set(self.tune.values())
        parts["tune"] = keys.pop() if len(keys) == 1 else self.tune
        if self.diverged_above is not None:
            parts["diverged_above"] = self.diverged_above
        return json.dumps(parts, sort_keys=True)


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


def _put(settings: Any, path: list[str], value: float) -> None:
    """Set the value at a place; a list's items are named by their index or by their class."""
    key, *rest = path
    if isinstance(settings, list):
        names = [_class_name(item) for item in settings]
        known = {name: item for i, item in enumerate(settings) for name in (str(i), names[i])}
        if key not in known or not rest:
            raise KeyError(f"{'.'.join(path)!r} is not in a list of {', '.join(names) or 'nothing'}")
        _put(known[key], rest, value)
    elif not isinstance(settings, dict):
        raise KeyError(f"{'.'.join(path)!r} is not in {settings!r}")
    elif rest:
        _put(settings.setdefault(key, {}), rest, value)
    else:
        settings[key] = value


def _class_name(item: Any) -> str:
    path = item.get("class_path", "") if isinstance(item, dict) else item
    return str(path).rpartition(".")[2]
