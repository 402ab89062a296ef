"""What the YAML files of all kinds of study have in common: how they are read and checked."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from lightning_optreg._nearest import nearest
from lightning_optreg.cli.monitors import LOGGED, LOGGED_IN_TEST, OURS, check_metric
from lightning_optreg.cli.yaml_mapping import read_mapping
from lightning_optreg.files import check_name
from lightning_optreg.recipes import find, similar
from lightning_optreg.studies.direction import better
from lightning_optreg.studies.plan import folder_name, is_foreign, merge

__all__ = [
    "COMMON",
    "Keys",
    "check_common",
    "check_devices",
    "check_labels",
    "check_metrics",
    "common_fields",
    "merged_base",
    "read_study",
]

Keys = Mapping[str, tuple[Any, Any]]
"""For each key of a study's YAML its types and its default."""

COMMON: Keys = {
    "name": (str, None),
    "title": (str, ""),
    "base": (list, None),
    "epochs": (int, None),
    "metric": (str, "val/accuracy"),
    "mode": ((str, type(None)), None),
    "test_metric": (str, "test/accuracy"),
    "diverged_above": ((float, int, type(None)), None),
}
"""The keys that every kind of study has."""

_PLAIN_KINDS = {str: "text", list: "a list", dict: "a mapping", int: "a whole number", bool: "true or false"}

Made = TypeVar("Made")


def common_fields(settings: Mapping[str, Any], base: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments that every kind of `Plan` takes.

    Args:
        settings: The study's settings, checked.
        base: Its base, merged.
    """
    return {**{key: settings[key] for key in COMMON}, "base": base}


def read_study(
    path: Path, keys: Keys, required: Sequence[str], make: Callable[[dict[str, Any]], Made]
) -> Made:
    """Read a study's YAML, and check its keys and their types.

    Args:
        path: The file.
        keys: The keys that it may have.
        required: Those that it must have.
        make: Makes a plan of the settings, with the defaults of keys that are missing.

    Raises:
        FileNotFoundError: If it, or a recipe that it names, does not exist.
        ValueError: If something in it is wrong; the message names the key, the value and what is allowed.
    """
    if not path.exists():
        others = sorted(other.name for other in path.parent.glob("*.y*ml"))
        close = nearest(path.name, others, few=0) or similar(str(path))
        raise FileNotFoundError(f"config: {str(path)!r} does not exist{close}")
    given = read_mapping(path, f"config file {str(path)!r}")
    try:
        return make(_with_defaults(given, keys, required))
    except ValueError as error:
        raise ValueError(f"{error} (in {path})") from None


def _with_defaults(given: Mapping[str, Any], keys: Keys, required: Sequence[str]) -> dict[str, Any]:
    for key, value in given.items():
        if key not in keys:
            raise ValueError(f"{key}: unknown key{nearest(str(key), keys, few=len(keys))}")
        kind = keys[key][0]
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise ValueError(f"{key}: must be {_PLAIN_KINDS.get(kind, 'a number')}, got {value!r}")
    for key in required:
        if key not in given:
            raise ValueError(f"{key}: missing")
    return {key: given.get(key, default) for key, (_, default) in keys.items()}


def check_common(settings: dict[str, Any]) -> None:
    """Check the values of the common keys, and fill in those that follow from others.

    Args:
        settings: The study's settings, changed in place.

    Raises:
        ValueError: If a value is out of its range.
    """
    check_name(settings["name"], "name")
    settings["title"] = settings["title"] or settings["name"]
    if settings["mode"] is None:
        settings["mode"] = better(settings["metric"]) or "max"
    if settings["mode"] not in ("max", "min"):
        raise ValueError(f"mode: must be max or min, got {settings['mode']!r}")
    if not settings["epochs"] >= 1:
        raise ValueError(f"epochs: must be >= 1, got {settings['epochs']}")
    bound = settings["diverged_above"]
    if bound is not None and not bound > 0:
        raise ValueError(f"diverged_above: must be > 0, got {bound}")


def check_devices(settings: Mapping[str, Any], where: str) -> None:
    """Raise an error if a run has several processes: Lightning would start the study's command for each.

    Args:
        settings: Settings of `fit`.
        where: Where the YAML has them.

    Raises:
        ValueError: If `trainer.devices` or `trainer.num_nodes` is not 1.
    """
    trainer = settings.get("trainer")
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


def check_labels(methods: Mapping[str, Any]) -> None:
    """Raise an error if methods can't be told apart, on paper or as folders.

    Args:
        methods: For each label, settings of `fit`.

    Raises:
        ValueError: If a label can't be printed, two would share a folder, or there is no mapping.
    """
    seen: dict[str, str] = {}
    for name, overlay in methods.items():
        if not isinstance(overlay, dict):
            raise ValueError(f"methods.{name}: must be a mapping of settings of fit, got {overlay!r}")
        if not name.strip() or not name.isprintable():
            raise ValueError(f"methods: labels must be text that can be printed, got {name!r}")
        same = seen.setdefault(folder_name(name).lower(), name)
        if same != name:
            raise ValueError(f"methods: {same!r} and {name!r} would share a folder; give one another label")


def check_metrics(settings: Mapping[str, Any], parts: Sequence[Mapping[str, Any]]) -> None:
    """Raise an error if runs don't log the study's metrics, as far as that is known.

    Args:
        settings: The study's settings.
        parts: Settings of `fit` of its runs.

    Raises:
        ValueError: If a metric is not logged.
    """
    if not _has_own_parts(parts):
        of_epochs = [name for name in LOGGED if not name.endswith("_step")]
        check_metric(settings["metric"], "metric", of_epochs)
        check_metric(settings["test_metric"], "test_metric", LOGGED_IN_TEST, stage="test")


def _has_own_parts(parts: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether the module or a callback is the user's own, which may log more."""
    for part in parts:
        if is_foreign(part):  # it logs what it likes
            return True
        trainer = part.get("trainer") or {}
        for key in ("callbacks", "callbacks+"):
            given = trainer.get(key) if isinstance(trainer, dict) else None
            for callback in given if isinstance(given, list) else [given]:
                name = str(callback.get("class_path") if isinstance(callback, dict) else callback or "")
                if "." in name and not name.startswith(OURS):
                    return True
    return False


def merged_base(parts: Sequence[Any], path: Path) -> dict[str, Any]:
    """Merge recipes and settings of `fit`.

    Args:
        parts: Settings, or files: from the working directory, beside the study's, or by their names in the
            package.
        path: The study's file.

    Raises:
        FileNotFoundError: If a file does not exist.
    """
    merged: dict[str, Any] = {}
    for part in parts:
        if isinstance(part, dict):
            merged = merge(merged, part)
            continue
        name = str(part)
        places = (Path(name), path.parent / name, Path(find(name)))
        found = next((place for place in places if place.is_file()), None)
        if found is None:
            raise FileNotFoundError(
                f"base: {name!r} exists neither here nor beside {path}, nor does the package have it"
                f"{similar(name)}"
            )
        merged = merge(merged, read_mapping(found, f"base: {str(found)!r}"))
    return merged
