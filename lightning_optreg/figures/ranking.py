"""How methods rank: every run as a dot, the mean, and its confidence interval."""

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import TYPE_CHECKING

from lightning_optreg.figures._style import BLUE, SKY_BLUE, VERMILION, literal, new_figure, prepare

if TYPE_CHECKING:  # matplotlib is imported when something is drawn: it takes a while
    from matplotlib.figure import Figure

__all__ = ["draw_ranking"]


def draw_ranking(
    runs: Mapping[str, Sequence[float]],
    intervals: Mapping[str, tuple[float, float] | None],
    quantity: str,
    reference: str | None = None,
) -> "Figure":
    """Draw a row for each method, the first on top: its runs, their mean, and an interval about it.

    An interval that goes beyond the axis ends in an arrow.

    Args:
        runs: The results of each method's runs; methods without a run get an empty row.
        intervals: A confidence interval of each method's mean, or None.
        quantity: What the results are, such as "test/accuracy".
        reference: Method to compare with, whose mean is drawn through all rows; None for none.

    Returns:
        The figure.

    Example:
        >>> figure = draw_ranking({"L2": [0.8, 0.82], "none": [0.79]}, {"L2": (0.78, 0.84)}, "accuracy")
        >>> [label.get_text() for label in figure.axes[0].get_yticklabels()]
        ['L2', 'none']
    """
    figure = new_figure(7.2, 0.9 + 0.34 * len(runs))
    axes = figure.subplots()
    prepare(axes, grid="x")
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(literal(f"{quantity}: runs, their mean and its 95 % interval"))
    axes.set_yticks(range(len(runs)), list(map(literal, runs)))
    axes.set_ylim(len(runs) - 0.5, -0.5)
    if reference is not None and runs.get(reference):
        axes.axvline(mean(runs[reference]), color=VERMILION, linewidth=1.2, linestyle="--")
    for row, (method, values) in enumerate(runs.items()):
        if not values:
            continue
        if (interval := intervals.get(method)) is not None:
            axes.plot(interval, [row, row], color=SKY_BLUE, linewidth=5.0, solid_capstyle="butt", alpha=0.6)
        axes.plot(values, [row] * len(values), "o", color="0.45", markersize=4.0, markeredgewidth=0)
        axes.plot([mean(values)], [row], "|", color=BLUE, markersize=13.0, markeredgewidth=2.4)
    spread = [value for values in runs.values() for value in values]
    if spread:
        # Three runs give wide intervals; they must not push the runs themselves together.
        margin = 0.35 * (max(spread) - min(spread)) or 0.01
        low, high = min(spread) - margin, max(spread) + margin
        axes.set_xlim(low, high)
        for row, method in enumerate(runs):
            if (interval := intervals.get(method)) is None:
                continue
            for end, mark, beyond in ((low, "<", interval[0] < low), (high, ">", interval[1] > high)):
                if beyond:  # the interval goes on
                    axes.plot([end], [row], mark, color=SKY_BLUE, markersize=8.0, clip_on=False)
    return figure
