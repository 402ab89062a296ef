"""What makes a comparison fair to read: paired differences, the price of tuning, intervals that are cut."""

from dataclasses import replace
from itertools import combinations
from statistics import mean
from typing import Any

import pytest

from lightning_optreg.figures.ranking import draw_ranking
from lightning_optreg.studies.report import tuning
from lightning_optreg.studies.summary import expected_best, summarize
from lightning_optreg.studies.tables import notes_of, table_cells, table_csv
from tests.studies.test_report import record, study

scipy_stats = pytest.importorskip("scipy.stats", reason="the extra 'report' is not installed")

TESTS = {"a": (0.70, 0.80, 0.75), "b": (0.72, 0.81, 0.79), "c": (0.60, 0.70, 0.71)}


def compared(**changes: Any) -> Any:
    records = [
        record(method, 0.1, seed, [0.5], test)
        for method, tests in TESTS.items()
        for seed, test in enumerate(tests)
    ]
    return study(*records, **changes)


def test_differences_are_those_of_the_paired_t_test() -> None:
    rows = {row.method: row for row in summarize(compared(reference="a")).methods}
    assert rows["a"].difference is None
    for method in ("b", "c"):
        expected = scipy_stats.ttest_rel(TESTS[method], TESTS["a"])
        assert rows[method].difference == pytest.approx(mean(TESTS[method]) - mean(TESTS["a"]))
        assert rows[method].difference_interval == pytest.approx(tuple(expected.confidence_interval(0.95)))


def test_only_seeds_in_common_are_compared() -> None:
    result = compared(reference="a")
    result = replace(result, records=tuple(r for r in result.records if (r.method, r.seed) != ("a", 1)))
    rows = {row.method: row for row in summarize(result).methods}
    assert rows["b"].difference == pytest.approx((0.02 + 0.04) / 2)


def test_the_table_has_a_column_for_it_and_warns_of_many() -> None:
    summary = summarize(compared(reference="a"))
    header, *rows = table_cells(summary)
    assert header[-1] == "less a"
    assert {row[0]: row[-1] for row in rows}["a"] == "reference"
    assert {row[0]: row[-1] for row in rows}["b"].startswith("+0.0233 (")
    (note,) = notes_of(summary)
    assert "all 2 intervals together, each would have to be one of 97.5 %" in note
    names = table_csv(summary).splitlines()[0].split(",")
    assert names[-2:] == ["difference_low", "difference_high"]
    assert len({line.count(",") for line in table_csv(summary).splitlines()}) == 1
    # Without a reference nothing changes.
    assert "less" not in str(table_cells(summarize(compared())))
    assert notes_of(summarize(compared())) == []


@pytest.mark.parametrize("mode", ["max", "min"])
def test_the_expected_best_is_the_mean_over_all_choices(mode: str) -> None:
    values = [0.5, 0.9, 0.7, 0.8, 0.7]
    best = max if mode == "max" else min
    for n, expected in enumerate(expected_best(values, mode), 1):
        assert expected == pytest.approx(mean(best(some) for some in combinations(values, n)))


def test_tuning_costs_the_passes_of_all_seeds_and_of_lost_runs() -> None:
    records = [record("a", value, seed, [0.1, value]) for value in (0.5, 0.7) for seed in range(2)]
    lost = [record("a", 0.9, seed, [0.1], status="diverged") for seed in range(2)]
    result = study(*records, *lost, *(record("b", 0.1, seed, [0.5]) for seed in range(2)))
    bands = tuning(result, summarize(result))
    assert list(bands) == ["a"]  # b has nothing to tune
    assert list(bands["a"].x) == [5.0, 10.0]  # 2 values x 2 seeds x 2 passes and 2 runs of one
    assert list(bands["a"].middle) == pytest.approx([0.6, 0.7])


def test_intervals_beyond_the_axis_end_in_arrows() -> None:
    runs = {"wide": [0.8, 0.82], "narrow": [0.79, 0.83]}
    axes = draw_ranking(runs, {"wide": (0.5, 1.1), "narrow": (0.78, 0.84)}, "accuracy").axes[0]
    low, high = axes.get_xlim()
    marks = [(line.get_marker(), list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines]
    assert [mark for mark in marks if mark[0] in "<>"] == [("<", [low], [0]), (">", [high], [0])]
