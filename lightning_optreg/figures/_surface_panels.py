"""Panels for the paths of optimizers: a surface from above or in space, and losses over steps."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from lightning_optreg.analysis.surfaces import Surface
from lightning_optreg.figures._style import prepare

if TYPE_CHECKING:  # matplotlib is imported when something is drawn: it takes a while
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch import Tensor

__all__ = ["contours", "losses", "space"]

_PALE = ("#8fa9c4", "#c9d6e3", "#f4f1ea", "#fbf7ee")  # low to high; the palette's colours stand out from it
_FINE = 301  # points a side of the grid under contours
_COARSE = 81  # and under the surface in space
_SMALLEST = 1e-8  # of the start's loss: below it a path has arrived


def contours(figure: "Figure", place: Any, surface: Surface) -> "Axes":
    """Add a panel that shows a surface from above, with its start, minima and saddle points.

    Args:
        figure: The figure.
        place: A cell of its grid.
        surface: The surface.
    """
    import numpy as np
    from matplotlib.colors import LinearSegmentedColormap, LogNorm, Normalize

    axes = figure.add_subplot(place)
    x, y, values = _grid(surface, _FINE)
    if surface.minima:
        low, high = float(np.quantile(values, 0.004)), float(values.max())
        levels = np.geomspace(low, high, 26)
        values = values.clip(low)  # a minimum may lie on the grid
        norm: Normalize = LogNorm(low, high)
    else:
        levels = np.linspace(values.min(), values.max(), 25)
        norm = Normalize(values.min(), values.max())
    pale = LinearSegmentedColormap.from_list("pale", _PALE)
    axes.contourf(x, y, values, levels, norm=norm, cmap=pale, extend="both")
    axes.contour(x, y, values, levels[::2], colors="#5b6b7a", linewidths=0.45, alpha=0.7)
    axes.set(xlim=surface.window[:2], ylim=surface.window[2:])
    axes.set_xlabel("$x$", fontsize=13)
    axes.set_ylabel("$y$", fontsize=13)
    axes.set_title(f"{surface.title}: $f(x, y) = {surface.formula}$", fontsize=12, pad=8)
    axes.tick_params(labelsize=11)
    for point in surface.minima:
        axes.plot(*point, "*", color="black", mec="white", mew=0.9, ms=17, zorder=20)
    for point in surface.saddle_points:
        axes.plot(*point, "X", color="black", mec="white", mew=0.9, ms=11, zorder=20)
    axes.plot(*surface.start, "o", color="white", mec="black", mew=1.4, ms=8, zorder=21)
    return axes


def space(figure: "Figure", place: Any, surface: Surface) -> "Axes":
    """Add a panel that shows a surface in space, with its start, minima and saddle points.

    Args:
        figure: The figure.
        place: A cell of its grid.
        surface: The surface.
    """
    from matplotlib.colors import LinearSegmentedColormap, LogNorm, Normalize

    # Paths lie on the surface and would flicker in and out of it: they are drawn after it, in their order.
    axes: Any = figure.add_subplot(place, projection="3d", computed_zorder=False)
    x, y, values = _grid(surface, _COARSE)
    low, high = values.min(), values.max()
    norm: Normalize = LogNorm(max(low, high * 1e-4), high) if surface.minima else Normalize(low, high)
    pale = LinearSegmentedColormap.from_list("pale", _PALE)
    axes.plot_surface(
        x, y, values, cmap=pale, norm=norm, rcount=32, ccount=32, lw=0.35, edgecolor="#5b6b7a", alpha=0.9
    )
    axes.view_init(elev=34, azim=-58)
    axes.set_box_aspect((1, 1, 0.75), zoom=1.18)
    axes.set(xlim=surface.window[:2], ylim=surface.window[2:], xlabel="$x$", ylabel="$y$")
    axes.zaxis.set_rotate_label(False)
    axes.set_zlabel("$f(x, y)$", rotation=90, labelpad=8)
    axes.tick_params(labelsize=10)
    axes.locator_params(nbins=5)
    for axis in (axes.xaxis, axes.yaxis, axes.zaxis):
        axis.label.set_size(13)
        axis.set_pane_color((1.0, 1.0, 1.0))
    axes.set_title(f"{surface.title}: $f(x, y) = {surface.formula}$", fontsize=12, pad=0)
    marks: list[tuple[tuple[tuple[float, float], ...], dict[str, Any]]] = [
        (surface.minima, {"marker": "*", "color": "black", "mec": "white", "ms": 16, "zorder": 20}),
        (surface.saddle_points, {"marker": "X", "color": "black", "mec": "white", "ms": 10, "zorder": 20}),
        ((surface.start,), {"marker": "o", "color": "white", "mec": "black", "ms": 8, "zorder": 21}),
    ]
    for points, look in marks:
        for point in points:
            height = float(surface.function(*torch.tensor(point, dtype=torch.float64)))
            axes.plot([point[0]], [point[1]], [height], ls="none", **look)
    drawn: Axes = axes
    return drawn


def losses(figure: "Figure", place: Any, surface: Surface, heights: "Sequence[Tensor]") -> "Axes":
    """Add an empty panel for losses over steps: logarithmic for a surface with a minimum, whose loss is 0.

    Args:
        figure: The figure.
        place: A cell of its grid.
        surface: The surface.
        heights: For each path, its losses (steps + 1,), which the axes have room for unless they diverge.
    """
    from matplotlib.ticker import MaxNLocator

    axes = figure.add_subplot(place)
    prepare(axes)
    start = float(surface.function(*torch.tensor(surface.start, dtype=torch.float64)))
    if surface.minima:
        axes.set_yscale("log", nonpositive="clip")
        every = torch.cat([*heights])
        lowest = float(every[every > 0].min()) if bool((every > 0).any()) else start
        axes.set_ylim(max(lowest / 3, _SMALLEST * start), 30 * start)
    else:
        _, _, values = _grid(surface, _COARSE)
        axes.set_ylim(values.min(), start + 0.1 * (start - values.min()))
    axes.set_xlim(0, max(max(map(len, heights)) - 1, 1))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("step", fontsize=13)
    axes.set_ylabel("loss $f(x, y)$", fontsize=13)
    axes.tick_params(labelsize=11)
    return axes


def _grid(surface: Surface, count: int) -> Any:
    x_from, x_to, y_from, y_to = surface.window
    x, y = torch.meshgrid(
        torch.linspace(x_from, x_to, count, dtype=torch.float64),
        torch.linspace(y_from, y_to, count, dtype=torch.float64),
        indexing="xy",
    )
    return x.numpy(), y.numpy(), surface.function(x, y).numpy()
