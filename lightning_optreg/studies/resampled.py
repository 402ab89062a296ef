"""Statistics of cross-validation: runs share training images, so their scores are not independent."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev

__all__ = ["Resampled", "resampled"]


@dataclass(frozen=True)
class Resampled:
    """The mean of scores, or of differences, over folds and repeats.

    Attributes:
        mean: The mean.
        spread: Standard deviation of the single values; None with fewer than two.
        interval: 95 % confidence interval of the mean; None likewise.
        p_value: Of the null hypothesis that the mean is 0, two-sided; None likewise, or if all values are
            equal.
    """

    mean: float
    spread: float | None
    interval: tuple[float, float] | None
    p_value: float | None


def resampled(values: Sequence[float], folds: int) -> Resampled:
    """Return the mean with the corrected resampled t-test.

    With J = k r values d_j from k folds and r repeats, of variance s^2, the variance of the mean is estimated
    by (1 / J + n_test / n_train) s^2 with n_test / n_train = 1 / (k - 1), and
    t = mean(d) / sqrt((1 / J + 1 / (k - 1)) s^2) has J - 1 degrees of freedom. The naive s^2 / J leaves out
    that the training sets overlap, and finds differences where there are none.

    Source: Nadeau and Bengio 2003, "Inference for the Generalization Error", Machine Learning 52; for k folds
    and r repeats, Bouckaert and Frank 2004, "Evaluating the Replicability of Significance Tests".

    Args:
        values: One for each fold and repeat, at least one.
        folds: Number of folds k, at least 2.

    Example:
        >>> low, high = resampled([0.8, 0.82, 0.78, 0.8], folds=4).interval
        >>> round(low, 3), round(high, 3)  # the naive one is 0.774 to 0.826
        (0.76, 0.84)
    """
    count, center = len(values), mean(values)
    if count < 2:
        return Resampled(center, None, None, None)
    from scipy.stats import t

    spread = stdev(values)
    error = spread * math.sqrt(1 / count + 1 / (folds - 1))
    half = float(t.ppf(0.975, count - 1)) * error
    p_value = 2 * float(t.sf(abs(center) / error, count - 1)) if error > 0 else None
    return Resampled(center, spread, (center - half, center + half), p_value)
