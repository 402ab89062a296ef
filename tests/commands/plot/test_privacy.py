from pathlib import Path

import pytest

from lightning_optreg.__main__ import main as program
from lightning_optreg.figures import draw_privacy, read_private
from lightning_optreg.figures.privacy import PrivatePoint

HEAD = "epoch,step,optreg/differential_privacy/epsilon,train/loss,val/accuracy\n"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A folder whose last epoch has not been validated."""
    text = f"{HEAD}0,9,,,0.5\n0,9,0.5,2.0,\n1,19,,,0.75\n1,19,0.7,1.5,\n2,25,0.8,1.4,\n"
    (tmp_path / "metrics.csv").write_text(text)
    return tmp_path


def test_reads_the_epochs_that_have_both(run: Path) -> None:
    assert read_private(run / "metrics.csv") == [PrivatePoint(10, 0.5, 0.5), PrivatePoint(20, 0.7, 0.75)]
    with pytest.raises(ValueError, match="has no column 'test/accuracy', but"):
        read_private(run / "metrics.csv", "test/accuracy")


def test_draws_epsilon_over_steps_and_accuracy_against_epsilon() -> None:
    runs = {"a": [PrivatePoint(10, 0.5, 0.5), PrivatePoint(20, 0.7, 0.75)], "b": [PrivatePoint(10, 1.0, 0.6)]}
    left, right = draw_privacy(runs).axes
    assert [line.get_xydata().tolist() for line in left.get_lines()] == [[[10, 0.5], [20, 0.7]], [[10, 1.0]]]
    assert [line.get_xydata().tolist() for line in right.get_lines()] == [[[0.5, 50], [0.7, 75]], [[1.0, 60]]]
    assert [text.get_text() for text in left.get_legend().get_texts()] == ["a", "b"]
    with pytest.raises(ValueError, match="no run among"):
        draw_privacy({"a": []})


def test_the_command_draws(run: Path, tmp_path: Path) -> None:
    assert program(["plot", "privacy", "--runs", str(run), "--output", str(tmp_path / "p.png")]) == 0
    assert (tmp_path / "p.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--output", "p.png"], "--runs is missing"),
        (["--runs", "."], "--output is missing"),
        (["--runs", ".", "--output", "p.txt"], "must end in"),
        (["--runs", "a", "--names", "b", "c", "--output", "p.png"], "one name for each of 1 runs"),
        (["--runs", "nowhere", "--output", "p.png"], "nowhere/metrics.csv: No such file"),
        (["--runs", "RUN", "--metric", "accuracy", "--output", "p.png"], "has no column 'accuracy'"),
    ],
)
def test_mistakes_are_one_line(
    options: list[str], says: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert program(["plot", "privacy", *(str(run) if word == "RUN" else word for word in options)]) == 2
    err = capsys.readouterr().err
    assert says in err
    assert err.count("\n") == 1
