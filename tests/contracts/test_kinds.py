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


def works_or_refuses(kind: str, name: str, folder: Path) -> None:
    run_cell(folder, KINDS[kind], lambda: [CALLBACKS[name].anywhere(folder)])


@pytest.mark.parametrize(("kind", "name"), dict.fromkeys(DIAGONAL))
def test_a_kind_and_a_callback(kind: str, name: str, tmp_path: Path) -> None:
    works_or_refuses(kind, name, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "name"), [cell for cell in CELLS if cell not in DIAGONAL])
def test_every_kind_and_every_callback(kind: str, name: str, tmp_path: Path) -> None:
    works_or_refuses(kind, name, tmp_path)
