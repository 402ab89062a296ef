"""The command `attack`: `test` with attacks, from the command line."""

import csv
from pathlib import Path

import pytest

from lightning_optreg.__main__ import main
from lightning_optreg.commands.attack import read_attack

pytestmark = pytest.mark.usefixtures("blank_curves")

SMALL = [
    "--model.net=SoftmaxRegression",
    "--data=FashionMNISTDataModule",
    "--trainer.accelerator=cpu",
    "--trainer.enable_progress_bar=false",
    "--trainer.logger=CSVLogger",
    "--trainer.logger.save_dir=runs",
]


@pytest.fixture
def fitted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fashion_mnist_dir: Path) -> list[str]:
    """The options of a run in the current folder that has been trained for a moment."""
    monkeypatch.chdir(tmp_path)
    data = [f"--data.data_dir={fashion_mnist_dir}", "--data.verify_checksum=false", "--data.batch_size=20"]
    options = [*SMALL, *data, "--trainer.max_epochs=1"]
    assert main(["fit", *options]) == 0
    return options


def test_it_is_test_with_attacks(fitted: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    argv = ["attack", *fitted, "--eps", "0.05", "--attacks", "FGSM", "PGD:steps=3,norm=l2", "--images", "30"]
    assert main(argv) == 0
    printed = capfd.readouterr()
    said = printed.out + printed.err
    assert "| FGSM" in said
    assert "PGD-l2-3" in said
    (table,) = Path().rglob("robustness.csv")
    with table.open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["attack"], row["eps"], row["images"]) for row in rows] == [
        ("natural", "", "30"),
        ("FGSM", "0.05", "30"),
        ("PGD-l2-3", "0.5", "30"),
        ("worst", "", "30"),
    ]
    right = [int(row["right"]) for row in rows]
    assert right[3] <= min(right) <= right[0]
    assert table.with_suffix(".png").stat().st_size > 10_000
    assert table.with_suffix(".md").read_text().startswith("| attack")


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["--eps", "2"], "FGSM: eps must be in [0, 1], got 2.0"),
        (["--eps", "much"], "--eps: invalid float value: 'much'"),
        (["--attacks", "FGMS"], "--attacks: 'FGMS' is not a known attack; did you mean FGSM or IFGSM?"),
        (["--attacks", "PGD:step=3"], "--attacks PGD:step=3: PGD.__init__() got an unexpected keyword"),
        (["--attacks", "PGD:steps"], "--attacks PGD:steps: options are written NAME:key=value,key=value"),
        (["--attacks", "PGD:steps=1.5"], "--attacks PGD:steps=1.5: steps must be a whole number, got 1.5"),
        (["--attacks", "PGD:eps=small"], "--attacks PGD:eps=small: eps must be a number, got small"),
        (["--images", "0"], "RobustnessEvaluation: max_images must be >= 1, got 0"),
        (["--samples", "0"], "PGD: samples must be >= 1, got 0"),
        (["--output", "../table"], "RobustnessEvaluation: output"),
    ],
)
def test_a_mistake_is_one_line(argv: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["attack", *argv, "--config", "configs/fashion_mnist/lenet5.yaml"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"error: {line}")
    assert err.count("\n") == 1


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["attack", "--help"]) == 0
    out, _ = capsys.readouterr()
    assert "--eps" in out
    assert "All options" in out


def test_attacks_by_name() -> None:
    assert read_attack("FGSM", 0.1, 1.5, 1).eps == 0.1
    assert read_attack("CarliniWagner", 0.1, 1.5, 1).eps == 1.5
    assert read_attack("PGD:norm=l2,eps=2.0", 0.1, 1.5, 4).eps == 2.0
    assert read_attack("PGD", 0.1, 1.5, 4).label == "EOT-PGD-20"
