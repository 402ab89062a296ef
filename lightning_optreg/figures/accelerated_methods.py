"""Accelerated methods beside their low- and high-resolution differential equations.

After Shi, Du, Jordan and Su 2018, arXiv:1810.08907.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lightning_optreg.analysis.deviations import Dynamics, fitted_order
from lightning_optreg.figures._style import BLUE, ORANGE, PURPLE, new_figure

if TYPE_CHECKING:  # matplotlib is imported when something is drawn: it takes a while
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_dynamics"]

_LOW, _HIGH = ORANGE, BLUE
_STYLES = {  # colour, marker, dash of each equation's deviations
    "low resolution": (_LOW, "s", "-"),
    "high resolution": (_HIGH, "o", "-"),
    "same, velocity matched": (_HIGH, "D", "--"),
}
_OTHER = (PURPLE, "^", "-")


def draw_dynamics(dynamics: Sequence[Dynamics]) -> "Figure":
    """Draw a row for each method: its path in the plane, f - f* over time, and deviations over the step.

    Args:
        dynamics: What `lightning_optreg.analysis.deviations.compute_dynamics` returned for each method.

    Returns:
        The figure; `figure.savefig("dynamics.png")` writes it. The last panel of a row gives the order p of
        each deviation, fitted as c s^p.

    Raises:
        ValueError: If there is nothing to draw.

    Example:
        >>> from lightning_optreg.analysis import Problem, compute_dynamics
        >>> problem = Problem((0.1, 2.0), (1.0, 1.0))
        >>> nag = compute_dynamics(problem, "nag_sc", step=0.1, time=1.0, steps=[0.1, 0.05])
        >>> figure = draw_dynamics([nag])
        >>> figure.axes[0].get_title()
        'NAG-SC: in the plane'
    """
    if not dynamics:
        raise ValueError("draw_dynamics: there is nothing to draw")
    figure = new_figure(13.0, 3.9 * len(dynamics) + 0.5)
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.1)  # type: ignore[union-attr, call-arg]
    panels = figure.subplots(len(dynamics), 3, squeeze=False, width_ratios=(1.0, 1.0, 1.1))
    for row, method in zip(panels, dynamics, strict=True):
        _draw_plane(row[0], method)
        _draw_gaps(row[1], method)
        _draw_deviations(row[2], method)
        for axes in row:
            axes.spines[["top", "right"]].set_visible(False)
            axes.tick_params(labelsize=10)
    lines, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(lines, labels, loc="outside upper center", ncols=3, frameon=False, fontsize=12)
    return figure


def _draw_plane(axes: "Axes", method: Dynamics) -> None:
    for kind, color, dash in (("low", _LOW, "--"), ("high", _HIGH, "-")):
        x, y = method.curves[kind].T  # type: ignore[index]
        axes.plot(x, y, color=color, ls=dash, lw=1.8, label=f"{kind}-resolution equation")
    x, y = method.iterates.T
    axes.plot(x, y, ".", color="black", ms=5, label=f"iterates, $s = {method.step:g}$")
    axes.plot(0.0, 0.0, "*", color="black", mec="white", ms=14, zorder=5)
    axes.plot(x[0], y[0], "o", color="white", mec="black", ms=7, zorder=5)
    axes.grid(color="0.92", linewidth=0.8)
    axes.set_title(f"{method.title}: in the plane", fontsize=12)
    axes.set_xlabel("$x_1$", fontsize=12)
    axes.set_ylabel("$x_2$", fontsize=12)


def _draw_gaps(axes: "Axes", method: Dynamics) -> None:
    for kind, color, dash in (("low", _LOW, "--"), ("high", _HIGH, "-")):
        axes.semilogy(method.curve_times, method.curve_gaps[kind], color=color, ls=dash, lw=1.8)  # type: ignore[index]
    axes.semilogy(method.times, method.gaps, ".", color="black", ms=5)
    axes.grid(color="0.92", linewidth=0.8)
    axes.set_title(f"{method.title}: loss", fontsize=12)
    axes.set_xlabel(r"time $t = k\sqrt{s}$", fontsize=12)
    axes.set_ylabel("$f - f^*$", fontsize=12)


def _draw_deviations(axes: "Axes", method: Dynamics) -> None:
    for name, values in method.deviations.items():
        color, marker, dash = _STYLES.get(name, _OTHER)
        label = f"{name}: $s^{{{fitted_order(method.steps, values):.2f}}}$"
        filled = color if dash == "-" else "white"
        axes.loglog(
            method.steps, values, color=color, marker=marker, mfc=filled, ls=dash, ms=5.5, lw=1.5, label=label
        )
    low, high = axes.get_ylim()
    axes.set_ylim(low, high * (high / low) ** 0.42)  # room for the legend
    axes.legend(loc="upper left", frameon=False, fontsize=10)
    axes.grid(color="0.92", linewidth=0.8)
    axes.set_title(f"{method.title}: distance from the equations", fontsize=12)
    axes.set_xlabel("step $s$", fontsize=12)
    axes.set_ylabel(r"$\max_k\ |x_k - X(k\sqrt{s})|$", fontsize=12)
