"""Optimizers on a loss surface: their paths over contours or over the surface in space, and their losses.

After two well-known animations by Alec Radford (2014), which lectures on optimizers show: the contours of
Beale's function and a saddle point.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import Tensor

from lightning_optreg.analysis.surfaces import Surface
from lightning_optreg.figures._style import literal, new_figure, style
from lightning_optreg.figures._surface_panels import contours, losses, space

if TYPE_CHECKING:  # matplotlib is imported when something is drawn: it takes a while
    from matplotlib.animation import FuncAnimation
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["View", "animate_surface", "draw_surface"]

View = Literal["contours", "3d"]


def draw_surface(surface: Surface, trajectories: Mapping[str, Tensor], view: View = "contours") -> "Figure":
    """Draw the paths of optimizers over a surface, and beside it their losses over the steps.

    The start is a circle, minima are stars, saddle points crosses; a large mark shows where each path ends.
    Where paths coincide, each is seen: dashed lines lie on solid ones, thin ones on wide ones, and on top the
    small marks of all.
    Contours of a surface with a minimum have levels at equal ratios, those of others at equal distances.

    Args:
        surface: The surface.
        trajectories: For each label, points (steps + 1, 2) as `lightning_optreg.analysis.trajectories.follow`
            returns them; rows of NaN after a run diverged, which the legend notes. The number of steps is
            the legend's title; if they differ, each label has its own.
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
    figure = new_figure(11.4, 5.9)
    cells = figure.add_gridspec(1, 2, width_ratios=(1.5, 1))
    ways = [points.detach().double().cpu() for points in trajectories.values()]
    above = view == "contours"
    surface_panel = (contours if above else space)(figure, cells[0], surface)
    heights = [surface.function(*way.T) for way in ways]
    loss_panel = losses(figure, cells[1], surface, heights)
    tracks = []
    for number, (label, way, height) in enumerate(zip(trajectories, ways, heights, strict=True)):
        look = _Look(number, len(ways))
        over = way if above else _cut_to_window(way, surface.window)
        places = tuple(over.T) if above else (*over.T, surface.function(*over.T))
        tracks.append(_Track(surface_panel, torch.stack(places), look, label))
        tracks.append(_Track(loss_panel, torch.stack([torch.arange(len(way)), height]), look))
    _legend(figure, surface, trajectories)

    def show(step: int) -> list[Any]:
        return [artist for track in tracks for artist in track.show(step)]

    return figure, show


class _Look(NamedTuple):
    """How the path with this number is drawn, of so many."""

    number: int
    paths: int

    @property
    def line(self) -> dict[str, Any]:
        """Where paths coincide, each shows: dashed ones lie on solid ones, and thin ones on wide ones."""
        rank, of = self.number // 2, (self.paths + 1) // 2
        dashed = self.number % 2 == 1
        return {
            "color": style(self.number)["color"],
            "linestyle": (4.0 * rank / of, (2.2, 1.8)) if dashed else "-",
            "linewidth": 1.8 + (of - 1 - rank) * min(0.8, 3.0 / of),
            "zorder": 5 + 0.01 * (self.number + 100 * dashed),
        }

    def marked(self, length: int) -> slice:
        """The steps that have a small mark: about five of each path, and others for each if possible."""
        every = max((length - 1) // 5, min(self.paths, length - 1), 1)
        return slice(1 + every * self.number // self.paths, None, every)


class _Track:
    """A path in a panel: a line, small marks on it, and a large one at its end."""

    def __init__(self, axes: "Axes", places: Tensor, look: _Look, label: str | None = None) -> None:
        self.places, self.look = places, look
        drawn = style(look.number)
        marks = {"color": drawn["color"], "marker": drawn["marker"], "ls": "none", "mec": "white"}
        order = 0.01 * look.number
        none: list[list[float]] = [[] for _ in places]
        name = f"_{look.number}" if label is None else label  # what begins with _ is in no legend
        (line,) = axes.plot(*none, label=name, **look.line)
        (dots,) = axes.plot(*none, **marks, mew=0.7, ms=6.5, zorder=12 + order)
        (head,) = axes.plot(*none, **marks, mew=1.0, ms=10, zorder=22 + order)
        self.artists: tuple[Any, Any, Any] = (line, dots, head)

    def show(self, step: int) -> tuple[Any, Any, Any]:
        """Show the first steps, as far as they are finite."""
        way = self.places[:, : step + 1]
        way = way[:, ~way.isnan().any(dim=0)]
        marked = self.look.marked(self.places.shape[1])
        for artist, part in zip(self.artists, (way, way[:, marked], way[:, -1:]), strict=True):
            coordinates = part.numpy()
            if len(coordinates) == 2:
                artist.set_data(*coordinates)
            else:
                artist.set_data_3d(*coordinates)
        return self.artists


def _legend(figure: "Figure", surface: Surface, trajectories: Mapping[str, Tensor]) -> None:
    from matplotlib.lines import Line2D

    lengths = {len(points) - 1 for points in trajectories.values()}
    handles = []
    for number, (label, points) in enumerate(trajectories.items()):
        text = literal(label) if len(lengths) == 1 else f"{literal(label)}, {len(points) - 1} steps"
        lost = points.isnan().any(dim=1)
        if bool(lost.any()) and surface.minima:  # where there is no minimum, all that leave are right
            text += f" (diverged in step {int(lost.nonzero()[0])})"
        line, marker = _Look(number, len(trajectories)).line, style(number)["marker"]
        handles.append(Line2D([], [], label=text, marker=marker, mec="white", mew=0.7, ms=8, **line))
    figure.legend(
        handles=handles,
        title=f"{lengths.pop()} steps" if len(lengths) == 1 else None,
        loc="outside lower center",
        ncols=min(4, len(handles)),
        frameon=False,
        fontsize=11,
        title_fontsize=11,
        handlelength=2.4,
        columnspacing=1.6,
    )


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
