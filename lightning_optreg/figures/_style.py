"""How the figures look: colours, lines, sizes, and labels shown as they are."""

from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:  # matplotlib is imported when something is drawn: it takes a while
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "BLACK",
    "BLUE",
    "COLORS",
    "GREEN",
    "GREY",
    "MARKERS",
    "ORANGE",
    "PURPLE",
    "SKY_BLUE",
    "VERMILION",
    "literal",
    "new_figure",
    "prepare",
    "style",
]

# Okabe and Ito's palette without its yellow: people with any colour vision tell its colours apart.
BLUE, VERMILION, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
ORANGE, SKY_BLUE, BLACK = "#E69F00", "#56B4E9", "#000000"
COLORS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY_BLUE, BLACK)
GREY = "0.35"
"""Captions and remarks."""
MARKERS = "osD^vPX<>*hp"
_LINES = ("-", "--", ":")
_METHODS = (*COLORS[:-1], "#4D4D4D")  # a band of black would hide others


def style(index: int) -> dict[str, Any]:
    """Return colour, line and marker of the method with this number; 21 methods get different ones.

    Args:
        index: The number, counted from 0.

    Example:
        >>> style(0)
        {'color': '#0072B2', 'linestyle': '-', 'marker': 'o'}
    """
    return {
        "color": _METHODS[index % len(_METHODS)],
        "linestyle": _LINES[index // len(_METHODS) % len(_LINES)],
        "marker": MARKERS[index % len(MARKERS)],
    }


def new_figure(width: float, height: float) -> "Figure":
    """Return an empty figure on white, which lays itself out.

    Args:
        width: In inches.
        height: In inches.
    """
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


def prepare(axes: "Axes", grid: Literal["x", "y"] = "y") -> None:
    """Draw a light grid behind everything, and no frame at the top and on the right.

    Args:
        axes: The panel.
        grid: The axis whose values the grid marks.
    """
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis=grid, color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)


def literal(text: str) -> str:
    r"""Return a string that matplotlib shows literally, dollar signs included.

    Args:
        text: A string such as the label of a method. Characters that cannot be printed become U+FFFD.

    Example:
        >>> print(literal("$x^{"))
        \$x^{
    """
    return "".join(c if c.isprintable() else "\ufffd" for c in text).replace("$", r"\$")
