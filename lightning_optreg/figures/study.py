"""How the methods of a study compare: learning curves with their spread, sensitivity to what was tuned."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

from lightning_optreg.figures._style import GREY, literal, new_figure, prepare, style

if TYPE_CHECKING:  # matplotlib is imported when something is drawn: it takes a while
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Band", "draw_bands", "draw_sensitivity", "style", "usual_range"]


@dataclass(frozen=True)
class Band:
    """A line with a spread about it.

    Attributes:
        x: Places on the axis, increasing.
        middle: Medians.
        low: Least values.
        high: Greatest values.

    Example:
        >>> Band.of([[(1, 2.0), (2, 1.0)], [(1, 4.0), (2, 2.0)]])
        Band(x=(1.0, 2.0), middle=(3.0, 1.5), low=(2.0, 1.0), high=(4.0, 2.0))
    """

    x: Sequence[float]
    middle: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]

    @classmethod
    def of(cls, curves: Sequence[Sequence[tuple[float, float]]]) -> "Band":
        """Combine curves of one kind, point by point, as far as the shortest goes.

        Example:
            >>> Band.of([[(1, 2.0), (2, 1.0)], [(1, 4.0), (2, 2.0)]]).middle
            (3.0, 1.5)
        """
        columns = list(zip(*curves, strict=False))
        values = [[y for _, y in column] for column in columns]
        return cls(
            tuple(median(x for x, _ in column) for column in columns),
            tuple(map(median, values)),
            tuple(map(min, values)),
            tuple(map(max, values)),
        )


def usual_range(values: Iterable[float], of_methods: Sequence[float]) -> tuple[float, float]:
    """Return an axis range in which a method that is far off does not flatten the others.

    It spans the values that are no further from the median method than 40 times the median distance of the
    methods from it.

    Args:
        values: All that is drawn.
        of_methods: One value for each method, such as its last; at least one.

    Example:
        >>> usual_range([0.7, 0.8, 0.9, 0.1], of_methods=[0.88, 0.89, 0.9, 0.1])
        (0.7, 0.9)
    """
    center = median(of_methods)
    distance = 40.0 * max(median(abs(value - center) for value in of_methods), 1e-3 * abs(center))
    near = [value for value in (*values, center) if abs(value - center) <= distance]
    return min(near), max(near)


def draw_bands(panels: Mapping[tuple[str, str], Mapping[str, Band]], methods: Sequence[str]) -> "Figure":
    """Draw panels of curves: a median line and a band from the least to the greatest value for each method.

    Args:
        panels: For each panel, by the names of its axes x and y, the bands by method.
        methods: All methods, in the order of the legend.

    Returns:
        The figure.

    Example:
        >>> band = Band((1, 2), (0.5, 0.6), (0.4, 0.6), (0.6, 0.7))
        >>> figure = draw_bands({("epoch", "accuracy"): {"SGD": band}}, ["SGD"])
        >>> figure.axes[0].get_xlabel()
        'epoch'
    """
    columns = 2 if len(panels) > 1 else 1
    rows = -(-len(panels) // columns)
    figure = new_figure(5.2 * columns + 1.6, 3.8 * rows)
    grid = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes, ((x, y), bands) in zip(grid, panels.items(), strict=False):
        _label(axes, x, y)
        for index, method in enumerate(methods):
            if method in bands:
                _draw_band(axes, bands[method], index, method)
        shown = usual_range(
            [value for band in bands.values() for value in band.middle],
            [band.middle[-1] for band in bands.values()],
        )
        _limit(axes, shown, {method: band.middle for method, band in bands.items()})
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    _add_legend(figure, grid, methods)
    return figure


def draw_sensitivity(
    bands: Mapping[str, Band],
    lost: Mapping[str, Sequence[float]],
    tuned: str,
    quantity: str,
    *,
    ordinal: bool = False,
) -> "Figure":
    """Draw each method's results over the tuned setting, on a logarithmic axis if its values are positive.

    Args:
        bands: For each method, over the values that were tried; empty if all its runs were lost.
        lost: For each method, values at which runs diverged or failed, marked at the bottom.
        tuned: Name of the setting.
        quantity: What the results are.
        ordinal: Whether the setting's values are ranks: 1, 2, ...

    Returns:
        The figure.

    Example:
        >>> band = Band((0.01, 0.1), (0.8, 0.9), (0.7, 0.9), (0.8, 0.9))
        >>> draw_sensitivity({"SGD": band}, {}, "learning rate", "accuracy").axes[0].get_xscale()
        'log'
    """
    figure = new_figure(8.4, 4.8)
    axes = figure.subplots()
    _label(axes, tuned, quantity)
    for index, (method, band) in enumerate(bands.items()):
        if band.x:
            _draw_band(axes, band, index, method)
    reached = {method: band.middle for method, band in bands.items() if band.x}
    if reached:
        values = [value for middle in reached.values() for value in middle]
        # A method's value of the tuned setting in the middle of its grid is seldom far off.
        _limit(axes, usual_range(values, [median(middle) for middle in reached.values()]), reached)
    bottom = axes.get_ylim()[0]
    for index, method in enumerate(bands):
        for value in lost.get(method, ()):
            axes.plot([value], [bottom], "x", color=style(index)["color"], markersize=9, mew=2, clip_on=False)
    tried = [x for band in bands.values() for x in band.x] + [x for xs in lost.values() for x in xs]
    if ordinal:
        axes.set_xticks(sorted(set(tried)))
    elif tried and min(tried) > 0:
        axes.set_xscale("log")
    if any(lost.values()):
        axes.text(0.0, 1.06, "crosses: runs that diverged or failed", transform=axes.transAxes, color=GREY)
    _add_legend(figure, [axes], list(bands))
    return figure


def _label(axes: "Axes", x: str, y: str) -> None:
    prepare(axes)
    axes.set_xlabel(literal(x))
    axes.set_ylabel(literal(y))


def _draw_band(axes: "Axes", band: Band, index: int, method: str) -> None:
    look = style(index)
    axes.fill_between(band.x, band.low, band.high, color=look["color"], alpha=0.13, linewidth=0)
    every = max(1, len(band.x) // 15)
    axes.plot(
        band.x, band.middle, label=literal(method), linewidth=1.7, markersize=4.5, markevery=every, **look
    )


def _add_legend(figure: "Figure", grid: Any, methods: Sequence[str]) -> None:
    handles: dict[str, Any] = {}
    for axes in grid:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    shown = [label for label in map(literal, methods) if label in handles]
    if shown:
        figure.legend([handles[m] for m in shown], shown, loc="outside right upper", frameon=False)


def _limit(axes: "Axes", shown: tuple[float, float], values: Mapping[str, Sequence[float]]) -> None:
    """Show a range, and name the methods that go beyond it."""
    low, high = shown
    margin = 0.06 * (high - low) or 0.01
    axes.set_ylim(low - margin, high + margin)
    beyond = [m for m, ys in values.items() if min(ys) < low - margin or max(ys) > high + margin]
    if beyond:
        names = ", ".join(beyond) if len(beyond) <= 3 else f"{len(beyond)} methods"
        axes.set_title(literal(f"partly outside: {names}"), fontsize=9, color=GREY, loc="left")
