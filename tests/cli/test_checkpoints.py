"""Checkpoints on the command line: found, compared with the configuration, continued, measured."""

import csv
import shutil
from pathlib import Path

import pytest
import torch

from lightning_optreg.__main__ import main
from lightning_optreg.cli.main_cli import run
from lightning_optreg.runs.checkpoints import report
from tests.cli.tools import load, read, short

# The finished run that is trained once is copied to where each test continues it.
pytestmark = [
    pytest.mark.filterwarnings("ignore:The dirpath has changed"),
    pytest.mark.usefixtures("blank_curves"),
]

SCHEDULE = ["--lr_scheduler=StepLR", "--lr_scheduler.step_size=1", "--lr_scheduler.gamma=0.5"]


@pytest.fixture
def options(fashion_mnist_dir: Path, tmp_path: Path) -> list[str]:
    return short(fashion_mnist_dir, tmp_path)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, fashion_mnist_dir: Path) -> Path:
    """A root with a finished run."""
    root = tmp_path_factory.mktemp("finished")
    assert main(["fit", *short(fashion_mnist_dir, root), *SCHEDULE]) == 0
    return root


@pytest.fixture
def trained(finished: Path, tmp_path: Path) -> Path:
    """The folder of a finished run, in the root that the options name."""
    shutil.copytree(finished / "version_0", tmp_path / "version_0")
    return tmp_path / "version_0"


def rows(folder: Path, column: str) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return [row for row in csv.DictReader(file) if row.get(column)]


def said(capsys: pytest.CaptureFixture[str]) -> str:
    out, err = capsys.readouterr()
    return out + err


# ---- found -------------------------------------------------------------------------------------------------


def test_a_run_goes_on_in_its_folder(trained: Path, options: list[str], tmp_path: Path) -> None:
    before = (trained / "config.yaml").read_text()
    assert main(["fit", *options, *SCHEDULE, "--ckpt_path=last", "--trainer.max_epochs=3"]) == 0
    assert [path.name for path in tmp_path.glob("version_*")] == ["version_0"]
    assert load(trained / "checkpoints/last.ckpt")["epoch"] == 2
    assert [row["epoch"] for row in rows(trained, "train/loss")] == ["0", "1", "2"]
    assert (trained / "config.yaml").read_text() == before
    assert read(trained / "config-1.yaml")["trainer"]["max_epochs"] == 3


def test_a_run_that_goes_on_as_it_was_needs_no_second_configuration(
    trained: Path, options: list[str], tmp_path: Path
) -> None:
    assert main(["fit", "--config", str(trained / "config.yaml"), "--ckpt_path=last"]) == 0
    assert not (trained / "config-1.yaml").exists()


def test_last_is_that_of_the_newest_run_that_has_one(
    trained: Path, options: list[str], tmp_path: Path
) -> None:
    (tmp_path / "version_3").mkdir()  # killed before its first checkpoint
    shutil.copytree(trained, tmp_path / "version_2")
    cli = run(["fit", *options, *SCHEDULE, "--ckpt_path=last", "--trainer.max_epochs=2"])
    assert cli.run_folder == tmp_path / "version_2"


def test_a_file_begins_a_folder(trained: Path, options: list[str], tmp_path: Path) -> None:
    checkpoint = trained / "checkpoints" / "last.ckpt"
    before = checkpoint.stat().st_mtime
    assert main(["fit", *options, *SCHEDULE, f"--ckpt_path={checkpoint}", "--trainer.max_epochs=2"]) == 0
    assert load(tmp_path / "version_1/checkpoints/last.ckpt")["epoch"] == 1
    assert checkpoint.stat().st_mtime == before


@pytest.mark.parametrize("command", ["test", "validate"])
def test_a_checkpoint_is_measured(command: str, trained: Path, options: list[str], tmp_path: Path) -> None:
    prefix = {"test": "test", "validate": "val"}[command]
    before = len(rows(trained, f"{prefix}/accuracy"))
    config = (trained / "config.yaml").read_text()
    assert main([command, *options, "--ckpt_path=best"]) == 0
    measured = rows(trained, f"{prefix}/accuracy")
    assert len(measured) == before + 1
    assert 0.0 <= float(measured[-1][f"{prefix}/accuracy"]) <= 1.0
    assert (trained / "config.yaml").read_text() == config
    assert [path.name for path in tmp_path.glob("version_*")] == ["version_0"]


def test_predictions_lie_in_the_runs_folder(trained: Path, options: list[str]) -> None:
    assert main(["predict", *options, "--ckpt_path=last"]) == 0
    with (trained / "predictions.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    # Lightning 2.6.0 takes no heed of limit_predict_batches
    assert [row["index"] for row in table] == [str(i) for i in range(len(table))]
    assert len(table) >= 8


def test_measured_by_its_own_configuration(trained: Path, options: list[str]) -> None:
    assert main(["test", "--config", str(trained / "config.yaml"), "--ckpt_path=best"]) == 0


@pytest.mark.filterwarnings("ignore:.*the network is untrained")
def test_without_a_checkpoint_the_network_is_as_it_was_made(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["test", *options]) == 0
    assert list(tmp_path.iterdir()) == []
    assert "test/accuracy" in said(capsys)


# ---- compared ----------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:ExactResume. a step takes 16 images")
def test_what_differs_is_reported_key_by_key(
    trained: Path, options: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    changes = ["--optimizer.lr=0.01", "--data.batch_size=16", "--model.lr_monitor=val/top5"]
    more = ["--trainer.max_epochs=2", "--ckpt_path=last"]
    assert main(["fit", *options, *SCHEDULE, *changes, *more]) == 0
    for key, saved, given, used in (
        ("optimizer.lr", 0.1, 0.01, "0.1 is used (--reset_optimizer true"),
        ("data.batch_size", 8, 16, "16 is used"),
        ("model.lr_monitor", "val/loss", "val/top5", "val/top5 is used"),
        ("trainer.max_epochs", 1, 2, "2 is used"),
    ):
        line = f"{key}: the checkpoint's run had {saved}, the configuration has {given}; {used}"
        assert caplog.text.count(line) == 1
    assert caplog.text.count("the checkpoint's run had") == 4


def test_the_configuration_wins_over_hyperparameters(trained: Path, options: list[str]) -> None:
    changes = ["--model.lr_monitor=val/top5", "--trainer.max_epochs=2"]
    cli = run(["fit", *options, *SCHEDULE, *changes, "--ckpt_path=last"])
    assert cli.model.lr_monitor == cli.model.hparams["lr_monitor"] == "val/top5"
    assert load(trained / "checkpoints/last.ckpt")["hyper_parameters"]["lr_monitor"] == "val/top5"


def test_the_optimizers_settings_are_the_checkpoints(trained: Path, options: list[str]) -> None:
    changes = ["--optimizer.lr=0.01", "--trainer.max_epochs=2"]
    cli = run(["fit", *options, *SCHEDULE, *changes, "--ckpt_path=last"])
    assert cli.trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.1 * 0.5**2)


def test_the_same_run_reports_nothing(
    trained: Path, options: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    assert main(["fit", *options, *SCHEDULE, "--ckpt_path=last"]) == 0
    assert "the checkpoint's run had" not in caplog.text


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (["--optimizer=Adam", *SCHEDULE], ("optimizer: ", "SGD", "Adam")),
        (["--lr_scheduler=LinearLR"], ("lr_scheduler: ", "StepLR", "LinearLR")),
        ([], ("lr_scheduler: ", "StepLR", "none")),
    ],
    ids=["optimizer", "schedule", "no schedule"],
)
def test_states_of_another_class_are_refused(
    change: list[str],
    says: tuple[str, ...],
    trained: Path,
    options: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["fit", *options, *change, "--ckpt_path=last", "--trainer.max_epochs=2"]) == 2
    (message,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert [part for part in (*says, "--reset_optimizer true") if part not in message] == [], message


def test_a_test_does_not_mind_another_optimizer(trained: Path, options: list[str]) -> None:
    assert main(["test", *options, "--optimizer=Adam", "--ckpt_path=last"]) == 0


def test_a_checkpoint_of_another_program_is_taken(
    trained: Path, options: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    path = trained / "checkpoints" / "last.ckpt"
    checkpoint = load(path)
    checkpoint["callbacks"] = {}
    torch.save(checkpoint, path)
    assert main(["test", *options, "--ckpt_path=last"]) == 0
    assert "no configuration to compare with" in caplog.text


# ---- a fresh optimizer -------------------------------------------------------------------------------------


def test_a_fresh_optimizer_keeps_the_place_in_the_schedule(trained: Path, options: list[str]) -> None:
    weights = load(trained / "checkpoints/last.ckpt")["state_dict"]["net.linear.weight"]
    fresh = ["--reset_optimizer=true", "--ckpt_path=last", "--optimizer=Adam", "--optimizer.lr=0.008"]
    cli = run(["fit", *options, *SCHEDULE, *fresh, "--trainer.max_epochs=1"])  # one epoch is done already
    (optimizer,) = cli.trainer.optimizers
    assert isinstance(optimizer, torch.optim.Adam)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.008 * 0.5)
    assert not optimizer.state
    assert (cli.trainer.global_step, cli.trainer.current_epoch) == (2, 1)
    assert torch.equal(cli.model.state_dict()["net.linear.weight"], weights)


def test_the_report_says_that_the_configuration_is_used(
    trained: Path, options: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    fresh = ["--reset_optimizer=true", "--ckpt_path=last", "--optimizer.lr=0.01"]
    assert main(["fit", *options, *SCHEDULE, *fresh, "--trainer.max_epochs=2"]) == 0
    line = "optimizer.lr: the checkpoint's run had 0.1, the configuration has 0.01; 0.01 is used"
    assert caplog.text.count(line) == 1


def test_a_fresh_optimizer_without_a_checkpoint_is_refused(
    options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", *options, "--reset_optimizer=true"]) == 2
    assert "error: reset_optimizer" in capsys.readouterr().err


def test_lists_of_classes_are_compared_by_what_differs() -> None:
    both = {"class_path": "lightning_optreg.callbacks.Curves", "init_args": {"filename": "curves.png"}}
    mix = {"class_path": "lightning_optreg.callbacks.MixUp", "init_args": {"alpha": 0.5, "seed": None}}
    changes = [("trainer.callbacks", [both], [both, mix])]
    (line,) = report(changes, fitting=True, reset_optimizer=False)
    had = "trainer.callbacks: the checkpoint's run had nothing else, the configuration has "
    assert line == f"{had}MixUp(alpha=0.5); MixUp(alpha=0.5) is used"
