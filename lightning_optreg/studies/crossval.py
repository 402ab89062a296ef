"""The plan of a cross-validation: every method on every fold, in several repetitions."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from lightning_optreg.studies.plan import FixedPlan, Run, is_foreign, merge, put
from lightning_optreg.studies.study_file import (
    COMMON,
    check_common,
    check_devices,
    check_labels,
    check_metrics,
    common_fields,
    merged_base,
    read_study,
)

if TYPE_CHECKING:  # optuna is imported when a study is run
    pass

__all__ = ["Crossval", "read_crossval"]

_KEYS = {
    **COMMON,
    "methods": (dict, None),
    "folds": (int, 5),
    "repeats": (int, 1),
    "reference": ((str, type(None)), None),
}
_REQUIRED = ("name", "base", "epochs")
_SETTINGS = ("fold", "folds", "fold_seed", "held_out")
_DEAL = ("data_dir", "groups", "pool_size", "split_seed", "stratified", "test_fraction")
"""What decides which images are in a fold."""


@dataclass(frozen=True)
class Crossval(FixedPlan):
    """A cross-validation, as described in its YAML.

    A run is `Run(method, fold, repeat)`: it trains on all folds but one, and its score is the validation
    metric on that one at the run's end. Repeat r deals the images anew with `fold_seed` r, and starts from
    the seed r.

    Attributes:
        methods: For each label, settings of `fit` that are laid over the base.
        folds: Number of folds k, at least 2.
        repeats: Number of repetitions r, at least 1.
        reference: Label of the method that the others are compared with.
    """

    methods: dict[str, dict[str, Any]]
    folds: int
    repeats: int
    reference: str

    @property
    @override
    def runs(self) -> list[Run]:
        """All runs; fold by fold, so that a study that is stopped early has all methods on some folds."""
        return [
            Run(method, float(fold), repeat)
            for repeat in range(self.repeats)
            for fold in range(self.folds)
            for method in self.methods
        ]

    @override
    def settings(self, run: Run) -> dict[str, Any]:
        """Return the settings of `fit` for a run."""
        settings = merge(self.base, self.methods[run.method])
        for name, value in zip(_SETTINGS, (int(run.value), self.folds, run.seed, "validation"), strict=True):
            if name != "held_out" or not is_foreign(settings):  # others' data need not know of it
                put(settings, ("data", "init_args", name), value)
        settings["seed_everything"] = run.seed
        settings.setdefault("trainer", {})["max_epochs"] = self.epochs
        return settings

    @override
    def outline(self) -> str:
        """Return the size of the study in one line."""
        return (
            f"{self.title}: {len(self.methods)} methods x {self.folds} folds x {self.repeats} repeats = "
            f"{self.size} runs, {self.size * self.epochs} passes over the training folds"
        )

    @override
    def fingerprint(self) -> str:
        """Return JSON that is equal for equal studies; repeats may be added."""
        same = ("base", "methods", "folds", "epochs", "metric", "mode", "test_metric", "diverged_above")
        return json.dumps({name: getattr(self, name) for name in same}, sort_keys=True)

    @override
    def describe(self, run: Run) -> str:
        """Name a run: its method, fold and repeat."""
        return f"{run.method}, fold {run.value:g}, repeat {run.seed}"

    @override
    def rehearsals(self) -> dict[str, dict[str, Any]]:
        """Return the settings of the first run of each method."""
        return {f"methods.{method}": self.settings(Run(method, 0.0, 0)) for method in self.methods}

    @override
    def parameters(self, run: Run) -> dict[str, Any]:
        """Return the run, for those who look at the storage with Optuna's tools."""
        return {"method": run.method, "fold": int(run.value), "repeat": run.seed}


def read_crossval(path: Path) -> Crossval:
    """Read and check the YAML of a cross-validation.

    Args:
        path: The file.

    Raises:
        FileNotFoundError: If it, or a recipe that it names, does not exist.
        ValueError: If something in it is wrong; the message names the key, the value and what is allowed.
    """
    return read_study(path, _KEYS, _REQUIRED, lambda settings: _checked(settings, path))


def _checked(settings: dict[str, Any], path: Path) -> Crossval:
    check_common(settings)
    base = merged_base(settings["base"], path)
    methods = {str(label): part for label, part in (settings["methods"] or {"recipe": {}}).items()}
    check_labels(methods)
    if not settings["folds"] >= 2:
        raise ValueError(f"folds: must be >= 2, got {settings['folds']}")
    if not settings["repeats"] >= 1:
        raise ValueError(f"repeats: must be >= 1, got {settings['repeats']}")
    reference = settings["reference"] or next(iter(methods))
    if reference not in methods:
        raise ValueError(f"reference: must be one of the methods {', '.join(methods)}, got {reference!r}")
    for where, part in {"base": base, **{f"methods.{label}": own for label, own in methods.items()}}.items():
        check_devices(part, where)
        given = (part.get("data") or {}).get("init_args") or {} if isinstance(part.get("data"), dict) else {}
        if taken := [name for name in _SETTINGS if name in given]:
            raise ValueError(f"{where}: data.init_args.{taken[0]} must be left out; crossval sets it")
        if given.get("val_fraction") is not None:
            raise ValueError(
                f"{where}: data.init_args.val_fraction must be left out: the fold takes its place"
            )
        if given.get("train_size") is not None:
            raise ValueError(
                f"{where}: data.init_args.train_size must be left out, since folds would not be of one size; "
                "pool_size limits the images that are dealt"
            )
        if where != "base" and (changed := [name for name in _DEAL if name in given]):
            raise ValueError(f"{where}: data.init_args.{changed[0]} must be set in base: methods share folds")
    check_metrics(settings, [base, *methods.values()])
    if not isinstance(base.get("data"), dict):
        raise ValueError("base: must have data with a class_path, got none")
    return Crossval(
        **common_fields(settings, base),
        methods=methods,
        folds=settings["folds"],
        repeats=settings["repeats"],
        reference=reference,
    )
