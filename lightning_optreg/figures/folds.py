"""How methods compare fold by fold: paired scores, and the differences to a reference."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from lightning_optreg.figures._style import BLUE, SKY_BLUE, VERMILION, literal, new_figure, prepare, style

if TYPE_CHECKING:  # matplotlib is imported when something is drawn: it takes a while
    from matplotlib.figure import Figure

__all__ = ["draw_folds"]


def draw_folds(
    scores: Mapping[str, Mapping[str, float]],
    intervals: Mapping[str, tuple[float, float] | None],
    differences: Mapping[str, tuple[Sequence[float], tuple[float, float] | None]],
    quantity: str,
    reference: str,
    axis: str = "repeat.fold",
) -> "Figure":
    """Draw the scores of each method over the folds, and beside them its differences to the reference.

    Args:
        scores: For each method, its score by fold; folds are in the order of the first method's.
        intervals: A confidence interval of each method's mean, or None.
        differences: For each other method, its differences to the reference fold by fold, and an interval of
            their mean.
        quantity: What a score is, such as "val/accuracy".
        reference: The method that the others are compared with.
        axis: What names a fold.

    Returns:
        The figure, with one panel if there is one method.

    Example:
        >>> scores = {"L2": {"0": 0.8, "1": 0.7}, "none": {"0": 0.7, "1": 0.65}}
        >>> figure = draw_folds(scores, {"L2": (0.6, 0.9)}, {"none": ([-0.1, -0.05], None)}, "accuracy", "L2")
        >>> len(figure.axes)
        2
    """
    shown = {method: by_fold for method, by_fold in scores.items() if by_fold}
    figure = new_figure(9.6 if differences else 6.0, 3.8)
    panels = figure.subplots(1, 2, width_ratios=(3, 2)) if differences else [figure.subplots()]
    left = panels[0]
    prepare(left, grid="y")
    folds = list(dict.fromkeys(fold for by_fold in shown.values() for fold in by_fold))
    place = {fold: number for number, fold in enumerate(folds)}
    for number, (method, by_fold) in enumerate(shown.items()):
        look = style(number)
        # Side by side, so that equal scores don't hide each other.
        at = [place[fold] + 0.14 * (number - (len(shown) - 1) / 2) for fold in by_fold]
        left.plot(at, list(by_fold.values()), "o", label=literal(method), color=look["color"], markersize=5.0)
        mean = sum(by_fold.values()) / len(by_fold)
        left.axhline(mean, color=look["color"], linestyle=look["linestyle"], linewidth=1.2)
        if (interval := intervals.get(method)) is not None:
            left.axhspan(*interval, color=look["color"], alpha=0.08, linewidth=0)
    left.set_xticks(range(len(folds)), list(map(literal, folds)))
    left.set_xlabel(axis)
    left.set_ylabel(literal(f"{quantity}: each fold and the mean"))
    left.legend(frameon=False, fontsize="small")
    if not differences:
        return figure
    right = panels[1]
    prepare(right, grid="x")
    right.spines["left"].set_visible(False)
    right.tick_params(axis="y", length=0)
    right.locator_params(axis="x", nbins=5)
    right.axvline(0.0, color=VERMILION, linewidth=1.2, linestyle="--")
    for row, (values, interval) in enumerate(differences.values()):
        if interval is not None:
            right.plot(interval, [row, row], color=SKY_BLUE, linewidth=5.0, solid_capstyle="butt", alpha=0.6)
        right.plot(values, [row] * len(values), "o", color="0.45", markersize=4.0, markeredgewidth=0)
        if values:
            right.plot(
                [sum(values) / len(values)], [row], "|", color=BLUE, markersize=13.0, markeredgewidth=2.4
            )
    right.set_yticks(range(len(differences)), list(map(literal, differences)))
    right.set_ylim(len(differences) - 0.5, -0.5)
    right.set_xlabel(literal(f"difference to {reference}, 95 % interval"))
    return figure
