"""Accuracies under attacks, with their confidence intervals, as tables."""

import csv
import io
import math
from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["Accuracy", "as_csv", "as_markdown", "wilson_interval"]

_Z = 1.959963984540054  # 97.5 % of a normal distribution are below


def wilson_interval(right: int, images: int) -> tuple[float, float]:
    """Return the 95 % confidence interval of a share, as Wilson gives it.

    Wilson 1927, "Probable inference, the law of succession, and statistical inference", Journal of the
    American Statistical Association 22(158). It stays within [0, 1], also for shares of 0 and 1.

    Args:
        right: Number of successes.
        images: Number of trials, at least 1.

    Example:
        >>> low, high = wilson_interval(0, 100)
        >>> print(f"{low:.3f} {high:.3f}")
        0.000 0.037
    """
    share, square = right / images, _Z**2 / images
    middle = (share + square / 2) / (1 + square)
    half = _Z / (1 + square) * math.sqrt(share * (1 - share) / images + square / (4 * images))
    return max(0.0, middle - half), min(1.0, middle + half)


class Accuracy(NamedTuple):
    """How many images were classified right under an attack.

    Attributes:
        name: Of the attack; `natural` without one, `worst` under the best of all for each image.
        eps: Largest size of a change.
        norm: Its norm.
        right: Number of images.
        images: Of how many.
    """

    name: str
    eps: float | None
    norm: str
    right: int
    images: int

    @property
    def share(self) -> float:
        """The accuracy."""
        return self.right / self.images

    @property
    def interval(self) -> tuple[float, float]:
        """Its 95 % confidence interval over the images."""
        return wilson_interval(self.right, self.images)


def as_markdown(accuracies: Sequence[Accuracy]) -> str:
    """Return a table in Markdown, accuracies in percent.

    Example:
        >>> rows = [Accuracy("natural", None, "", 90, 100), Accuracy("FGSM", 0.1, "linf", 12, 100)]
        >>> print(as_markdown(rows))
        | attack  | norm | eps   | accuracy | 95 % interval | images |
        | ------- | ---- | ----- | -------- | ------------- | ------ |
        | natural |      |       | 90.00    | 82.56 - 94.48 | 100    |
        | FGSM    | linf | 0.100 | 12.00    | 7.00 - 19.81  | 100    |
    """
    rows = [["attack", "norm", "eps", "accuracy", "95 % interval", "images"], []]
    for each in accuracies:
        low, high = each.interval
        eps = "" if each.eps is None else f"{each.eps:.3f}"
        interval = f"{100 * low:.2f} - {100 * high:.2f}"
        rows.append([each.name, each.norm, eps, f"{100 * each.share:.2f}", interval, str(each.images)])
    widths = [max(len(row[i]) for row in rows if row) for i in range(len(rows[0]))]
    rows[1] = ["-" * width for width in widths]
    lines = (" | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(f"| {line} |" for line in lines)


def as_csv(accuracies: Sequence[Accuracy]) -> str:
    """Return a table with one line per attack, accuracies as shares of 1."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["attack", "norm", "eps", "accuracy", "low", "high", "right", "images"])
    for each in accuracies:
        low, high = each.interval
        eps = "" if each.eps is None else each.eps
        writer.writerow([each.name, each.norm, eps, each.share, low, high, each.right, each.images])
    return file.getvalue()
