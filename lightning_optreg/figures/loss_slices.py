"""The loss around a network's weights, along one line or over a plane."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lightning_optreg.figures._style import BLUE, GREEN, GREY, VERMILION, literal, new_figure

if TYPE_CHECKING:  # matplotlib is imported when something is drawn: it takes a while
    from matplotlib.figure import Figure
    from torch import Tensor

__all__ = ["draw_line", "draw_plane"]

_COLORS = {"training": BLUE, "validation": VERMILION}


def draw_line(
    x: "Tensor",
    values: Mapping[str, tuple["Tensor", "Tensor"]],
    *,
    label: str,
    marks: Mapping[float, str] | None = None,
    title: str = "",
    caption: str = "",
) -> "Figure":
    """Draw loss (left axis, solid) and accuracy (right axis, dashed) along a line.

    Args:
        x: Distances, (n,).
        values: For "training" and "validation", losses and accuracies, each (n,).
        label: Label of the x axis.
        marks: Places to mark, with their names.
        title: Text above, such as the network, its checkpoint and the number of images.
        caption: Text below.

    Example:
        >>> import torch
        >>> x = torch.linspace(-1, 1, 5)
        >>> figure = draw_line(x, {"training": (x**2, 1 - x**2)}, label="distance")
        >>> [axes.get_ylabel() for axes in figure.axes]
        ['loss', 'accuracy (%)']
    """
    figure = new_figure(7.2, 4.4)
    axes = figure.subplots()
    right = axes.twinx()
    for name, (losses, accuracies) in values.items():
        color = _COLORS.get(name, GREEN)
        axes.plot(x, losses, color=color, linewidth=1.9, label=f"{name}: loss")
        right.plot(x, 100 * accuracies, color=color, linewidth=1.3, ls="--", label=f"{name}: accuracy")
    for place, name in (marks or {}).items():
        axes.axvline(place, color="0.6", linewidth=0.9, ls=":")
        top = axes.get_xaxis_transform()
        axes.text(place, 0.98, f" {name}", transform=top, va="top", color=GREY)
    lowest = min(float(losses.min()) for losses, _ in values.values())
    highest = max(float(losses.max()) for losses, _ in values.values())
    if lowest > 0 and highest > 50 * lowest:
        axes.set_yscale("log")
    for side in (axes, right):
        side.spines["top"].set_visible(False)
    right.set_ylim(0, 102)
    axes.set_xlabel(label)
    axes.set_ylabel("loss")
    right.set_ylabel("accuracy (%)")
    handles = [handle for side in (axes, right) for handle in side.get_legend_handles_labels()[0]]
    figure.legend(
        handles, [str(h.get_label()) for h in handles], loc="outside upper center", ncols=4, frameon=False
    )
    _texts(figure, title, caption)
    return figure


def draw_plane(
    axes_values: Sequence["Tensor"],
    losses: "Tensor",
    *,
    labels: Sequence[str],
    path: "Tensor | None" = None,
    view: str = "contours",
    title: str = "",
    caption: str = "",
) -> "Figure":
    """Draw the loss over a plane, as contours or as a surface in space.

    Args:
        axes_values: Distances a (n,) and b (m,) along the two directions.
        losses: (n, m).
        labels: Labels of the two axes.
        path: Points (k, 2) of a training trajectory, drawn on contours.
        view: "contours" or "3d".
        title: Text above, such as the network, its checkpoint and the number of images.
        caption: Text below.

    Example:
        >>> import torch
        >>> a = torch.linspace(-1, 1, 9)
        >>> figure = draw_plane([a, a], 0.1 + a[:, None] ** 2 + a**2, labels=["a", "b"])
        >>> figure.axes[0].get_xlabel()
        'a'
    """
    import numpy as np
    from matplotlib.colors import LogNorm

    a, b = (axis.numpy() for axis in axes_values)
    z = np.ma.masked_invalid(losses.numpy().T)
    low, high = max(float(z.min()), 1e-12), float(z.max())
    figure = new_figure(6.8, 5.8)
    if view == "3d":
        space: Any = figure.add_subplot(projection="3d")
        grid_a, grid_b = np.meshgrid(a, b)
        space.plot_surface(
            grid_a, grid_b, np.log10(z.filled(high)), cmap="viridis", linewidth=0, rcount=200, ccount=200
        )
        space.set(xlabel=labels[0], ylabel=labels[1], zlabel="log10 loss")
        space.view_init(elev=35, azim=-60)
    else:
        axes = figure.subplots()
        levels = np.geomspace(low, high, 30) if high > low else [low, low * 1.01]
        filled = axes.contourf(a, b, z, levels=levels, norm=LogNorm(low, high), cmap="viridis")
        lines = axes.contour(a, b, z, levels=levels[2::4], colors="white", linewidths=0.6, alpha=0.8)
        axes.clabel(lines, fmt="%.2g", fontsize=7)
        figure.colorbar(filled, ax=axes, label="loss", format="%.2g")
        if path is not None:
            places = path.numpy()
            axes.plot(
                places[:, 0],
                places[:, 1],
                "-o",
                color=VERMILION,
                mec="white",
                mew=0.4,
                markersize=4,
                linewidth=1.4,
            )
            axes.plot(*places[0], "s", color="white", mec="black", markersize=8, label="start")
            axes.plot(*places[-1], "*", color="white", mec="black", markersize=14, label="end")
            axes.legend(loc="best", framealpha=0.85)
        else:
            axes.plot([0], [0], "*", color="white", mec="black", markersize=14)
        axes.set(xlabel=labels[0], ylabel=labels[1])
    _texts(figure, title, caption)
    return figure


def _texts(figure: "Figure", title: str, caption: str) -> None:
    if title:
        figure.suptitle(literal(title), fontsize=11)
    if caption:
        figure.supxlabel(caption, fontsize=8, color=GREY)
