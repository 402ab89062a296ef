"""Read and check the YAML of a study, and make a plan from it."""

import math
from pathlib import Path
from typing import Any

from lightning_optreg._nearest import nearest
from lightning_optreg.cli.monitors import LOGGED, LOGGED_IN_TEST, OURS, check_metric
from lightning_optreg.cli.yaml_mapping import read_mapping
from lightning_optreg.files import check_name
from lightning_optreg.studies.direction import better
from lightning_optreg.studies.plan import StudyPlan, folder_name, merge

__all__ = ["read_plan"]

_KEYS = {
    "name": (str, None),
    "title": (str, ""),
    "base": (list, None),
    "methods": (dict, None),
    "tune": (str, "optimizer.init_args.lr"),
    "tuned": (str, "learning rate"),
    "values": (list, []),
    "seeds": (list, [0, 1, 2]),
    "epochs": (int, None),
    "metric": (str, "val/accuracy"),
    "mode": ((str, type(None)), None),
    "test_metric": (str, "test/accuracy"),
    "target": ((float, int, type(None)), None),
    "reference": ((str, type(None)), None),
    "diverged_above": ((float, int, type(None)), None),
    "allow_unequal": (bool, False),
}
_REQUIRED = ("name", "base", "methods", "epochs")
_PLAIN_KINDS = {str: "text", list: "a list", dict: "a mapping", int: "a whole number", bool: "true or false"}


def read_plan(path: Path) -> StudyPlan:
    """Read and check a study's YAML.

    Recipes that it names are looked up from the working directory, then beside it.

    Args:
        path: The file.

    Raises:
        FileNotFoundError: If it, or a recipe that it names, does not exist.
        ValueError: If something in it is wrong; the message names the key, the value and what is allowed.
    """
    what = f"config file {str(path)!r}"
    if not path.exists():
        others = sorted(other.name for other in path.parent.glob("*.y*ml"))
        raise FileNotFoundError(f"config: {str(path)!r} does not exist{nearest(path.name, others, few=0)}")
    given = read_mapping(path, what)
    try:
        return _checked(given, path)
    except ValueError as error:
        raise ValueError(f"{error} (in {path})") from None


def _checked(given: dict[str, Any], path: Path) -> StudyPlan:
    for key, value in given.items():
        if key not in _KEYS:
            raise ValueError(f"{key}: unknown key{nearest(str(key), _KEYS, few=len(_KEYS))}")
        kind = _KEYS[key][0]
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):  # type: ignore[arg-type]
            wanted = _PLAIN_KINDS.get(kind, "a number")  # type: ignore[call-overload]
            raise ValueError(f"{key}: must be {wanted}, got {value!r}")
    for key in _REQUIRED:
        if key not in given:
            raise ValueError(f"{key}: missing")
    settings: dict[str, Any] = {key: given.get(key, default) for key, (_, default) in _KEYS.items()}
    check_name(settings["name"], "name")
    if not settings["methods"]:
        raise ValueError("methods: must name at least one")
    if settings["mode"] is None:
        settings["mode"] = better(settings["metric"]) or "max"
    if settings["mode"] not in ("max", "min"):
        raise ValueError(f"mode: must be max or min, got {settings['mode']!r}")
    if not settings["epochs"] >= 1:
        raise ValueError(f"epochs: must be >= 1, got {settings['epochs']}")
    bound = settings["diverged_above"]
    if bound is not None and not bound > 0:
        raise ValueError(f"diverged_above: must be > 0, got {bound}")
    seeds = settings["seeds"]
    if not seeds or not all(isinstance(seed, int) and seed >= 0 for seed in seeds) or _repeats(seeds):
        raise ValueError(f"seeds: must be different whole numbers >= 0, got {seeds}")
    base = _base(settings["base"], path)
    methods: dict[str, dict[str, Any]] = {}
    values: dict[str, tuple[float, ...]] = {}
    tune: dict[str, str | None] = {}
    for label, overlay in settings["methods"].items():
        if not isinstance(overlay, dict):
            raise ValueError(f"methods.{label}: must be a mapping of settings of fit, got {overlay!r}")
        own, name = dict(overlay), str(label)
        if not name.strip() or not name.isprintable():
            raise ValueError(f"methods: labels must be text that can be printed, got {name!r}")
        same = next(
            (other for other in methods if folder_name(other).lower() == folder_name(name).lower()), None
        )
        if same is not None:
            raise ValueError(f"methods: {same!r} and {name!r} would share a folder; give one another label")
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
            _check_devices(part.get("trainer"), f"methods.{label}" if part is own else "base")
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
    if not _has_own_callbacks([base, *methods.values()]):
        of_epochs = [name for name in LOGGED if not name.endswith("_step")]
        check_metric(settings["metric"], "metric", of_epochs)
        check_metric(settings["test_metric"], "test_metric", LOGGED_IN_TEST, stage="test")
    return StudyPlan(
        name=settings["name"],
        title=settings["title"] or settings["name"],
        base=base,
        methods=methods,
        tune=tune,
        tuned=settings["tuned"],
        values=values,
        seeds=tuple(seeds),
        epochs=settings["epochs"],
        metric=settings["metric"],
        mode=settings["mode"],
        test_metric=settings["test_metric"],
        target=settings["target"],
        reference=settings["reference"],
        diverged_above=settings["diverged_above"],
    )


def _check_devices(trainer: Any, where: str) -> None:
    """Raise an error if a run has several processes: Lightning would start the study's command for each."""
    for key in ("devices", "num_nodes"):
        value = trainer.get(key) if isinstance(trainer, dict) else None
        indices = (
            value if isinstance(value, list) else [part for part in str(value).split(",") if part.strip()]
        )
        several = len(indices) > 1 or (not isinstance(value, list) and str(value) == "-1")
        if several or (str(value).isdecimal() and int(str(value)) > 1):
            raise ValueError(
                f"{where}: trainer.{key} must be 1, since each run of a study is one process, got {value!r}; "
                "--workers does several at a time"
            )


def _has_own_callbacks(parts: list[dict[str, Any]]) -> bool:
    """Return whether a callback is the user's own, which may log more."""
    for part in parts:
        trainer = part.get("trainer") or {}
        for key in ("callbacks", "callbacks+"):
            given = trainer.get(key) if isinstance(trainer, dict) else None
            for callback in given if isinstance(given, list) else [given]:
                name = str(callback.get("class_path") if isinstance(callback, dict) else callback or "")
                if "." in name and not name.startswith(OURS):
                    return True
    return False


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


def _base(parts: list[Any], path: Path) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for part in parts:
        if isinstance(part, dict):
            merged = merge(merged, part)
            continue
        found = next((p for p in (Path(str(part)), path.parent / str(part)) if p.is_file()), None)
        if found is None:
            raise FileNotFoundError(f"base: {str(part)!r} exists neither here nor beside {path}")
        merged = merge(merged, read_mapping(found, f"base: {str(found)!r}"))
    return merged
