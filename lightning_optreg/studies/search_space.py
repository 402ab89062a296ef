"""The ranges that a study searches: settings of `fit` by their dotted keys."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # optuna is imported when a study is run
    from optuna.trial import Trial

__all__ = ["Choice", "Condition", "Range", "SearchSpace"]

EDGE = 0.02
"""A value within this share of a range's width is at its end."""

Condition = Mapping[str, tuple[Any, ...]]
"""For each other key, the values at which a setting is searched."""


@dataclass(frozen=True)
class Range:
    """Numbers between two bounds.

    Attributes:
        low: Least number.
        high: Greatest number, above `low`.
        log: Whether the logarithm is searched evenly; then `low` > 0.
        whole: Whether whole numbers are searched.
        step: Distance between the numbers that are searched, above 0; None for all.
        points: Count of numbers for a grid, at least 2; None if `step` or `whole` gives them.
        when: The condition under which it is searched; empty for always.

    Example:
        >>> Range(0.001, 0.1, log=True, points=3).grid("optimizer.init_args.lr")
        [0.001, 0.01, 0.1]
    """

    low: float
    high: float
    log: bool = False
    whole: bool = False
    step: float | None = None
    points: int | None = None
    when: Condition = field(default_factory=dict)

    def setting(self, value: Any) -> Any:
        """Return the setting of `fit` for a value."""
        return self.exact(value)

    def grid(self, key: str) -> list[Any]:
        """Return the values of a grid.

        Args:
            key: Its key, for the message.

        Raises:
            ValueError: If it has no finite number of them.
        """
        if self.points is None:
            step = self.step or (1 if self.whole else None)
            if step is None or self.log:
                raise ValueError(f"search.{key}: a grid needs `points`, the count of values, or `step`")
            count = math.floor((self.high - self.low) / step + 1e-9) + 1
            values = [self.low + step * place for place in range(count)]
        else:
            low, high = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
            places = [low + (high - low) * place / (self.points - 1) for place in range(self.points)]
            values = [math.exp(place) for place in places] if self.log else places
        # Twelve digits: 0.01 and not 0.009999999999999998.
        rounded = [round(value) if self.whole else float(f"{value:.12g}") for value in values]
        return list(dict.fromkeys(rounded))

    def contains(self, value: Any) -> bool:
        """Return whether a value may be tried."""
        number = isinstance(value, (float, int)) and not isinstance(value, bool)
        whole = not self.whole or float(value).is_integer() if number else False
        return number and whole and self.low <= value <= self.high

    def exact(self, value: Any) -> Any:
        """Return a value in the type that is searched."""
        return round(value) if self.whole else float(value)

    def end(self, value: float) -> str | None:
        """Return the end of the range that a value lies at, such as "low end 0.001"; None if at neither."""
        low, high, at = self.low, self.high, value
        if self.log:
            low, high, at = math.log(low), math.log(high), math.log(at)
        share = (at - low) / (high - low)
        if share <= EDGE:
            return f"low end {self.low:g}"
        return f"high end {self.high:g}" if share >= 1 - EDGE else None


@dataclass(frozen=True)
class Choice:
    """Some settings in no order.

    Attributes:
        options: The settings by their labels, which tables and pictures show.
        when: The condition under which it is searched; empty for always.

    Example:
        >>> Choice({"16": 16, "32": 32}).setting("32")
        32
    """

    options: Mapping[str, Any]
    when: Condition = field(default_factory=dict)

    def setting(self, value: Any) -> Any:
        """Return the setting of `fit` for a label."""
        return self.options[value]

    def grid(self, key: str) -> list[Any]:
        """Return the labels."""
        return list(self.options)

    def contains(self, value: Any) -> bool:
        """Return whether it is a label."""
        return value in self.options

    def exact(self, value: Any) -> Any:
        """Return the label."""
        return value

    def end(self, value: Any) -> None:
        """Return None: there is no order."""


@dataclass(frozen=True)
class SearchSpace:
    """The settings that are searched, in the order in which they are chosen.

    Attributes:
        parts: The range or choice of each dotted key; a condition names keys before it.

    Example:
        >>> space = SearchSpace({"optimizer.init_args.lr": Range(0.01, 1.0, log=True)})
        >>> list(space.parts)
        ['optimizer.init_args.lr']
    """

    parts: Mapping[str, Range | Choice]

    def suggest(self, trial: "Trial") -> dict[str, Any]:
        """Let a trial choose a value for each key whose condition holds."""
        values: dict[str, Any] = {}
        for key in self.parts:
            if self._applies(key, values):
                values[key] = _suggest(trial, key, self.parts[key])
        return values

    def settings(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the settings of `fit`, by dotted keys, for the values of a trial."""
        return {key: self.parts[key].setting(value) for key, value in values.items()}

    def grid(self) -> list[dict[str, Any]]:
        """Return all points of the grid, each once; a key whose condition does not hold is left out.

        Raises:
            ValueError: If a range has no finite number of values.
        """
        tried = [part.grid(key) for key, part in self.parts.items()]
        points: list[dict[str, Any]] = []
        for combination in product(*tried):
            values: dict[str, Any] = {}
            for key, value in zip(self.parts, combination, strict=True):
                if self._applies(key, values):
                    values[key] = value
            if values not in points:
                points.append(values)
        return points

    def corner(self, number: int) -> dict[str, Any]:
        """Return a point at ends of the ranges; those of 0, 1, ... have all options between them."""
        values: dict[str, Any] = {}
        for key, part in self.parts.items():
            if self._applies(key, values):
                options = list(part.options) if isinstance(part, Choice) else [part.low, part.high]
                values[key] = options[number % len(options)]
        return values

    def ends(self, values: Mapping[str, Any]) -> list[tuple[str, str]]:
        """Return the keys whose values lie at an end of their range, and which end."""
        found = [(key, self.parts[key].end(value)) for key, value in values.items()]
        return [(key, end) for key, end in found if end is not None]

    def check(self, values: Mapping[str, Any]) -> None:
        """Raise an error if values are not a point of the space.

        Raises:
            ValueError: If a key is unknown, or a value out of its range.
        """
        for key, value in values.items():
            if key not in self.parts:
                raise ValueError(f"{key!r} is not searched; the keys are {', '.join(self.parts)}")
            if not self.parts[key].contains(value):
                raise ValueError(f"{key} = {value!r} is outside its range")

    def _applies(self, key: str, values: Mapping[str, Any]) -> bool:
        conditions = self.parts[key].when.items()
        return all(other in values and values[other] in allowed for other, allowed in conditions)


def _suggest(trial: "Trial", key: str, part: Range | Choice) -> Any:
    if isinstance(part, Choice):
        return trial.suggest_categorical(key, list(part.options))
    if part.whole:
        step = round(part.step or 1)
        return trial.suggest_int(key, round(part.low), round(part.high), step=step, log=part.log)
    return trial.suggest_float(key, part.low, part.high, step=part.step, log=part.log)
