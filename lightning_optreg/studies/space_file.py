"""Read and check the search space of a study's YAML."""

import math
from collections.abc import Mapping
from typing import Any

import yaml

from lightning_optreg._nearest import nearest
from lightning_optreg.studies.search_space import Choice, Condition, Range, SearchSpace

__all__ = ["read_search_space", "read_values"]

_OF_RANGES = ("low", "high", "log", "int", "step", "points", "when")
_OF_CHOICES = ("choice", "when")


def read_search_space(given: Mapping[str, Any]) -> SearchSpace:
    """Check the mapping `search` of a study.

    Args:
        given: For each dotted key of `fit`, either `{low: ..., high: ...}`, with `log`, `int`, `step` or
            `points`; or `{choice: [...]}`, where a mapping instead of the list gives labels to settings. Both
            may have `when: {other.key: value}`, or a list of values.

    Raises:
        ValueError: If something in it is wrong; the message names the key, the value and what is allowed.

    Example:
        >>> space = read_search_space({"optimizer.init_args.lr": {"low": 0.01, "high": 1, "log": True}})
        >>> space.parts["optimizer.init_args.lr"].high
        1.0
    """
    if not given:
        raise ValueError("search: must name at least one setting")
    parts: dict[str, Range | Choice] = {}
    for name, limits in given.items():
        key, where = str(name), f"search.{name}"
        if not isinstance(limits, dict):
            raise ValueError(f"{where}: must be a mapping such as {{low: 0.001, high: 0.1}}, got {limits!r}")
        if not all(key.split(".")):
            raise ValueError(f"{where}: must be a dotted key of fit, such as optimizer.init_args.lr")
        allowed = _OF_CHOICES if "choice" in limits else _OF_RANGES
        for setting in limits:
            if setting not in allowed:
                raise ValueError(f"{where}.{setting}: unknown key{nearest(str(setting), allowed, few=9)}")
        when = _condition(limits.get("when", {}), parts, where)
        parts[key] = _choice(limits, when, where) if "choice" in limits else _range(limits, when, where)
    return SearchSpace(parts)


def read_values(given: Mapping[str, Any], space: SearchSpace) -> dict[str, Any]:
    """Return a point of the space as the user writes it: values of ranges, settings or labels of choices.

    Args:
        given: Values by keys.
        space: The space.

    Raises:
        ValueError: If it is not a point of the space.
    """
    values = {
        str(key): _label(value) if isinstance(space.parts.get(str(key)), Choice) else value
        for key, value in given.items()
    }
    space.check(values)
    return {key: space.parts[key].exact(value) for key, value in values.items()}


def _choice(limits: Mapping[str, Any], when: Condition, where: str) -> Choice:
    given = limits["choice"]
    if isinstance(given, list):
        labels = [_label(value) for value in given]
        if len(set(labels)) < len(labels):
            raise ValueError(f"{where}.choice: must be different, got {given!r}")
        given = dict(zip(labels, given, strict=True))
    if not isinstance(given, dict) or len(given) < 2:
        raise ValueError(
            f"{where}.choice: must be a list or mapping of at least two, got {limits['choice']!r}"
        )
    return Choice({str(label): value for label, value in given.items()}, when)


def _label(value: Any) -> str:
    if isinstance(value, dict):
        return str(value.get("class_path", value)).rpartition(".")[2]
    return (
        yaml.safe_dump(value).partition("\n")[0] if value is None or isinstance(value, bool) else str(value)
    )


def _range(limits: Mapping[str, Any], when: Condition, where: str) -> Range:
    for bound in ("low", "high"):
        if bound not in limits:
            raise ValueError(f"{where}.{bound}: missing (or give `choice`)")
    log, whole = limits.get("log", False), limits.get("int", False)
    for name, flag in (("log", log), ("int", whole)):
        if not isinstance(flag, bool):
            raise ValueError(f"{where}.{name}: must be true or false, got {flag!r}")
    low, high = _number(limits["low"], f"{where}.low"), _number(limits["high"], f"{where}.high")
    if not low < high:
        raise ValueError(f"{where}.high: must be > low = {low:g}, got {high:g}")
    if log and not low > 0:
        raise ValueError(f"{where}.low: must be > 0 where log is true, got {low:g}")
    step = limits.get("step")
    if step is not None:
        step = _number(step, f"{where}.step")
        if not step > 0:
            raise ValueError(f"{where}.step: must be > 0, got {step:g}")
        if log:
            raise ValueError(f"{where}.step: must be left out where log is true, got {step:g}")
    if whole and not all(number.is_integer() for number in (low, high, step or 1.0)):
        raise ValueError(f"{where}: low, high, step must be whole numbers where int is true, got {limits!r}")
    points = limits.get("points")
    if points is not None and (not isinstance(points, int) or isinstance(points, bool) or points < 2):
        raise ValueError(f"{where}.points: must be a whole number >= 2, got {points!r}")
    return Range(low, high, log, whole, step, points, when)


def _number(value: Any, where: str) -> float:
    try:  # YAML 1.1 reads 1e-3 as text
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{where}: must be a finite number, got {value!r}")
    return number


def _condition(given: Any, before: Mapping[str, Range | Choice], where: str) -> Condition:
    if not isinstance(given, dict):
        raise ValueError(f"{where}.when: must be a mapping such as {{optimizer: Adam}}, got {given!r}")
    condition = {}
    for other, values in given.items():
        if other not in before:
            raise ValueError(f"{where}.when: {other!r} must be a key that is searched before it")
        part = before[other]
        listed = values if isinstance(values, list) else [values]
        labels = tuple(_label(value) if isinstance(part, Choice) else value for value in listed)
        for label, value in zip(labels, listed, strict=True):
            if not part.contains(label):
                raise ValueError(f"{where}.when.{other}: {value!r} is never chosen there")
        condition[str(other)] = labels
    return condition
