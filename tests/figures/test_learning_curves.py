import itertools
from pathlib import Path

import pytest
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from lightning_optreg.figures import draw_curves

HISTORY = [
    {"epoch": 0, "train/loss": 2.0, "val/loss": 1.5, "train/accuracy": 0.3, "learning_rate": 0.1},
    {"epoch": 1, "train/loss": 1.0, "train/accuracy": 0.6, "learning_rate": 0.05},
    {"epoch": 2, "train/loss": 0.5, "val/loss": 1.75, "val/top5": 0.9, "learning_rate": 0.025},
]


def line(axes: Axes, label: str) -> Line2D:
    (found,) = [line for line in axes.get_lines() if str(line.get_label()).startswith(label)]
    return found


def test_draws_each_value_at_its_epoch() -> None:
    loss, accuracy, rate = draw_curves(HISTORY).axes
    assert line(loss, "train/loss").get_xydata().tolist() == [[0, 2.0], [1, 1.0], [2, 0.5]]
    assert line(loss, "val/loss").get_xydata().tolist() == [[0, 1.5], [2, 1.75]]
    assert line(accuracy, "train/accuracy").get_xydata().tolist() == [[0, 30], [1, 60]]
    assert rate.get_lines()[0].get_ydata().tolist() == [0.1, 0.05, 0.025]
    assert loss.get_ylabel() == "loss (mean per image)"
    assert accuracy.get_ylabel() == "accuracy (%)"
    assert "epoch" in rate.get_xlabel()


def test_marks_the_best_epoch_of_the_validation_else_of_the_training() -> None:
    loss, accuracy, _ = draw_curves(HISTORY).axes
    star = line(loss, "best")
    assert star.get_label() == "best val/loss: 1.5 in epoch 0"
    assert star.get_xydata().tolist() == [[0, 1.5]]
    assert line(accuracy, "best").get_label() == "best train/accuracy: 60.00 % in epoch 1"


def test_legend_names_all_lines() -> None:
    legend = draw_curves(HISTORY).axes[0].get_legend()
    assert legend is not None
    texts = [text.get_text() for text in legend.get_texts()]
    assert texts == ["train/loss", "val/loss", "best val/loss: 1.5 in epoch 0"]


def test_lines_differ_in_color_and_dash_and_lightness() -> None:
    point = {"epoch": 0, **{f"{kind}/loss_{i}": 1.0 for kind in ("train", "val") for i in range(3)}}
    lines = [line for line in draw_curves([point]).axes[0].get_lines() if line.get_marker() != "*"]
    assert len(lines) == 6
    for a, b in itertools.combinations(lines, 2):
        assert a.get_color() != b.get_color()
    assert {str(x.get_label())[:3]: x.get_linestyle() for x in lines} == {"tra": "-", "val": "--"}


def test_only_panels_with_values() -> None:
    assert len(draw_curves([{"epoch": 0, "train_loss": 1.0}]).axes) == 1
    assert len(draw_curves([{"epoch": 0, "learning_rate": 0.0}]).axes) == 1


def test_epochs_are_whole_numbers() -> None:
    for count in (1, 2, 3):
        figure = draw_curves(HISTORY[:count])
        figure.draw_without_rendering()
        assert all(tick == round(tick) for tick in figure.axes[-1].get_xticks())


def test_logarithmic_where_values_lie_far_apart() -> None:
    far = [{"epoch": i, "loss": 10.0**-i, "learning_rate": 10.0**-i} for i in range(4)]
    assert [axes.get_yscale() for axes in draw_curves(far).axes] == ["log", "log"]
    assert [axes.get_yscale() for axes in draw_curves(HISTORY).axes] == ["linear"] * 3


def test_a_diverged_run_can_be_drawn(tmp_path: Path) -> None:
    nan, inf = float("nan"), float("inf")
    history = [
        {"epoch": i, "val/loss": y, "acc": nan, "learning_rate": inf} for i, y in enumerate((2, inf, nan))
    ]
    figure = draw_curves(history)
    assert line(figure.axes[0], "best").get_label() == "best val/loss: 2 in epoch 0"
    assert not [x for x in figure.axes[1].get_lines() if str(x.get_label()).startswith("best")]
    figure.savefig(tmp_path / "a.png")


@pytest.mark.parametrize("history", [[], [{"epoch": 0, "val/top5": 0.5}]])
def test_nothing_to_draw(history: list[dict[str, float]]) -> None:
    with pytest.raises(ValueError, match="draw_curves: no loss, accuracy or learning rate among"):
        draw_curves(history)
