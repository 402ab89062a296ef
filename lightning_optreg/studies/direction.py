"""Whether a metric should be large or small, judged by its name."""

import re
from typing import Literal

__all__ = ["better"]

_LESS = {"loss", "nll", "brier", "error", "ece", "perplexity", "mse", "mae", "rmse"}
_MORE = {"accuracy", "acc", "top1", "top5", "f1", "auc", "auroc", "precision", "recall"}


def better(metric: str) -> Literal["max", "min"] | None:
    """Return whether the largest or the smallest value of a metric is best; None if its name doesn't tell.

    Args:
        metric: Its name, such as `val/loss`; the part before the last `/` does not count.

    Example:
        >>> better("val/loss"), better("test/calibration_error"), better("val/top5"), better("val/margin")
        ('min', 'min', 'max', None)
    """
    words = set(re.split(r"[^a-z0-9]+", metric.rpartition("/")[2].lower()))
    if words & _LESS:
        return "min"
    return "max" if words & _MORE else None
