"""What privacy costs: epsilon over the steps of private runs, and accuracy against epsilon."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from lightning_optreg.figures._style import literal, new_figure, prepare, style
from lightning_optreg.figures._tables import read_rows
from lightning_optreg.places import UrlPath

if TYPE_CHECKING:  # matplotlib is imported when something is drawn: it takes a while
    from matplotlib.figure import Figure

__all__ = ["PrivatePoint", "draw_privacy", "read_private"]

_EPSILON = "optreg/differential_privacy/epsilon"


class PrivatePoint(NamedTuple):
    """What a private run had come to at the end of an epoch.

    Attributes:
        steps: Steps so far.
        epsilon: What they cost.
        accuracy: Accuracy then, in [0, 1].
    """

    steps: int
    epsilon: float
    accuracy: float


def read_private(path: str | Path | UrlPath, metric: str = "val/accuracy") -> list[PrivatePoint]:
    r"""Read epsilon and an accuracy from the `metrics.csv` of a run with `DifferentialPrivacy`.

    Args:
        path: The file.
        metric: Column of the accuracy.

    Returns:
        A point for each epoch that has both.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it has no such columns.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "metrics.csv")
        ...     text = "epoch,step,optreg/differential_privacy/epsilon,val/accuracy\n0,9,,0.5\n0,9,1.2,\n"
        ...     _ = path.write_text(text)
        ...     read_private(path)
        [PrivatePoint(steps=10, epsilon=1.2, accuracy=0.5)]
    """
    epsilons: dict[int, tuple[int, float]] = {}
    accuracies: dict[int, float] = {}
    for row in read_rows(path, _EPSILON, metric, owner="read_private"):
        if row[_EPSILON]:
            epsilons[int(row["epoch"])] = int(row["step"]) + 1, float(row[_EPSILON])
        if row[metric]:
            accuracies[int(row["epoch"])] = float(row[metric])
    return [PrivatePoint(*epsilons[epoch], accuracies[epoch]) for epoch in epsilons if epoch in accuracies]


def draw_privacy(
    runs: Mapping[str, Sequence[PrivatePoint]], quantity: str = "accuracy on validation images"
) -> "Figure":
    """Draw epsilon over the steps, and accuracy against epsilon, a line for each run.

    Args:
        runs: The points of each run, by its name in the legend.
        quantity: What the accuracy is of, for the axis.

    Returns:
        The figure.

    Raises:
        ValueError: If there is nothing to draw.

    Example:
        >>> figure = draw_privacy({"sigma 1": [PrivatePoint(211, 0.6, 0.70), PrivatePoint(422, 0.8, 0.75)]})
        >>> [axes.get_title() for axes in figure.axes]
        ['privacy spent', 'accuracy reached with it']
    """
    if not any(runs.values()):
        raise ValueError(f"draw_privacy: no run among {list(runs)} has an epoch with epsilon and accuracy")
    figure = new_figure(9.6, 4.0)
    left, right = figure.subplots(1, 2)
    for axes in (left, right):
        prepare(axes)
    for number, (name, points) in enumerate(runs.items()):
        look = {**style(number), "markersize": 4, "linewidth": 1.6, "label": literal(name)}
        left.plot([p.steps for p in points], [p.epsilon for p in points], **look)
        right.plot([p.epsilon for p in points], [100 * p.accuracy for p in points], **look)
    left.set_title("privacy spent")
    left.set_xlabel("training step (a mark is an epoch's end)")
    left.set_ylabel("epsilon so far")
    left.set_xlim(left=0)
    left.set_ylim(bottom=0)
    right.set_title("accuracy reached with it")
    right.set_xlabel("epsilon so far (less is more private)")
    right.set_ylabel(f"{quantity}, %")
    right.set_xlim(left=0)
    if len(runs) > 1:
        left.legend(loc="best", frameon=False)
    return figure
