"""Read and check the YAML of a study, and make a plan from it."""

import math
from pathlib import Path
from typing import Any

from lightning_optreg.studies.plan import StudyPlan
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

__all__ = ["read_plan"]

_KEYS = {
    **COMMON,
    "methods": (dict, None),
    "tune": (str, "optimizer.init_args.lr"),
    "tuned": (str, "learning rate"),
    "values": (list, []),
    "seeds": (list, [0, 1, 2]),
    "target": ((float, int, type(None)), None),
    "reference": ((str, type(None)), None),
    "allow_unequal": (bool, False),
}
_REQUIRED = ("name", "base", "methods", "epochs")


def read_plan(path: Path) -> StudyPlan:
    """Read and check a study's YAML.

    Recipes that it names are looked up from the working directory, then beside it.

    Args:
        path: The file.

    Raises:
        FileNotFoundError: If it, or a recipe that it names, does not exist.
        ValueError: If something in it is wrong; the message names the key, the value and what is allowed.
    """
    return read_study(path, _KEYS, _REQUIRED, lambda settings: _checked(settings, path))


def _checked(settings: dict[str, Any], path: Path) -> StudyPlan:
    check_common(settings)
    if not settings["methods"]:
        raise ValueError("methods: must name at least one")
    check_labels({str(label): overlay for label, overlay in settings["methods"].items()})
    seeds = settings["seeds"]
    if not seeds or not all(isinstance(seed, int) and seed >= 0 for seed in seeds) or _repeats(seeds):
        raise ValueError(f"seeds: must be different whole numbers >= 0, got {seeds}")
    base = merged_base(settings["base"], path)
    methods: dict[str, dict[str, Any]] = {}
    values: dict[str, tuple[float, ...]] = {}
    tune: dict[str, str | None] = {}
    for label, overlay in settings["methods"].items():
        own, name = dict(overlay), str(label)
        tune[name] = own.pop("tune", settings["tune"])
        if not isinstance(tune[name], (str, type(None))):
            raise ValueError(f"methods.{label}.tune: must be a dotted key or null, got {tune[name]!r}")
        if tune[name] is None:
            if "values" in own:
                raise ValueError(f"methods.{label}.values: must be left out where tune is null")
            values[name] = (0.0,)
        else:
            values[name] = _values(own.pop("values", settings["values"]), f"methods.{label}.values")
        methods[name] = own
        for part in (base, own):
            check_devices(part, f"methods.{label}" if part is own else "base")
    if settings["reference"] is not None and settings["reference"] not in methods:
        raise ValueError(
            f"reference: must be one of the methods {', '.join(methods)}, got {settings['reference']!r}"
        )
    lengths = {label: len(tried) for label, tried in values.items() if tune[label] is not None}
    if len(set(lengths.values())) > 1 and not settings["allow_unequal"]:
        raise ValueError(
            f"values: every method must have as many, to be tuned fairly, got {lengths} "
            "(allow_unequal: true to compare nevertheless)"
        )
    check_metrics(settings, [base, *methods.values()])
    return StudyPlan(
        **common_fields(settings, base),
        methods=methods,
        tune=tune,
        tuned=settings["tuned"],
        values=values,
        seeds=tuple(seeds),
        target=settings["target"],
        reference=settings["reference"],
    )


def _values(values: Any, key: str) -> tuple[float, ...]:
    # YAML 1.1 reads 1e-3 as text
    try:
        numbers = tuple(float(value) for value in values)
    except (TypeError, ValueError):
        raise ValueError(f"{key}: must be a list of numbers, got {values!r}") from None
    if not numbers or not all(map(math.isfinite, numbers)) or _repeats(numbers):
        raise ValueError(f"{key}: must be different finite numbers, at least one, got {values!r}")
    return numbers


def _repeats(items: Any) -> bool:
    return len(set(items)) < len(items)
