"""`test`, `validate` and `predict` with the settings that a checkpoint's run kept."""

import os
import shutil
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback

from lightning_optreg.__main__ import main
from lightning_optreg.cli.own_settings import takes_own_settings
from lightning_optreg.recipes import FOLDER
from tests.cli.tools import load, short

pytestmark = pytest.mark.usefixtures("blank_curves")


class Mine(Callback):
    """A user's own."""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, fashion_mnist_dir: Path) -> Path:
    """A folder with a run whose options would have to be repeated: sizes, a callback, a root of its own."""
    folder = tmp_path_factory.mktemp("finished")
    options = [*short(fashion_mnist_dir, folder / "runs" / "mine", "MLP"), "--model.net.hidden=[12]"]
    overlay = folder / "overlay.yaml"
    overlay.write_text("trainer:\n  callbacks+:\n  - class_path: TestTimeAugmentation\n")
    assert main(["fit", f"--config={overlay}", *options]) == 0
    return folder


@pytest.fixture
def here(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a copy of the run."""
    shutil.copytree(finished / "runs", tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("command", ["test", "validate", "predict"])
def test_nothing_need_be_repeated(command: str, here: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert main([command, "--ckpt_path", "best"]) == 0
    assert "settings and weights are those of runs/mine/version_0/checkpoints/best.ckpt" in caplog.text
    assert "the checkpoint's run had" not in caplog.text  # nothing differs
    if command == "test":  # the overlay's callback
        assert (
            "optreg/test_time_augmentation/agreement"
            in (here / "runs/mine/version_0/metrics.csv").read_text()
        )
    assert (here / "runs/mine/version_0/predictions.csv").exists() == (command == "predict")
    assert sorted(path.name for path in (here / "runs").iterdir()) == ["mine"]


def test_a_file_elsewhere(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "sent").mkdir()
    shutil.copy(here / "runs/mine/version_0/checkpoints/best.ckpt", here / "sent" / "it.ckpt")
    shutil.rmtree(here / "runs")
    assert main(["test", "--ckpt_path=sent/it.ckpt"]) == 0
    assert "agreement" in capsys.readouterr().out
    assert main(["predict", "--ckpt_path=sent/it.ckpt"]) == 0
    assert sorted(path.name for path in (here / "sent").iterdir()) == [
        "it.ckpt",
        "metrics.csv",
        "predictions.csv",
    ]
    assert not (here / "runs").exists()


def test_options_and_overlays_change_what_the_run_had(here: Path, caplog: pytest.LogCaptureFixture) -> None:
    overlay = here / "more.yaml"
    overlay.write_text("trainer:\n  limit_predict_batches: 2\n")
    words = ["predict", "--data.batch_size=4", f"--config={overlay}", "--ckpt_path=last"]
    assert main(words) == 0
    assert "data.batch_size: the checkpoint's run had 8, the configuration has 4" in caplog.text
    assert "wrote 8 predictions" in caplog.text


def test_a_recipe_is_taken_as_it_is(
    here: Path, fashion_mnist_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["test", "--ckpt_path", "best"]
    assert takes_own_settings(words)
    assert takes_own_settings(
        [*words, "--config", str(FOLDER / "methods/ema.yaml"), "--model.net.dropout=0.5"]
    )
    assert not takes_own_settings([*words, "--config", str(FOLDER / "fashion_mnist/lenet5.yaml")])
    assert not takes_own_settings([*words, *short(fashion_mnist_dir, here)])
    assert not takes_own_settings([*words, "--model", "model.yaml"])
    assert takes_own_settings([*words, "--model.net", "MLP"])  # instead of that of the run
    assert main(["test", "--ckpt_path=auto"]) == 2
    assert "auto works only with fit" in capsys.readouterr().err
    assert main(["test", "--ckpt_path=best", "--model.net=ResNet"]) == 2
    assert "the checkpoint is of another network" in capsys.readouterr().err
    assert not takes_own_settings(["test"])
    assert not takes_own_settings(["fit", *words[1:]])


def test_the_newest_run_anywhere_below_the_root(here: Path, caplog: pytest.LogCaptureFixture) -> None:
    other = here / "runs/other/version_3"
    shutil.copytree(here / "runs/mine/version_0", other)
    for file in (here / "runs/mine").rglob("*.ckpt"):
        os.utime(file, (1, 1))
    assert main(["validate", "--ckpt_path", "best"]) == 0
    assert "those of runs/other/version_3" in caplog.text
    assert main(["validate", "--ckpt_path", "best", "--trainer.default_root_dir", "runs/mine"]) == 0
    assert "those of runs/mine/version_0" in caplog.text
    for wrong in (["--ckpt_path=best", "--trainer.default_root_dir=runs"], ["--ckpt_path=no.ckpt"]):
        assert main(["validate", *wrong]) == 2


def changed(path: Path, settings: dict[str, object]) -> None:
    checkpoint = load(path)
    checkpoint["callbacks"]["SaveConfig"]["config"].update(settings)
    torch.save(checkpoint, path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"data": {"class_path": "os.system", "init_args": {"command": "touch was_here"}}}, "os.system"),
        ({"data": {"class_path": "tests.cli.tools.read"}}, "tests.cli.tools.read"),
        ({"trainer": {"logger": {"class_path": "CSVLogger", "init_args": {"save_dir": "/etc"}}}}, "/etc"),
    ],
)
def test_a_strangers_settings_build_only_known_parts(
    settings: dict[str, object], message: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = here / "runs/mine/version_0/checkpoints/best.ckpt"
    changed(file, settings)
    assert main(["test", "--ckpt_path", str(file.relative_to(here))]) == 2
    text = capsys.readouterr().err
    assert "ckpt_path: 'runs/mine/version_0/checkpoints/best.ckpt'" in text
    assert message in text
    assert not (here / "was_here").exists()


def test_ones_own_classes_are_allowed_by_name(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = here / "runs/mine/version_0/checkpoints/best.ckpt"
    trainer = load(file)["callbacks"]["SaveConfig"]["config"]["trainer"]
    trainer["callbacks"].append({"class_path": "tests.cli.test_own_settings.Mine"})
    changed(file, {"trainer": trainer})
    assert main(["test", "--ckpt_path=best"]) == 2
    assert "--allow tests" in capsys.readouterr().err
    assert main(["test", "--ckpt_path=best", "--allow", "tests"]) == 0


def test_a_checkpoint_without_settings_says_so(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = here / "runs/mine/version_0/checkpoints/best.ckpt"
    checkpoint = load(file)
    del checkpoint["callbacks"]["SaveConfig"]
    torch.save(checkpoint, file)
    assert main(["test", "--ckpt_path=best"]) == 2
    assert "has no settings of a run" in capsys.readouterr().err
