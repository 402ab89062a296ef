"""Checks of arguments."""

import math

import numpy as np
import pytest
import torch

from lightning_optreg._checks import check_choice, check_range


@pytest.mark.parametrize(
    ("allowed", "inside", "outside"),
    [
        ("[0, 1)", (0, 0.5), (-1e-9, 1, math.nan, math.inf)),
        ("(0, 1]", (1e-9, 1), (0, 1.1, math.nan)),
        ("[0, inf)", (0, 1e30), (-1, math.inf, math.nan)),
        ("(1, inf)", (1.1,), (1, math.inf)),
        (">= 1", (1, 2, 3.0, math.inf), (0, 0.9, math.nan)),
    ],
)
def test_ranges(allowed: str, inside: tuple[float, ...], outside: tuple[float, ...]) -> None:
    for value in inside:
        check_range("Part", allowed, setting=value)
        check_range("Part", allowed, setting=torch.tensor(value))
    words = allowed if allowed.startswith(">=") else f"in {allowed}"
    for value in outside:
        with pytest.raises(ValueError) as raised:  # noqa: PT011
            check_range("Part", allowed, fine=inside[0], setting=value)
        assert str(raised.value) == f"Part: setting must be {words}, got {value}"


def test_choices() -> None:
    check_choice("Part", (None, "a", "b"), first=None, second="b")
    with pytest.raises(ValueError, match=r"^Part: second must be None, 'a' or 'b', got 'c'$"):
        check_choice("Part", (None, "a", "b"), first="a", second="c")


def test_a_least_whole_number_takes_no_fractions() -> None:
    with pytest.raises(ValueError, match=r"^Part: setting must be a whole number >= 1, got 1\.5$"):
        check_range("Part", ">= 1", setting=1.5)


@pytest.mark.parametrize("value", ["0.1", None, [1], {}])
def test_what_is_no_number_is_named(value: object) -> None:
    with pytest.raises(TypeError, match=r"^Part: setting must be a number in \[0, 1\), got "):
        check_range("Part", "[0, 1)", setting=value)
    with pytest.raises(TypeError, match=r"^Part: setting must be a whole number >= 1, got "):
        check_range("Part", ">= 1", setting=value)
    check_range("Part", "[0, 1)", setting=np.float32(0.5))
