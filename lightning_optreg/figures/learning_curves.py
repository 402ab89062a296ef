"""Learning curves of one run: loss, accuracy and learning rate over the epochs."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lightning_optreg.figures._style import COLORS, GREY, new_figure, prepare

if TYPE_CHECKING:  # matplotlib is imported when something is drawn: it takes a while
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_curves", "is_accuracy", "is_loss", "is_validation"]

_TRAINING, _VALIDATION, *_OTHERS = COLORS


def is_loss(name: str) -> bool:
    """Return whether a logged metric is a loss over an epoch, by its name.

    Example:
        >>> [is_loss(name) for name in ("train/loss", "val_loss", "train/loss_step", "val/accuracy")]
        [True, True, False, False]
    """
    return "loss" in name.lower() and not name.endswith("_step")


def is_accuracy(name: str) -> bool:
    """Return whether a logged metric is an accuracy over an epoch, by its name.

    Example:
        >>> [is_accuracy(name) for name in ("val/accuracy", "train_acc", "train_acc_step", "val/top5")]
        [True, True, False, False]
    """
    return "acc" in name.lower() and not name.endswith("_step")


def is_validation(name: str) -> bool:
    """Return whether a logged metric comes from validation, by its name.

    Example:
        >>> [is_validation(name) for name in ("val/loss", "valid_acc", "train/loss")]
        [True, True, False]
    """
    return "val" in name.lower()


def draw_curves(history: Sequence[Mapping[str, float]]) -> "Figure":
    """Draw the values logged in each epoch: a panel of losses, one of accuracies, one of the learning rate.

    A star marks the best epoch of the validation, or of the training if nothing was validated. Panels without
    values are left out.

    Args:
        history: For each epoch, in order, its number `epoch`, counted from 0, and any of: losses (names with
            `loss`), accuracies (names with `acc`, from 0 to 1) and `learning_rate`.

    Returns:
        The figure; `figure.savefig("curves.png")` writes it.

    Raises:
        ValueError: If there is nothing to draw.

    Example:
        >>> figure = draw_curves([{"epoch": 0, "train/loss": 2.3}, {"epoch": 1, "train/loss": 1.9}])
        >>> [axes.get_ylabel() for axes in figure.axes]
        ['loss (mean per image)']
    """
    names = sorted(
        {name for point in history for name in point}, key=lambda name: (is_validation(name), name)
    )
    losses, accuracies = list(filter(is_loss, names)), list(filter(is_accuracy, names))
    draw: list[tuple[float, Callable[[Axes], None]]] = []  # relative height and painter of each panel
    if losses:
        draw.append((3, lambda axes: _draw_losses(axes, history, losses)))
    if accuracies:
        draw.append((3, lambda axes: _draw_accuracies(axes, history, accuracies)))
    if "learning_rate" in names:
        draw.append((1.2, lambda axes: _draw_learning_rate(axes, history)))
    if not draw:
        raise ValueError(f"draw_curves: no loss, accuracy or learning rate among {names}")

    heights = [height for height, _ in draw]
    figure = new_figure(7.2, 1.0 + 0.85 * sum(heights))
    panels = figure.subplots(len(draw), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    for axes, (_, paint) in zip(panels, draw, strict=True):
        prepare(axes)
        axes.margins(x=0.02)
        paint(axes)
    figure.align_ylabels()
    panels[-1].set_xlabel("epoch (counted from 0)")
    panels[-1].xaxis.get_major_locator().set_params(integer=True)
    if len(history) == 1:  # the axis would span fractions of an epoch
        panels[-1].set_xticks([history[0]["epoch"]])
    return figure


def _draw_losses(axes: "Axes", history: Sequence[Mapping[str, float]], names: list[str]) -> None:
    values = _draw_lines(axes, history, names)
    if _spans(values, 50.0):
        axes.set_yscale("log")
    axes.set_ylabel("loss (mean per image)")
    _mark_best(axes, history, names, min, lambda value: f"{value:.4g}")
    axes.legend(loc="best", frameon=False)


def _draw_accuracies(axes: "Axes", history: Sequence[Mapping[str, float]], names: list[str]) -> None:
    _draw_lines(axes, history, names, scale=100.0)
    axes.set_ylabel("accuracy (%)")
    _mark_best(axes, history, names, max, lambda value: f"{value:.2f} %", scale=100.0)
    axes.legend(loc="best", frameon=False)


def _draw_learning_rate(axes: "Axes", history: Sequence[Mapping[str, float]]) -> None:
    epochs, rates = _series(history, "learning_rate")
    axes.plot(epochs, rates, color=GREY, linewidth=1.5, drawstyle="steps-mid", **_markers(epochs, "o"))
    if _spans(rates, 99.0):
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0.0, top=1.15 * max(filter(math.isfinite, rates), default=1.0) or 1.0)
    axes.set_ylabel("learning rate\n(at epoch start)")


def _draw_lines(
    axes: "Axes", history: Sequence[Mapping[str, float]], names: list[str], scale: float = 1.0
) -> list[float]:
    """A line for each name: solid for training, dashed for validation; returns all the values."""
    everything: list[float] = []
    taken: set[str] = set()
    others = iter(_OTHERS * len(names))
    for name in names:
        epochs, values = _series(history, name, scale)
        validation = is_validation(name)
        color = _VALIDATION if validation else _TRAINING
        if color in taken:
            color = next(others)
        taken.add(color)
        marker = _markers(epochs, "s" if validation else "o")
        axes.plot(
            epochs, values, color=color, label=name, linewidth=1.8, ls="--" if validation else "-", **marker
        )
        everything += values
    return everything


def _mark_best(
    axes: "Axes",
    history: Sequence[Mapping[str, float]],
    names: list[str],
    choose: Callable[[Iterable[float]], float],
    text: Callable[[float], str],
    *,
    scale: float = 1.0,
) -> None:
    """A star and its value at the best epoch of the first validation metric, or else of the first one."""
    name = next(filter(is_validation, names), names[0])
    points = [(y, x) for x, y in zip(*_series(history, name, scale), strict=True) if math.isfinite(y)]
    if not points:
        return
    best = choose(y for y, _ in points)
    epoch = next(x for y, x in points if y == best)  # the first of equals
    label = f"best {name}: {text(best)} in epoch {epoch:.0f}"
    axes.plot([epoch], [best], "*", color="black", mec="white", markersize=13, zorder=5, label=label)


def _series(
    history: Sequence[Mapping[str, float]], name: str, scale: float = 1.0
) -> tuple[list[float], list[float]]:
    """The epochs that have this value, and the values."""
    points = [(point["epoch"], scale * point[name]) for point in history if name in point]
    return [epoch for epoch, _ in points], [value for _, value in points]


def _markers(epochs: Sequence[float], marker: str) -> dict[str, Any]:
    """Markers while there are few points: they show which epochs have a value, and a single point at all."""
    return {"marker": marker, "markersize": 4} if len(epochs) <= 40 else {}


def _spans(values: Sequence[float], ratio: float) -> bool:
    """Return whether positive values are so far apart that only a logarithmic axis shows them all."""
    finite = [value for value in values if math.isfinite(value)]
    return bool(finite) and min(finite) > 0 and max(finite) > ratio * min(finite)
