"""Read and check the YAML of a tuning study, and make a plan from it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning_optreg._nearest import nearest
from lightning_optreg.studies.search import Search
from lightning_optreg.studies.search_space import SearchSpace
from lightning_optreg.studies.space_file import read_search_space, read_values
from lightning_optreg.studies.study_file import (
    COMMON,
    check_common,
    check_devices,
    check_metrics,
    common_fields,
    merged_base,
    read_study,
)

__all__ = ["read_search"]

_NUMBER = (float, int, type(None))
_KEYS = {
    **COMMON,
    "search": (dict, None),
    "first": (list, []),
    "sampler": ((str, dict), "tpe"),
    "pruner": ((str, dict), "median"),
    "trials": ((int, type(None)), None),
    "total_epochs": (_NUMBER, None),
    "minutes": (_NUMBER, None),
    "seed": (int, 0),
    "folds": ((int, type(None)), None),
}
_REQUIRED = ("name", "base", "search", "epochs")
_SAMPLERS = ("tpe", "random", "grid", "cmaes")
_PRUNERS = ("none", "median", "hyperband")
_SET_BY_FOLDS = ("fold", "folds", "held_out")


def read_search(path: Path) -> Search:
    """Read and check a tuning study's YAML.

    Args:
        path: The file.

    Raises:
        FileNotFoundError: If it, or a recipe that it names, does not exist.
        ValueError: If something in it is wrong; the message names the key, the value and what is allowed.
    """
    return read_study(path, _KEYS, _REQUIRED, lambda settings: _checked(settings, path))


def _checked(settings: dict[str, Any], path: Path) -> Search:
    check_common(settings)
    space = read_search_space(settings["search"])
    base = merged_base(settings["base"], path)
    check_devices(base, "base")
    check_metrics(settings, [base])
    for limit in ("trials", "total_epochs", "minutes"):
        if settings[limit] is not None and not settings[limit] > 0:
            raise ValueError(f"{limit}: must be > 0, got {settings[limit]}")
    _check_folds(settings["folds"], base, space)
    if settings["seed"] < 0:
        raise ValueError(f"seed: must be >= 0, got {settings['seed']}")
    sampler, sampler_options = _named(settings["sampler"], "sampler", _SAMPLERS)
    pruner, pruner_options = _named(settings["pruner"], "pruner", _PRUNERS)
    first = _first(settings["first"], space)
    grid = None
    if sampler == "grid":
        if sampler_options:
            raise ValueError(f"sampler.grid: takes no arguments, got {', '.join(sampler_options)}")
        # Those to be tried first are points of the grid or not: none is tried twice.
        grid = (*first, *(point for point in space.grid() if point not in first))
    if grid is None and all(settings[limit] is None for limit in ("trials", "total_epochs", "minutes")):
        raise ValueError("trials: missing; or give total_epochs or minutes")
    plan = Search(
        **common_fields(settings, base),
        space=space,
        first=first,
        grid=grid,
        sampler_name=sampler,
        sampler_options=sampler_options,
        pruner_name=pruner,
        pruner_options=pruner_options,
        trials=len(grid) if grid is not None and settings["trials"] is None else settings["trials"],
        total_epochs=settings["total_epochs"],
        minutes=settings["minutes"],
        seed=settings["seed"],
        folds=settings["folds"],
    )
    plan.rehearsals()  # so that a place that the base lacks is named here
    return plan


def _check_folds(folds: int | None, base: Mapping[str, Any], space: SearchSpace) -> None:
    if folds is None:
        return
    if not folds >= 2:
        raise ValueError(f"folds: must be >= 2, got {folds}")
    if not isinstance(base.get("data"), dict):
        raise ValueError("base: must have data with a class_path, got none, but folds are asked for")
    for name in _SET_BY_FOLDS:
        key = f"data.init_args.{name}"
        if name in (base["data"].get("init_args") or {}) or key in space.parts:
            raise ValueError(f"{key} must be left out; `folds` of the study sets it")


def _named(given: Any, key: str, known: tuple[str, ...]) -> tuple[str, dict[str, Any]]:
    """Read `NAME`, or `{name: NAME, ...}` with further arguments."""
    options = {"name": given} if isinstance(given, str) else dict(given)
    name = str(options.pop("name", None))
    if name not in known:
        raise ValueError(f"{key}: unknown name {name!r}{nearest(name, known)}")
    if "seed" in options:
        raise ValueError(f"{key}.seed: must be left out; `seed` of the study counts")
    return name, options


def _first(given: list[Any], space: SearchSpace) -> tuple[dict[str, Any], ...]:
    points = []
    for number, point in enumerate(given):
        if not isinstance(point, Mapping):
            raise ValueError(f"first.{number}: must be a mapping of searched keys to values, got {point!r}")
        try:
            points.append(read_values(point, space))
        except ValueError as error:
            raise ValueError(f"first.{number}: {error}") from None
    return tuple(points)
