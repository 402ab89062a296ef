"""Every callback in every kind of module: it works, or refuses in a sentence before the first step."""

from pathlib import Path

import pytest

from tests.contracts.cells import ignore_advice, run_cell
from tests.contracts.kinds import KINDS
from tests.contracts.parts import CALLBACKS

pytestmark = ignore_advice

CELLS = [(kind, name) for kind in KINDS for name in CALLBACKS]
DIAGONAL = [
    (list(KINDS)[i % len(KINDS)], list(CALLBACKS)[i % len(CALLBACKS)])
    for i in range(max(len(KINDS), len(CALLBACKS)))
]
DIAGONAL += [  # and some that are hard on each other
    ("dictionary batches", "BatchNormRecalibration"),
    ("string batches", "BatchNormRecalibration"),
    ("CombinedLoader", "BatchNormRecalibration"),
    ("None at times", "FullBatch"),
    ("sparse gradients", "FullBatch"),
    ("sparse gradients", "Histograms"),
    ("regression (N,)", "PredictionWriter"),
]


@pytest.mark.parametrize(
    ("kind", "name"),
    [pytest.param(*cell, marks=[] if cell in DIAGONAL else pytest.mark.slow) for cell in CELLS],
)
def test_a_kind_and_a_callback(kind: str, name: str, tmp_path: Path) -> None:
    run_cell(tmp_path, KINDS[kind], lambda: [CALLBACKS[name].build_for_kinds()])
