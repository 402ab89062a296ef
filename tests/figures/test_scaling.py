"""Curves of parallel SGD: all are seen, and the legend says with which learning rates."""

from itertools import pairwise

import pytest

from lightning_optreg.figures.scaling import ScalingCurve, draw_scaling

TIMES = [0.01 * number for number in range(1, 101)]


def curve(method: str, lr: float | None = None) -> ScalingCurve:
    return ScalingCurve(method, 2, TIMES, [1e6 * time for time in TIMES], [0.5] * len(TIMES), lr)


def test_lines_that_lie_on_each_other_are_both_seen() -> None:
    panel = draw_scaling([curve("DDP"), curve("LocalSGD")]).axes[0]
    below, above = sorted(panel.get_lines(), key=lambda line: line.get_zorder())
    assert below.get_linewidth() > above.get_linewidth()
    assert (below.get_linestyle(), above.get_linestyle()) == ("-", "--")


def test_marks_do_not_cover_each_other() -> None:
    panel = draw_scaling([], [curve("DDP")]).axes[0]
    (marks,) = panel.get_lines()
    x = [float(value) for value in marks.get_xdata()]
    assert x[0] == TIMES[0]
    assert min(later / earlier for earlier, later in pairwise(x)) >= 1.5 - 1e-9


@pytest.mark.parametrize(
    ("rates", "label"), [([0.1, 0.1], "DDP, lr 0.1"), ([0.1, 0.01], "DDP, lr 0.01 or 0.1"), ([None], "DDP")]
)
def test_the_legend_has_the_rates(rates: list[float | None], label: str) -> None:
    figure = draw_scaling([curve("DDP", lr) for lr in rates])
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [label]
