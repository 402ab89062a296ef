"""Searches for an example that breaks a promise: the same few in every run of the suite, others when slow."""

from collections.abc import Callable
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.strategies import SearchStrategy

__all__ = ["by_effort", "search"]

T = TypeVar("T")


def by_effort(few: int, many: int) -> Any:
    """Parametrize a test by its number of examples: a few always, many with `-m slow`."""
    return pytest.mark.parametrize(
        "examples", [pytest.param(few, id="few"), pytest.param(many, id="many", marks=pytest.mark.slow)]
    )


def search(
    examples: int, strategy: SearchStrategy[T], check: Callable[[T], object], *, shrink: bool = True
) -> None:
    """Check a promise on so many examples, and show the smallest one that breaks it.

    Args:
        examples: How many; up to 200 are the same ones every time.
        strategy: Where they come from.
        check: Raises if the promise is broken.
        shrink: Whether to look for a smaller example; for runs that take long.
    """
    phases = (Phase.generate, Phase.shrink) if shrink else (Phase.generate,)

    @settings(
        max_examples=examples,
        derandomize=examples <= 200,
        database=None,
        deadline=None,
        phases=phases,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )
    @given(strategy)
    def run(example: T) -> None:
        check(example)

    run()
