"""Every callback in every mode of the trainer: it works, or refuses in a sentence before the first step."""

from pathlib import Path

import pytest

from tests.contracts.cells import ignore_advice
from tests.contracts.modes import MODES, run_mode
from tests.contracts.parts import CALLBACKS

pytestmark = ignore_advice

CELLS = [(mode, name) for mode in MODES for name in CALLBACKS]
DIAGONAL = [
    (list(MODES)[i % len(MODES)], list(CALLBACKS)[(i + 11) % len(CALLBACKS)])
    for i in range(max(len(MODES), len(CALLBACKS)))
]

DIAGONAL += [("barebones", "AdamRestarts"), ("validation in mid-epoch", "FullBatch")]
SLOW = {"batch-size finder"}
"""Modes that take seconds by themselves."""


@pytest.mark.parametrize(
    ("mode", "name"),
    [
        pytest.param(*cell, marks=[] if cell in DIAGONAL and cell[0] not in SLOW else pytest.mark.slow)
        for cell in CELLS
    ],
)
def test_a_mode_and_a_callback(mode: str, name: str, tmp_path: Path) -> None:
    run_mode(tmp_path, mode, lambda: [CALLBACKS[name].build_for_kinds()])
