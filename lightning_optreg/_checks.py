"""Checks of arguments and of what is installed; messages name the owner and what is wrong or missing."""

import importlib
import math
from collections.abc import Sequence
from numbers import Real
from types import ModuleType
from typing import Any

__all__ = ["check_choice", "check_numbers", "check_places", "check_range", "check_seed", "required"]


def check_range(owner: str, allowed: str, **values: Any) -> None:
    """Refuse numbers that are out of their range; NaN is always out.

    Args:
        owner: Class or function whose arguments they are, for the message.
        allowed: An interval such as `[0, 1)` or `(0, inf)`, or the least whole number, such as `>= 1`.
        values: The numbers, by the arguments' names.

    Raises:
        ValueError: If a number is out of the range.
        TypeError: If it is no number, such as text.

    Example:
        >>> check_range("Dropout", "[0, 1)", p=0.5)
        >>> check_range("MLP", ">= 1", hidden=0)
        Traceback (most recent call last):
        ValueError: MLP: hidden must be >= 1, got 0
    """
    for name, value in values.items():
        if not _is_number(value):
            kind = "a whole number" if allowed.startswith(">=") else "a number in"
            raise TypeError(f"{owner}: {name} must be {kind} {allowed}, got {value!r}")
        if allowed.startswith(">="):
            holds = value >= float(allowed[2:])
        else:
            low, high = map(float, allowed[1:-1].split(","))
            above = value >= low if allowed[0] == "[" else value > low
            holds = above and (value <= high if allowed[-1] == "]" else value < high)
        if not holds:
            article = "" if allowed.startswith(">=") else "in "
            raise ValueError(f"{owner}: {name} must be {article}{allowed}, got {value}")
        if allowed.startswith(">=") and isinstance(value, float) and math.isfinite(value) and value % 1:
            raise ValueError(f"{owner}: {name} must be a whole number {allowed}, got {value}")


def check_numbers(owner: str, **values: Any) -> None:
    """Refuse what is no number, before it is compared with one.

    Args:
        owner: Class or function whose arguments they are, for the message.
        values: The values, by the arguments' names.

    Raises:
        TypeError: If one is no number, such as text.

    Example:
        >>> check_numbers("MaxNorm", max_norm="3")
        Traceback (most recent call last):
        TypeError: MaxNorm: max_norm must be a number, got '3'
    """
    for name, value in values.items():
        if not _is_number(value):
            raise TypeError(f"{owner}: {name} must be a number, got {value!r}")


def _is_number(value: object) -> bool:
    return isinstance(value, Real) or hasattr(value, "item")  # as tensors and NumPy's numbers have


def check_choice(owner: str, choices: Sequence[Any], **values: Any) -> None:
    """Refuse values that are not among the choices.

    Args:
        owner: Class or function whose arguments they are, for the message.
        choices: All that is allowed, at least two.
        values: The values, by the arguments' names.

    Raises:
        ValueError: If a value is not a choice.

    Example:
        >>> check_choice("Dropout", ("inverted", "vanilla"), form="scaled")
        Traceback (most recent call last):
        ValueError: Dropout: form must be 'inverted' or 'vanilla', got 'scaled'
    """
    for name, value in values.items():
        if value not in choices:
            *first, last = map(repr, choices)
            raise ValueError(f"{owner}: {name} must be {', '.join(first)} or {last}, got {value!r}")


def check_places(owner: str, **places: Any) -> None:
    """Refuse what is not a place in a batch.

    Args:
        owner: Class whose arguments they are, for the message.
        places: The places, by the arguments' names: an index of a list, or a key of a dictionary.

    Raises:
        TypeError: If one is neither.

    Example:
        >>> check_places("MixUp", images=0, labels="label")
        >>> check_places("MixUp", images=0.5)
        Traceback (most recent call last):
        TypeError: MixUp: images must be an index or a key, got 0.5
    """
    for name, place in places.items():
        if isinstance(place, bool) or not isinstance(place, (int, str)):
            raise TypeError(f"{owner}: {name} must be an index or a key, got {place!r}")


def check_seed(owner: str, seed: object) -> None:
    """Refuse what is neither a seed nor None.

    Args:
        owner: Class whose argument it is, for the message.
        seed: The value.

    Raises:
        TypeError: If it is not an integer.

    Example:
        >>> check_seed("MixUp", None)
        >>> check_seed("MixUp", 0.5)
        Traceback (most recent call last):
        TypeError: MixUp: seed must be an integer, got 0.5
    """
    if not isinstance(seed, int | None):
        raise TypeError(f"{owner}: seed must be an integer, got {seed!r}")


def required(package: str, owner: str, extra: str) -> ModuleType:
    """Import an optional package.

    Args:
        package: Its name.
        owner: Name of the class that needs it, for the error.
        extra: Name of the extra of this package that brings it.

    Raises:
        ModuleNotFoundError: If it is not installed; says how to install it.
    """
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
        raise ModuleNotFoundError(
            f"{owner}: needs {package}; pip install 'lightning-optreg[{extra}]'", name=package
        ) from error
