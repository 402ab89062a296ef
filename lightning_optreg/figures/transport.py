"""The transport equation of a residual network: its solutions, their stability, and Euler's order.

After Wang, Yuan, Shi, Osher 2019, arXiv:1811.10745.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lightning_optreg.analysis.transport_measures import EulerErrors, Stability, TransportSolutions
from lightning_optreg.figures._style import BLACK, BLUE, GREY, VERMILION, literal, new_figure, prepare, style

if TYPE_CHECKING:  # matplotlib is imported when something is drawn: it takes a while
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch import Tensor

__all__ = ["draw_euler", "draw_stability", "draw_transport"]

_LEVELS, _DASHES, _WIDTHS = (0.1, 0.5, 0.9), (":", "-", ":"), (1.0, 1.3, 1.0)


def draw_transport(
    solutions: Sequence[TransportSolutions],
    *,
    data: "tuple[Tensor, Tensor] | None" = None,
    title: str = "",
    caption: str = "",
) -> "Figure":
    r"""Draw u(x, 0) in a column for each sigma: the Monte Carlo method above, finite differences below.

    The black line is the decision boundary u = 1/2, the dotted ones are u = 0.1 and u = 0.9. All panels have
    one scale: that of probabilities, or that of the values where they are not within [0, 1].

    Args:
        solutions: What `lightning_optreg.analysis.compute_transport` returned.
        data: Training points (n, 2) and labels 0 and 1, (n,), which are drawn into the first column.
        title: F and f, with TeX; above the panels.
        caption: A remark below the panels.

    Returns:
        The figure; `figure.savefig("transport.png")` writes it.

    Raises:
        ValueError: If there is nothing to draw.

    Example:
        >>> import torch
        >>> from lightning_optreg.analysis import TRANSPORTS, compute_transport
        >>> x = torch.linspace(-1, 1, 11, dtype=torch.float64)
        >>> figure = draw_transport(compute_transport(TRANSPORTS["shear"], x, x, [0.0, 0.1], paths=20))
        >>> [axes.get_title() for axes in figure.axes[:2]]
        ['$\\sigma = 0$', '$\\sigma = 0.1$']
    """
    if not solutions:
        raise ValueError("draw_transport: there is nothing to draw")
    from matplotlib.colors import LinearSegmentedColormap

    colors = LinearSegmentedColormap.from_list("classes", [BLUE, "#FFFFFF", VERMILION])
    values = [u for each in solutions for u in (each.monte_carlo, each.finite_differences)]
    low = min(0.0, *(float(u.min()) for u in values))
    high = max(1.0, *(float(u.max()) for u in values))
    if low > -0.01 and high < 1.01:  # finite differences may be beyond by a little
        low, high = 0.0, 1.0
    figure = new_figure(1.3 + 3.1 * len(solutions), 6.9)
    panels = figure.subplots(2, len(solutions), squeeze=False, sharex=True, sharey=True)
    for column, each in enumerate(solutions):
        x, y = each.x.cpu().numpy(), each.y.cpu().numpy()
        for row, u in enumerate((each.monte_carlo, each.finite_differences)):
            axes, z = panels[row][column], u.T.cpu().numpy()
            image = axes.pcolormesh(
                x, y, z, cmap=colors, vmin=low, vmax=high, shading="gouraud", rasterized=True
            )
            if z.min() < 0.5 < z.max():
                axes.contour(x, y, z, levels=_LEVELS, colors=BLACK, linewidths=_WIDTHS, linestyles=_DASHES)
            axes.set_aspect("equal")
            axes.locator_params(nbins=4)
            if column == 0 and data is not None:
                _draw_points(axes, *data)
        panels[0][column].set_title(rf"$\sigma = {each.sigma:g}$", fontsize=13)
        panels[1][column].set_xlabel("$x_1$", fontsize=12)
    for row, name in enumerate(("Monte Carlo", "finite differences")):
        panels[row][0].set_ylabel(f"{name}\n$x_2$", fontsize=12)
    bar = figure.colorbar(image, ax=panels, shrink=0.6, pad=0.02)
    bar.set_label("$u(x, 0)$", fontsize=12)
    for level, dash, width in zip(_LEVELS, _DASHES, _WIDTHS, strict=True):
        bar.ax.axhline(level, color=BLACK, linestyle=dash, linewidth=width)
    if title:
        figure.suptitle(title, fontsize=13)
    if caption:
        figure.supxlabel(literal(caption), fontsize=9, color=GREY)
    return figure


def _draw_points(axes: "Axes", points: "Tensor", labels: "Tensor") -> None:
    for label, color, marker in ((0, BLUE, "o"), (1, VERMILION, "^")):
        x, y = points[labels == label].T.cpu().numpy()
        axes.plot(x, y, marker, ls="none", color=color, mec="white", mew=0.7, ms=4.8)


def draw_stability(stability: Stability, *, title: str = "", caption: str = "") -> "Figure":
    r"""Draw the largest |u(x + d, 0) - u(x, 0)| against |d| / sigma, with the fitted power law.

    Args:
        stability: What `lightning_optreg.analysis.measure_stability` returned. Its fit is drawn as a line,
            its smallest bound with the same exponent as a dashed line; hollow marks were not fitted.
        title: F and f, with TeX; above the panel.
        caption: A remark below the panel.

    Returns:
        The figure; `figure.savefig("stability.png")` writes it.

    Example:
        >>> import torch
        >>> from lightning_optreg.analysis import TRANSPORTS, measure_stability
        >>> x = torch.linspace(-1, 1, 11, dtype=torch.float64)
        >>> figure = draw_stability(measure_stability(TRANSPORTS["contraction"], x, x, [0.2, 0.4]))
        >>> [text.get_text() for text in figure.axes[0].get_legend().get_texts()][:2]
        ['$\\sigma = 0.2$', '$\\sigma = 0.4$']
    """
    import numpy as np

    figure = new_figure(7.2, 5.4)
    axes = figure.subplots()
    prepare(axes)
    axes.grid(axis="x", color="0.9", linewidth=0.8)
    axes.set_xscale("log")
    axes.set_yscale("log")
    ratios = stability.ratios.cpu().numpy()
    for number, sigma in enumerate(stability.sigmas.tolist()):
        look = style(number) | {"linestyle": "none", "ms": 7, "mew": 1.4, "zorder": 3}
        x, y = ratios[number], stability.differences[number].cpu().numpy()
        inside = x <= stability.up_to * (1 + 1e-9)
        axes.plot(x[inside], y[inside], **look, label=rf"$\sigma = {sigma:g}$")
        axes.plot(x[~inside], y[~inside], **(look | {"mfc": "white"}))
    line = np.geomspace(ratios.min(), max(stability.up_to, ratios.min()))
    law = line**stability.alpha
    fit = rf"fit: {stability.constant:.2g} $(|\delta|/\sigma)^{{{stability.alpha:.2f}}}$, $R^2$ = "
    axes.plot(
        line, stability.constant * law, color=BLACK, linewidth=1.6, label=f"{fit}{stability.r_squared:.3f}"
    )
    everywhere = np.geomspace(ratios.min(), ratios.max())
    bound = stability.bound * everywhere**stability.alpha
    axes.plot(
        everywhere,
        bound,
        color=GREY,
        linewidth=1.3,
        linestyle="--",
        label=f"bound: the same with C = {stability.bound:.2g}",
    )
    axes.set_xlabel(r"$|\delta| / \sigma$", fontsize=12)
    axes.set_ylabel(r"$\max_x\ |u(x + \delta, 0) - u(x, 0)|$", fontsize=12)
    axes.legend(loc="lower right", frameon=False)
    if title:
        axes.set_title(title, fontsize=12)
    if caption:
        figure.supxlabel(literal(caption), fontsize=9, color=GREY)
    return figure


def draw_euler(errors: EulerErrors, *, title: str = "", caption: str = "") -> "Figure":
    """Draw how far residual networks are from their differential equation, against their depth.

    Args:
        errors: What `lightning_optreg.analysis.measure_euler` returned.
        title: F, with TeX; above the panel.
        caption: A remark below the panel.

    Returns:
        The figure; `figure.savefig("euler.png")` writes it.

    Example:
        >>> from lightning_optreg.analysis import EulerErrors
        >>> figure = draw_euler(EulerErrors([2, 4, 8, 16], [0.5, 0.25, 0.125, 0.0625]))
        >>> figure.axes[0].get_lines()[0].get_label()
        'measured: order 1.00'
    """
    figure = new_figure(6.4, 5.0)
    axes = figure.subplots()
    prepare(axes)
    axes.grid(axis="x", color="0.9", linewidth=0.8)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    label = f"measured: order {errors.order:.2f}"
    axes.plot(errors.depths, errors.errors, "o-", color=BLUE, linewidth=1.8, ms=6, label=label)
    last, end = errors.depths[-1], errors.errors[-1]
    ideal = [1.6 * end * last / depth for depth in errors.depths]  # beside the points, to be seen
    axes.plot(errors.depths, ideal, "--", color=GREY, linewidth=1.3, label="slope of $1/L$")
    axes.set_xticks(list(errors.depths), [str(depth) for depth in errors.depths])
    axes.minorticks_off()
    axes.set_xlabel("layers $L$", fontsize=12)
    axes.set_ylabel(r"$\max_x\ |x_L - x(1)|$", fontsize=12)
    axes.legend(loc="best", frameon=False)
    if title:
        axes.set_title(title, fontsize=12)
    if caption:
        figure.supxlabel(literal(caption), fontsize=9, color=GREY)
    return figure
