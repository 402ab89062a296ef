"""One quantity of several runs in one picture: how networks, optimizers or regularizers compare."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_optreg.figures._style import COLORS, MARKERS, new_figure, prepare
from lightning_optreg.figures._tables import read_rows
from lightning_optreg.places import UrlPath

if TYPE_CHECKING:  # matplotlib is imported when something is drawn: it takes a while
    from matplotlib.figure import Figure

__all__ = ["draw_runs", "read_metric"]


def read_metric(path: str | Path | UrlPath, name: str) -> list[tuple[int, float]]:
    r"""Read what a run logged under a name, from its `metrics.csv`.

    Args:
        path: The file.
        name: Column, such as `train/loss`.

    Returns:
        Epochs, counted from 0, with their values, in the order in which they were logged.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it has no such column.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "metrics.csv")
        ...     _ = path.write_text("epoch,train/loss,val/loss\n0,2.3,\n0,,2.2\n1,1.9,\n")
        ...     read_metric(path, "train/loss")
        [(0, 2.3), (1, 1.9)]
    """
    rows = read_rows(path, name, owner="read_metric")
    return [(int(row["epoch"]), float(row[name])) for row in rows if row[name]]


def draw_runs(runs: Mapping[str, Sequence[tuple[int, float]]], quantity: str) -> "Figure":
    """Draw a line for each run: a quantity over the epochs.

    Args:
        runs: For each run, by its name in the legend, epochs counted from 0 and values.
        quantity: What the values are, for the axis, such as `training loss (mean per image)`.

    Returns:
        The figure; `figure.savefig("runs.png")` writes it.

    Raises:
        ValueError: If there is nothing to draw.

    Example:
        >>> figure = draw_runs({"plain": [(0, 2.3), (1, 2.1)], "residual": [(0, 2.0), (1, 1.5)]}, "loss")
        >>> [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
        ['plain', 'residual']
    """
    from matplotlib.ticker import MaxNLocator

    if not any(runs.values()):
        raise ValueError(f"draw_runs: no run among {list(runs)} has a value")
    figure = new_figure(7.2, 4.2)
    axes = figure.subplots()
    prepare(axes)
    for i, (name, points) in enumerate(runs.items()):
        axes.plot(
            [epoch for epoch, _ in points],
            [value for _, value in points],
            color=COLORS[i % len(COLORS)],
            marker=MARKERS[i % len(COLORS)],
            markersize=5,
            linewidth=1.8,
            label=name,
        )
    axes.set_xlabel("epoch (counted from 0)")
    axes.set_ylabel(quantity)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(loc="best", frameon=False)
    return figure
