"""Summary of a study: each method's chosen value, its test results, their spread, the time to a target."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import mean, median, stdev

from lightning_optreg.studies.direction import better
from lightning_optreg.studies.records import Point, RunRecord, StudyResult

__all__ = ["MethodSummary", "Summary", "expected_best", "final", "notice", "summarize", "unfinished_lines"]


@dataclass(frozen=True)
class MethodSummary:
    """One method, at the value of the tuned setting that was chosen for it.

    Attributes:
        method: Its label.
        value: The chosen value; None if no run of the method was completed.
        at_edge: Whether a value next to it was not tried: the best may lie outside of the grid.
        seeds: Number of completed runs at the chosen value.
        lost: Runs of the method, at any value, that diverged or failed.
        test: The test metric of the completed runs at the chosen value.
        interval: 95 % confidence interval of its mean (Student's t); None with fewer than two runs.
        reached: How many of these runs reached the target.
        epochs_to_target: Median number of passes until then, of those that did; None if none did.
        seconds_to_target: Likewise, in seconds of training.
        seconds_per_epoch: Median training time of a pass.
        difference: Mean difference of the test metric to the reference's, seed by seed, at the chosen values;
            None for the reference itself, without one, or without seeds in common.
        difference_interval: 95 % confidence interval of that mean (paired Student's t), or None.
    """

    method: str
    value: float | None
    at_edge: bool
    seeds: int
    lost: int
    test: tuple[float, ...]
    interval: tuple[float, float] | None
    reached: int
    epochs_to_target: float | None
    seconds_to_target: float | None
    seconds_per_epoch: float | None
    difference: float | None = None
    difference_interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class Summary:
    """All methods, the best first.

    Attributes:
        target: Value of the validation metric that is timed.
        tuned: Name of the tuned setting.
        methods: In the order of their mean test metric; those without a completed run last.
        settings: Names of the settings of methods that are tuned by their own; see `StudyResult`.
        reference: Method that the others are compared with; None for none.
    """

    target: float | None
    tuned: str
    methods: tuple[MethodSummary, ...]
    settings: Mapping[str, str | None] = field(default_factory=dict)
    reference: str | None = None

    def setting(self, method: str, value: float | None) -> str:
        """Return a value of the tuned setting as text; empty if nothing is tuned."""
        name = self.settings.get(method, "")
        if name is None:
            return ""
        return "none" if value is None else f"{name} {value:g}".lstrip()


def final(record: RunRecord, metric: str) -> float | None:
    """Return a completed run's last finite value of a metric; None if there is none.

    Example:
        >>> points = (Point(1.0, 1.0, {"val/loss": 2.0}), Point(2.0, 2.0, {"val/loss": 1.5}))
        >>> final(RunRecord("SGD", 0.1, 0, "complete", points, {}), "val/loss")
        1.5
    """
    if record.status != "complete" or not record.points:
        return None
    value = record.points[-1].metrics.get(metric, math.nan)
    return value if math.isfinite(value) else None


def summarize(result: StudyResult) -> Summary:
    """Choose a value for each method and sum up its runs there.

    The chosen value has the best mean over seeds of the last validation metric, among those with the fewest
    lost runs (diverged or failed); among equals it is the smallest. The test plays no part in it. Without a
    target, the lowest of the methods' median last validation metrics is taken (the highest, if small is
    good): at least half of the runs of every method reach it.

    Args:
        result: The study, complete or not.
    """
    best = max if result.mode == "max" else min
    chosen = {
        method: _choose([r for r in result.records if r.method == method], result)
        for method in dict.fromkeys(record.method for record in result.records)
    }
    target = result.target
    if target is None:
        medians = [
            median(finals)
            for method, value in chosen.items()
            if (finals := _finals(_at(result, method, value), result.metric))
        ]
        worst = min if best is max else max
        target = worst(medians) if medians else None
    rows = [_sum_up(result, method, value, target) for method, value in chosen.items()]
    rows = [_compared(row, result, chosen) for row in rows]
    sign = -1.0 if _better_test(result) == "max" else 1.0
    rows.sort(key=lambda row: (not row.test, sign * mean(row.test) if row.test else 0.0))
    return Summary(target, result.tuned, tuple(rows), result.settings, result.reference)


def _compared(row: MethodSummary, result: StudyResult, chosen: Mapping[str, float | None]) -> MethodSummary:
    """Add the differences to the reference, taken seed by seed."""
    if result.reference is None or row.method == result.reference:
        return row
    other = _test_by_seed(result, result.reference, chosen.get(result.reference))
    own = _test_by_seed(result, row.method, row.value)
    differences = [own[seed] - other[seed] for seed in own if seed in other]
    if not differences:
        return row
    return replace(row, difference=mean(differences), difference_interval=_interval(differences))


def _test_by_seed(result: StudyResult, method: str, value: float | None) -> dict[int, float]:
    used = [record for record in _at(result, method, value) if final(record, result.metric) is not None]
    found = {record.seed: record.test.get(result.test_metric, math.nan) for record in used}
    return {seed: score for seed, score in found.items() if math.isfinite(score)}


def expected_best(values: Sequence[float], mode: str) -> list[float]:
    """Return the best value that is expected after 1, 2, ... of the values were tried, in random order.

    If large values are good, the best of n of k values is the i-th smallest with probability
    C(i - 1, n - 1) / C(k, n) (Dodge et al. 2019, "Show Your Work", arXiv:1909.03004, there with replacement).

    Args:
        values: What was reached with each of the k values.
        mode: "max" or "min".

    Example:
        >>> expected_best([1.0, 2.0, 6.0], "max")
        [3.0, 4.666666666666667, 6.0]
    """
    order = sorted(values, reverse=mode == "min")
    k = len(order)
    return [
        sum(value * math.comb(i, n - 1) for i, value in enumerate(order)) / math.comb(k, n)
        for n in range(1, k + 1)
    ]


def _better_test(result: StudyResult) -> str:
    """Whether a large or a small test metric is better: as for the metric, if both are of a kind."""
    of_test = better(result.test_metric)
    return result.mode if of_test is None or of_test == better(result.metric) else of_test


def _choose(records: Sequence[RunRecord], result: StudyResult) -> float | None:
    sign = -1.0 if result.mode == "max" else 1.0
    ranking = []
    for value in sorted({record.value for record in records}):
        tried = [record for record in records if record.value == value]
        finals = _finals(tried, result.metric)
        if finals:
            ranking.append((len(tried) - len(finals), sign * mean(finals), value))
    return min(ranking)[2] if ranking else None


def _at(result: StudyResult, method: str, value: float | None) -> list[RunRecord]:
    return [record for record in result.records if record.method == method and record.value == value]


def _finals(records: Iterable[RunRecord], metric: str) -> list[float]:
    return [value for record in records if (value := final(record, metric)) is not None]


def _sum_up(result: StudyResult, method: str, value: float | None, target: float | None) -> MethodSummary:
    records = [record for record in result.records if record.method == method]
    used = [record for record in _at(result, method, value) if final(record, result.metric) is not None]
    test = tuple(
        record.test[result.test_metric]
        for record in used
        if math.isfinite(record.test.get(result.test_metric, math.nan))
    )
    met = [point for record in used if (point := _first_at(record, result, target)) is not None]
    grid = {record.value for record in records}
    return MethodSummary(
        method=method,
        value=value,
        at_edge=value is not None and len(grid) > 1 and value in (min(grid), max(grid)),
        seeds=len(used),
        lost=sum(final(record, result.metric) is None for record in records),
        test=test,
        interval=_interval(test),
        reached=len(met),
        epochs_to_target=median(point.epoch for point in met) if met else None,
        seconds_to_target=median(point.seconds for point in met) if met else None,
        seconds_per_epoch=median(r.points[-1].seconds / r.points[-1].epoch for r in used) if used else None,
    )


def _first_at(record: RunRecord, result: StudyResult, target: float | None) -> Point | None:
    if target is None:
        return None
    for point in record.points:
        value = point.metrics.get(result.metric, math.nan)
        if value >= target if result.mode == "max" else value <= target:
            return point
    return None


def _interval(values: Sequence[float]) -> tuple[float, float] | None:
    if len(values) < 2:
        return None
    from scipy.stats import t

    half = float(t.ppf(0.975, len(values) - 1)) * stdev(values) / math.sqrt(len(values))
    return mean(values) - half, mean(values) + half


def notice(result: StudyResult) -> str:
    """Return a notice that a study is incomplete, with the number of runs done; empty if it is complete.

    Example:
        >>> notice(StudyResult("s", "S", "lr", "val/loss", "min", "test/loss", None, {}, 4, ()))
        'incomplete: 0 of 4 runs are done; the figures are provisional'
    """
    counts = Counter(run.state for run in result.unfinished)
    failed = sum(record.status == "failed" for record in result.records)
    if len(result.records) >= result.planned and not failed:
        return ""
    words = {"failed": failed, "running elsewhere": counts["running"], "waiting": counts["waiting"]}
    missing = ", ".join(f"{count} {word}" for word, count in words.items() if count)
    return (
        f"incomplete: {len(result.records) - failed} of {result.planned} runs are done"
        f"{f', {missing}' if missing else ''}; the figures are provisional"
    )


def unfinished_lines(result: StudyResult, few: int | None = 10) -> list[str]:
    """Return a line for each run without a result.

    Args:
        result: The study.
        few: Number of lines, followed by how many more there are. None: all.
    """
    lines = [f"  {run.state}: {run.run} ({run.reason})" for run in result.unfinished]
    if few is not None and len(lines) > few:
        return [*lines[:few], f"  and {len(lines) - few} more"]
    return lines
