"""How tables of experiments show the runs of several seeds."""

import statistics
from collections.abc import Sequence

__all__ = ["mean_and_spread"]


def mean_and_spread(values: Sequence[float]) -> str:
    """The mean and the standard deviation, `91.1 ± 0.2`; that of one value is 0."""
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.1f} ± {spread:.1f}"
