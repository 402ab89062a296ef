"""Read what a storage holds; anybody may have written it, so it is checked before use."""

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from lightning_optreg.runs.ownership import Owner
from lightning_optreg.studies.plan import Run
from lightning_optreg.studies.records import RunRecord

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial, Trial

__all__ = [
    "current_of",
    "fingerprint_difference",
    "is_run",
    "latest_of",
    "owner_of",
    "record_of",
    "run_of",
    "sign_of",
]


def is_run(trial: "FrozenTrial | Trial") -> bool:
    """Return whether the trial names the run it belongs to."""
    return "run" in trial.user_attrs


def run_of(trial: "FrozenTrial | Trial") -> Run:
    """Return the run that a trial belongs to.

    Raises:
        ValueError: If it belongs to none.
    """
    run = trial.user_attrs.get("run")
    if isinstance(run, list) and len(run) == 3:
        method, value, seed = run
        if isinstance(method, str) and isinstance(value, (int, float)) and isinstance(seed, int):
            return Run(method, value, seed)
    raise _strange(trial, f"run is {run!r}")


def record_of(trial: "FrozenTrial", run: Run) -> RunRecord:
    """Return the record of a trial of this run.

    Raises:
        ValueError: If it is not a record, or that of another run.
    """
    try:
        record = RunRecord.from_dict(trial.user_attrs["record"])
    except ValueError as error:
        raise _strange(trial, f"record is {error}") from error
    if (record.method, record.value, record.seed) != run:
        raise _strange(trial, "its record is of another run")
    return record


def owner_of(trial: "FrozenTrial") -> Owner | None:
    """Return the process that does a trial; None if it died before it could record itself.

    Raises:
        ValueError: If what is stored is not a process.
    """
    worker = trial.user_attrs.get("worker")
    if worker is None:
        return None
    try:
        return Owner.from_dict(worker)
    except ValueError as error:
        raise _strange(trial, f"worker is {error}") from error


def sign_of(trial: "FrozenTrial") -> float:
    """Return the last sign of life, the time by its owner's clock; 0 if there was none.

    Raises:
        ValueError: If what is stored is not a number.
    """
    alive = trial.user_attrs.get("alive", 0.0)
    if not isinstance(alive, (int, float)):
        raise _strange(trial, f"alive is {alive!r}")
    return float(alive)


def current_of(trials: "Iterable[FrozenTrial]") -> "dict[Run, FrozenTrial]":
    """Return the trial that counts for each run: the first that has not failed.

    Args:
        trials: In the order of their numbers.
    """
    from optuna.trial import TrialState

    current: dict[Run, FrozenTrial] = {}
    for trial in trials:
        if trial.state != TrialState.FAIL and is_run(trial):
            current.setdefault(run_of(trial), trial)
    return current


def latest_of(trials: "Iterable[FrozenTrial]") -> "dict[Run, FrozenTrial]":
    """Return the latest trial of each run, of failed ones too.

    Args:
        trials: In the order of their numbers.
    """
    return {run_of(trial): trial for trial in trials if is_run(trial)}


def fingerprint_difference(noted: Any, given: str) -> str:
    """Return where two studies differ, given the fingerprint of each."""
    old, new = _leaves(json.loads(noted)), _leaves(json.loads(given))
    key = next(key for key in [*old, *new] if old.get(key, "not set") != new.get(key, "not set"))
    return f"{key} is {old.get(key, 'not set')} there and {new.get(key, 'not set')} here"


def _leaves(tree: Any, key: str = "") -> dict[str, Any]:
    """Flatten nested mappings: values by their dotted keys."""
    if not isinstance(tree, dict) or not tree:
        return {key: tree}
    return {
        leaf: value
        for name, branch in tree.items()
        for leaf, value in _leaves(branch, f"{key}.{name}" if key else name).items()
    }


def _strange(trial: "FrozenTrial | Trial", what: str) -> ValueError:
    return ValueError(f"storage: trial {trial.number} was not written by compare: {what}")
