from pathlib import Path

import pytest

from lightning_optreg.figures import draw_runs, read_metric


def test_reads_the_epochs_that_have_a_value(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("epoch,step,train/loss,val/loss\n0,9,,2.5\n0,9,2.0,\n1,19,,2.25\n1,19,1.5,\n")
    assert read_metric(path, "train/loss") == [(0, 2.0), (1, 1.5)]
    assert read_metric(path, "val/loss") == [(0, 2.5), (1, 2.25)]
    with pytest.raises(ValueError, match="has no column 'loss', but"):
        read_metric(path, "loss")
    with pytest.raises(FileNotFoundError):
        read_metric(tmp_path / "other.csv", "train/loss")


def test_draws_a_line_for_each_run() -> None:
    runs = {f"run {i}": [(0, 1.0 + i), (1, 0.5 + i)] for i in range(7)}
    (axes,) = draw_runs(runs, "training loss").axes
    lines = axes.get_lines()
    assert [line.get_label() for line in lines] == list(runs)
    assert [line.get_xydata().tolist() for line in lines] == [[[0, 1.0 + i], [1, 0.5 + i]] for i in range(7)]
    assert len({line.get_color() for line in lines}) == len({line.get_marker() for line in lines}) == 7
    assert axes.get_ylabel() == "training loss"
    assert axes.get_legend() is not None


def test_nothing_to_draw_is_an_error() -> None:
    with pytest.raises(ValueError, match="no run among"):
        draw_runs({"a": []}, "loss")
