"""Parallel SGD with few and many workers: accuracy against time and against bytes, and the speed-up."""

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_optreg.figures._style import GREY, literal, new_figure, prepare, style

if TYPE_CHECKING:  # matplotlib is imported when something is drawn: it takes a while
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["ScalingCurve", "draw_scaling", "draw_speedup", "read_scaling"]

# One of these on another leaves both to be seen.
_LINES: tuple[dict[str, Any], ...] = (
    {"linewidth": 3.2, "linestyle": "-"},
    {"linewidth": 1.6, "linestyle": (0, (4, 2))},
    {"linewidth": 1.2, "linestyle": "-"},
)
_APART = 1.5  # the least ratio of the places of a curve's marks
_LEGEND_ENTRY = 2.6  # inches
_COLUMNS = ("method", "workers", "seconds", "images", "bytes", "accuracy")


@dataclass(frozen=True)
class ScalingCurve:
    """How accurate a method with so many workers was when, and what had been sent by then.

    Args:
        method: The method's name.
        workers: Number of workers.
        seconds: Times since the start, increasing.
        bytes: What all had sent by then.
        accuracy: From 0 to 1.
        lr: The learning rate, for the legend. None: it is not known.

    Example:
        >>> ScalingCurve("DDP", 2, [0.0, 1.0, 2.0], [0, 80, 160], [0.1, 0.7, 0.8]).first_time(0.75)
        1.5
    """

    method: str
    workers: int
    seconds: Sequence[float] = field(default_factory=list)
    bytes: Sequence[float] = field(default_factory=list)
    accuracy: Sequence[float] = field(default_factory=list)
    lr: float | None = None

    def first_time(self, accuracy: float) -> float | None:
        """Return when this accuracy was first reached, between measurements by a straight line, or None.

        Args:
            accuracy: From 0 to 1.
        """
        before: tuple[float, float] | None = None
        for time, value in zip(self.seconds, self.accuracy, strict=True):
            if value >= accuracy:
                if before is None:
                    return time
                return before[0] + (time - before[0]) * (accuracy - before[1]) / (value - before[1])
            before = time, value
        return None


def read_scaling(path: str | Path) -> list[ScalingCurve]:
    r"""Read curves from a table, such as those that were measured.

    Args:
        path: A CSV file with a head line and the columns method, workers, seconds, images, bytes and
            accuracy (from 0 to 1); a row for each measurement, a curve's in the order of time.

    Returns:
        A curve for each method and number of workers, in the order in which they come.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a column is missing or a value is not a number in its range.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "measured.csv")
        ...     rows = "DDP,2,0.5,64,80,0.4\nDDP,2,1,128,160,0.6\n"
        ...     _ = path.write_text("method,workers,seconds,images,bytes,accuracy\n" + rows)
        ...     (curve,) = read_scaling(path)
        >>> curve.method, curve.workers, curve.seconds, curve.bytes, curve.accuracy
        ('DDP', 2, [0.5, 1.0], [80.0, 160.0], [0.4, 0.6])
    """
    found: dict[tuple[str, int], tuple[list[float], list[float], list[float]]] = {}
    with Path(path).open(newline="") as file:
        rows = csv.DictReader(file)
        if missing := [name for name in _COLUMNS if name not in (rows.fieldnames or ())]:
            raise ValueError(f"read_scaling: {path} has no column {missing[0]}, but {rows.fieldnames}")
        for number, row in enumerate(rows, start=2):
            try:
                workers = int(row["workers"])
                values = [float(row[name]) for name in ("seconds", "bytes", "accuracy")]
            except (TypeError, ValueError) as error:
                raise ValueError(f"read_scaling: {path}, line {number}: {error}") from error
            if not (workers >= 1 and values[0] >= 0 and values[1] >= 0 and 0 <= values[2] <= 1):
                raise ValueError(
                    f"read_scaling: {path}, line {number}: workers must be >= 1, seconds and bytes >= 0 and "
                    f"accuracy in [0, 1], got {workers}, {values[0]:g}, {values[1]:g}, {values[2]:g}"
                )
            curve = found.setdefault((row["method"], workers), ([], [], []))
            for column, value in zip(curve, values, strict=True):
                column.append(value)
    return [ScalingCurve(method, workers, *columns) for (method, workers), columns in found.items()]


def draw_scaling(
    curves: Sequence[ScalingCurve], measured: Sequence[ScalingCurve] = (), *, caption: str = ""
) -> "Figure":
    """Draw accuracy against time, and below it against bytes, in a column for each number of workers.

    Methods have the same colours everywhere, and lines that lie on each other are both seen: a thin dashed
    one is drawn on a wide one. The legend has the learning rates. Both axes below are logarithmic, so what
    happens at time 0 and methods that send nothing are not seen there.

    Args:
        curves: Simulated ones, as lines.
        measured: Real ones, as marks.
        caption: A remark below the panels.

    Returns:
        The figure; `figure.savefig("scaling.png")` writes it.

    Raises:
        ValueError: If there is nothing to draw.

    Example:
        >>> curves = [ScalingCurve("DDP", n, [0.5 / n, 1 / n], [80 * n, 160 * n], [0.5, 0.6]) for n in (2, 4)]
        >>> [axes.get_title() for axes in draw_scaling(curves).axes]
        ['2 workers', '4 workers', '', '']
    """
    everything = [*curves, *measured]
    if not everything:
        raise ValueError("draw_scaling: there is nothing to draw")
    counts = sorted({curve.workers for curve in everything})
    styles = _styles(everything)
    figure = new_figure(1.2 + 2.9 * len(counts), 6.8)
    panels = figure.subplots(2, len(counts), squeeze=False, sharex="row", sharey=True)
    for column, workers in enumerate(counts):
        here = [[c for c in group if c.workers == workers] for group in (curves, measured)]
        for row, quantity in enumerate(("seconds", "bytes")):
            axes = panels[row][column]
            prepare(axes)
            axes.grid(axis="x", color="0.93", linewidth=0.8)
            axes.set_xscale("log")
            axes.xaxis.set_minor_formatter("")  # within a decade they would lie on each other
            _draw_panel(axes, quantity, here[0], here[1], styles)
        panels[0][column].set_title(f"{workers:,} worker{'s' if workers > 1 else ''}", fontsize=12)
    labels = {method: literal(_with_rates(method, everything)) for method in styles}
    _finish(figure, panels, styles, labels, bool(curves), bool(measured), caption)
    return figure


def draw_speedup(
    curves: Sequence[ScalingCurve],
    accuracy: float,
    measured: Sequence[ScalingCurve] = (),
    *,
    caption: str = "",
) -> "Figure":
    """Draw how many times sooner than one worker so many workers reach an accuracy.

    Each group, simulated and measured, is compared with its own method at one worker.

    Args:
        curves: Simulated ones, as lines; of each method also with one worker.
        accuracy: What is to be reached, from 0 to 1.
        measured: Real ones, as marks.
        caption: A remark below the panel.

    Returns:
        The figure; `figure.savefig("speedup.png")` writes it.

    Raises:
        ValueError: If no method reaches the accuracy with one worker.

    Example:
        >>> curves = [ScalingCurve("DDP", n, [0.0, 1 / n], [0, 80 * n], [0.1, 0.6]) for n in (1, 2, 4)]
        >>> figure = draw_speedup(curves, 0.5)
        >>> figure.axes[0].get_lines()[1].get_ydata().tolist()
        [1.0, 2.0, 4.0]
    """
    styles = _styles([*curves, *measured])
    figure = new_figure(7.2, 5.6)
    axes = figure.subplots()
    prepare(axes)
    axes.grid(axis="x", color="0.93", linewidth=0.8)
    axes.set_xscale("log")
    axes.set_yscale("log")
    most = max((curve.workers for curve in [*curves, *measured]), default=1)
    axes.plot(
        [1, most], [1, most], color=GREY, linewidth=1.0, linestyle=":", label="as many times as workers"
    )
    drawn = False
    for group, simulated in ((curves, True), (measured, False)):
        for method, points in _speedups(group, accuracy).items():
            line = {"linewidth": 1.8, "ms": 4} if simulated else {"linestyle": "none", "ms": 8, "mew": 1.5}
            look = styles[method] | line | ({} if simulated else {"mfc": "white"})
            label = literal(method) if simulated else f"{literal(method)}, measured"
            axes.plot([n for n, _ in points], [value for _, value in points], **look, label=label)
            drawn = True
    if not drawn:
        raise ValueError(f"draw_speedup: no method reaches an accuracy of {accuracy:g} with one worker")
    axes.set_xlabel("workers")
    axes.set_ylabel(f"times sooner at {100 * accuracy:g} % accuracy than one worker")
    axes.legend(loc="best", frameon=False)
    if caption:
        figure.supxlabel(literal(caption), fontsize=8.5, color=GREY)
    return figure


def _speedups(curves: Sequence[ScalingCurve], accuracy: float) -> dict[str, list[tuple[int, float]]]:
    """For each method numbers of workers and the time of one worker over theirs."""
    times = {(curve.method, curve.workers): curve.first_time(accuracy) for curve in curves}
    found: dict[str, list[tuple[int, float]]] = {}
    for (method, workers), time in sorted(times.items(), key=lambda item: item[0][1]):
        alone = times.get((method, 1))
        if alone is not None and time:
            found.setdefault(method, []).append((workers, alone / time))
    return found


def _styles(curves: Iterable[ScalingCurve]) -> dict[str, dict[str, Any]]:
    methods = list(dict.fromkeys(curve.method for curve in curves))
    return {
        method: style(number) | _LINES[number % len(_LINES)] | {"zorder": 2 + number / 100}
        for number, method in enumerate(methods)
    }


def _with_rates(method: str, curves: Iterable[ScalingCurve]) -> str:
    rates = sorted({curve.lr for curve in curves if curve.method == method and curve.lr is not None})
    return f"{method}, lr {' or '.join(f'{rate:g}' for rate in rates)}" if rates else method


def _thinned(points: Sequence[tuple[float, float]]) -> Sequence[tuple[float, float]]:
    """Points as far from each other on a logarithmic axis that their marks don't cover each other."""
    kept = list(points[:1])
    for point in points[1:]:
        if point[0] >= kept[-1][0] * _APART:
            kept.append(point)
    return kept


def _draw_panel(
    axes: "Axes",
    quantity: str,
    curves: Sequence[ScalingCurve],
    measured: Sequence[ScalingCurve],
    styles: Mapping[str, dict[str, Any]],
) -> None:
    for group, look in (
        (curves, {"marker": ""}),
        (measured, {"linestyle": "none", "ms": 5, "mfc": "none", "mew": 1.2, "zorder": 4}),
    ):
        for curve in group:
            points = [
                (x, 100 * y)
                for x, y in zip(getattr(curve, quantity), curve.accuracy, strict=True)
                if x > 0 and math.isfinite(y)
            ]
            if look.get("mfc"):
                points = list(_thinned(points))
            if points:
                x, y = zip(*points, strict=True)
                alone = (
                    {"marker": "."} if len(points) == 1 and not look.get("mfc") else {}
                )  # no line shows it
                axes.plot(x, y, **(styles[curve.method] | look | alone))
    if not axes.get_lines():
        axes.text(0.5, 0.5, "nothing is sent", transform=axes.transAxes, ha="center", color=GREY)


def _finish(
    figure: "Figure",
    panels: Any,
    styles: Mapping[str, dict[str, Any]],
    labels: Mapping[str, str],
    simulated: bool,
    measured: bool,
    caption: str,
) -> None:
    """Words around the panels."""
    from matplotlib.lines import Line2D

    panels[0][0].set_ylabel("accuracy (%)")
    panels[1][0].set_ylabel("accuracy (%)")
    for top, bottom in zip(*panels, strict=True):
        top.set_xlabel("time (s)")
        bottom.set_xlabel("bytes sent by all")
    look = {"ms": 5, "mfc": "none", "mew": 1.2} if measured else {"marker": ""}
    handles = [Line2D([], [], **(each | look), label=labels[name]) for name, each in styles.items()]
    title = "lines: simulated; marks: measured" if simulated and measured else None
    ncols = max(1, min(len(handles), int(figure.get_figwidth() / _LEGEND_ENTRY)))
    figure.legend(handles=handles, loc="outside upper center", ncols=ncols, frameon=False, title=title)
    if caption:
        figure.supxlabel(literal(caption), fontsize=8.5, color=GREY)
