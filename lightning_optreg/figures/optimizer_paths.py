"""Optimizers on a loss surface: their paths over contours or over the surface in space, still or animated.

After two well-known animations by Alec Radford (2014), which lectures on optimizers show: the contours of
Beale's function and a saddle point.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from lightning_optreg.analysis.surfaces import Surface
from lightning_optreg.figures._style import (
    BLACK,
    BLUE,
    GREEN,
    ORANGE,
    PURPLE,
    SKY_BLUE,
    VERMILION,
    new_figure,
)

if TYPE_CHECKING:  # matplotlib is imported when something is drawn: it takes a while
    from matplotlib.animation import FuncAnimation
    from matplotlib.figure import Figure

__all__ = ["View", "animate_surface", "draw_surface"]

View = Literal["contours", "3d"]

_COLORS = (VERMILION, GREEN, PURPLE, BLUE, ORANGE, SKY_BLUE, BLACK)  # then the same dashed
_DASHES = ("-", (0, (4, 1.2)), (0, (1.2, 1.2)))
_PALE = ("#8fa9c4", "#c9d6e3", "#f4f1ea", "#fbf7ee")  # low to high; all colours above stand out from it
_FINE = 301  # points a side of the grid under contours
_COARSE = 81  # and under the surface in space


def draw_surface(surface: Surface, trajectories: Mapping[str, Tensor], view: View = "contours") -> "Figure":
    """Draw the paths of optimizers over a surface.

    The start is a circle, minima are stars, saddle points crosses; a dot marks where each path ends. Contours
    of a surface with a minimum have levels at equal ratios, those of others at equal distances.

    Args:
        surface: The surface.
        trajectories: For each label, points (steps + 1, 2) as `lightning_optreg.analysis.trajectories.follow`
            returns them; rows of NaN after a run diverged, which the legend notes.
        view: "contours", seen from above, or "3d", the surface in space.

    Returns:
        The figure; `figure.savefig("surface.png")` writes it.

    Raises:
        ValueError: If there is nothing to draw, or a trajectory has another shape.

    Example:
        >>> from lightning_optreg.analysis.surfaces import SURFACES
        >>> figure = draw_surface(SURFACES["ravine"], {"by hand": torch.tensor([[-8.0, 2.5], [0.0, 0.0]])})
        >>> [text.get_text() for text in figure.legends[0].get_texts()]
        ['by hand']
    """
    figure, show = _scene(surface, trajectories, view)
    show(max(map(len, trajectories.values())) - 1)
    return figure


def animate_surface(
    surface: Surface,
    trajectories: Mapping[str, Tensor],
    view: View = "contours",
    *,
    frames: int | None = None,
) -> "FuncAnimation":
    """Animate what `draw_surface` draws: all optimizers step together, and the last frame stays for a while.

    Args:
        surface: The surface.
        trajectories: As `draw_surface` takes them.
        view: From above with contours, or the surface in space.
        frames: Largest number of frames, >= 2; steps are skipped evenly. None: one frame per step.

    Returns:
        The animation; `film.save("surface.gif", writer="pillow")` writes it.

    Raises:
        ValueError: If there is nothing to draw, a trajectory has another shape, or `frames` is less than 2.

    Example:
        >>> import tempfile
        >>> from lightning_optreg.analysis.surfaces import SURFACES
        >>> path = torch.tensor([[-8.0, 2.5], [0.0, 0.0]])
        >>> film = animate_surface(SURFACES["ravine"], {"by hand": path})
        >>> list(film.new_frame_seq())  # how many steps each frame shows
        [0, 1, 1]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     film.save(f"{folder}/surface.gif", writer="pillow", dpi=20)
    """
    from matplotlib.animation import FuncAnimation

    if not (frames is None or frames >= 2):
        raise ValueError(f"animate_surface: frames must be >= 2, got {frames}")
    figure, show = _scene(surface, trajectories, view)
    last = max(map(len, trajectories.values())) - 1
    count = last + 1 if frames is None else min(frames, last + 1)
    moments = [round(last * i / max(count - 1, 1)) for i in range(count)]
    moments += [last] * max(count // 6, 1)
    show(last)
    figure.draw_without_rendering()  # the layout is that of the last picture, and stays
    figure.set_layout_engine("none")
    return FuncAnimation(figure, show, frames=moments, init_func=lambda: show(0), interval=60)


def _scene(
    surface: Surface, trajectories: Mapping[str, Tensor], view: View
) -> tuple["Figure", Callable[[int], Sequence[Any]]]:
    """The figure, and a function that makes it show the first k steps."""
    if not trajectories:
        raise ValueError("draw_surface: there are no trajectories")
    for label, points in trajectories.items():
        if points.ndim != 2 or points.shape[1] != 2 or len(points) == 0:
            raise ValueError(
                f"draw_surface: points of {label!r} must be (steps + 1, 2), got {tuple(points.shape)}"
            )
    figure = new_figure(7.0, 6.4)
    paint = _contours if view == "contours" else _space
    plot = paint(figure, surface)
    tracks = []
    for number, (label, points) in enumerate(trajectories.items()):
        cut = bool(points.isnan().any()) and bool(surface.minima)
        color, dash = _COLORS[number % len(_COLORS)], _DASHES[number // len(_COLORS) % len(_DASHES)]
        line, head = plot(color, dash, f"{label} (diverged)" if cut else label, number)
        tracks.append((points.detach().double().cpu(), line, head))
    figure.legend(
        handles=[line for _, line, _ in tracks],
        loc="outside lower center",
        ncols=min(4, len(tracks)),
        frameon=False,
        fontsize=12,
        handlelength=1.8,
        columnspacing=1.6,
    )
    lift = surface.function if view == "3d" else None

    def show(step: int) -> list[Any]:
        changed = []
        for points, line, head in tracks:
            way = points[: step + 1]
            way = way[~way.isnan().any(dim=1)]
            if lift is not None:
                way = _cut_to_window(way, surface.window)
            for artist, part in ((line, way), (head, way[-1:])):
                x, y = part.T.numpy()
                if lift is None:
                    artist.set_data(x, y)
                else:
                    artist.set_data_3d(x, y, lift(*part.T).numpy())
                changed.append(artist)
        return changed

    return figure, show


def _contours(figure: "Figure", surface: Surface) -> Callable[..., tuple[Any, Any]]:
    import numpy as np
    from matplotlib import patheffects
    from matplotlib.colors import LinearSegmentedColormap, LogNorm, Normalize

    axes = figure.add_subplot()
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
    halo: list[patheffects.AbstractPathEffect] = [
        patheffects.withStroke(linewidth=3.6, foreground="white", alpha=0.75)
    ]
    for point in surface.minima:
        axes.plot(*point, "*", color="black", mec="white", mew=0.9, ms=17, zorder=20)
    for point in surface.saddle_points:
        axes.plot(*point, "X", color="black", mec="white", mew=0.9, ms=11, zorder=20)
    axes.plot(*surface.start, "o", color="white", mec="black", mew=1.4, ms=8, zorder=21)

    def plot(color: str, dash: Any, label: str, number: int) -> tuple[Any, Any]:
        (line,) = axes.plot([], [], color=color, ls=dash, lw=2.0, label=label, zorder=5 + 0.01 * number)
        line.set_path_effects(halo)
        (head,) = axes.plot([], [], "o", color=color, mec="white", mew=1.0, ms=8, zorder=22 + 0.01 * number)
        return line, head

    return plot


def _space(figure: "Figure", surface: Surface) -> Callable[..., tuple[Any, Any]]:
    from matplotlib.colors import LinearSegmentedColormap, LogNorm, Normalize

    # Paths lie on the surface and would flicker in and out of it: they are drawn after it, in their order.
    axes: Any = figure.add_subplot(projection="3d", computed_zorder=False)
    x, y, values = _grid(surface, _COARSE)
    low, high = values.min(), values.max()
    norm: Normalize = LogNorm(max(low, high * 1e-4), high) if surface.minima else Normalize(low, high)
    pale = LinearSegmentedColormap.from_list("pale", _PALE)
    axes.plot_surface(
        x, y, values, cmap=pale, norm=norm, rcount=32, ccount=32, lw=0.35, edgecolor="#5b6b7a", alpha=0.9
    )
    axes.view_init(elev=34, azim=-58)
    axes.set_box_aspect((1, 1, 0.75), zoom=1.02)
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
    for points, style in marks:
        for point in points:
            height = float(surface.function(*torch.tensor(point, dtype=torch.float64)))
            axes.plot([point[0]], [point[1]], [height], ls="none", **style)

    def plot(color: str, dash: Any, label: str, number: int) -> tuple[Any, Any]:
        (line,) = axes.plot([], [], [], color=color, ls=dash, lw=2.6, label=label, zorder=5 + 0.01 * number)
        (head,) = axes.plot([], [], [], "o", color=color, mec="white", ms=9, zorder=22 + 0.01 * number)
        return line, head

    return plot


def _grid(surface: Surface, count: int) -> Any:
    x_from, x_to, y_from, y_to = surface.window
    x, y = torch.meshgrid(
        torch.linspace(x_from, x_to, count, dtype=torch.float64),
        torch.linspace(y_from, y_to, count, dtype=torch.float64),
        indexing="xy",
    )
    return x.numpy(), y.numpy(), surface.function(x, y).numpy()


def _cut_to_window(points: Tensor, window: tuple[float, float, float, float]) -> Tensor:
    """The points until the path first leaves the window, ending on its border: 3D axes don't clip."""
    low, high = torch.tensor(window, dtype=points.dtype).view(2, 2).T
    inside = ((points >= low) & (points <= high)).all(dim=1)
    if bool(inside.all()):
        return points
    out = int(inside.logical_not().nonzero()[0])
    if out == 0:
        return points[:0]
    last, move = points[out - 1], points[out] - points[out - 1]
    # The share of the last step that reaches the border: per coordinate, the border it moves towards.
    share = torch.where(move > 0, (high - last) / move, torch.where(move < 0, (low - last) / move, torch.inf))
    return torch.cat([points[:out], (last + share.min().clamp(0.0, 1.0) * move)[None]])
