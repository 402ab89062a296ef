"""Runs and studies in a bucket of an S3 server: killed and resumed, tested, compared."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml

from lightning_optreg.__main__ import main
from lightning_optreg.places import Place, UrlPath, local_copy, place_of
from lightning_optreg.runs.kept import progress
from tests.cli import kill_tools
from tests.cli.tools import short
from tests.places.tools import s3_server
from tests.resume_tools import assert_identical

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with s3_server(tmp_path_factory.mktemp("s3")) as url:
        yield url


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    return here


def outcome(root: Place) -> dict[str, object]:
    """What the first run has come to."""
    run = root / "version_0"
    checkpoint = torch.load(local_copy(run / "checkpoints" / "last.ckpt"), weights_only=True)
    return {
        "weights": checkpoint["state_dict"],
        "optimizer": checkpoint["optimizer_states"],
        "schedule": checkpoint["lr_schedulers"],
        "metrics": (run / "metrics.csv").read_text(),
    }


def start(*arguments: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "lightning_optreg", *arguments]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def wait_for_steps(run: Place, steps: int, process: subprocess.Popen[bytes]) -> None:
    """Wait until a running fit has written a checkpoint that has come so far."""
    last = run / "checkpoints" / "last.ckpt"
    while True:
        assert process.poll() is None, "it ended before it could be stopped"
        if last.exists() and (how_far := progress(last)) is not None and how_far.step >= steps:
            return
        time.sleep(0.02)


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGTERM])
def test_a_run_that_is_stopped_ends_as_one_on_a_disk(
    fashion_mnist_dir: Path, tmp_path: Path, bucket: str, elsewhere: Path, sign: signal.Signals
) -> None:
    """Bit for bit, its table too."""
    root = place_of(f"{bucket}/stopped_{sign.name}")
    arguments = ["fit", *kill_tools.options(fashion_mnist_dir, Path("unused"))]
    here = [*arguments, f"--trainer.default_root_dir={root}", "--ckpt_path=auto"]
    for steps in (5, 30) if sign == signal.SIGKILL else (5,):
        process = start(*here)
        wait_for_steps(root / "version_0", steps, process)
        os.kill(process.pid, sign)
        process.communicate()
        assert process.returncode == (-sign if sign == signal.SIGKILL else 128 + sign)
    assert main(here) == 0
    assert main([*arguments, f"--trainer.default_root_dir={tmp_path / 'disk'}"]) == 0
    assert_identical(outcome(tmp_path / "disk"), outcome(root))
    assert [path.name for path in root.iterdir()] == ["version_0"]
    assert not (root / "version_0" / "run.lock").exists()
    assert not os.listdir(elsewhere)


def test_a_run_in_training_is_not_started_again(
    fashion_mnist_dir: Path, bucket: str, capsys: pytest.CaptureFixture[str]
) -> None:
    root = place_of(f"{bucket}/twice")
    arguments = kill_tools.options(fashion_mnist_dir, Path("unused"))
    arguments = [*arguments, f"--trainer.default_root_dir={root}", "--trainer.max_epochs=1000"]
    process = start("fit", *arguments)
    wait_for_steps(root / "version_0", 5, process)
    try:
        assert main(["fit", *arguments, "--ckpt_path=last"]) != 0
        assert f"{root}/version_0 is in use by process {process.pid} on" in capsys.readouterr().err
    finally:
        process.kill()
        process.communicate()


def test_the_other_commands_find_it(
    fashion_mnist_dir: Path, tmp_path: Path, bucket: str, elsewhere: Path
) -> None:
    root = UrlPath(f"{bucket}/commands")
    options = [*short(fashion_mnist_dir, tmp_path, "LeNet5"), f"--trainer.default_root_dir={root}"]
    assert main(["fit", *options]) == 0
    for command in (["validate"], ["test"], ["predict"], ["attack", "--images=4", "--attacks=FGSM"]):
        assert main([*command, *options, "--ckpt_path=best"]) == 0
    export = ["export", "--ckpt_path=best", f"--default_root_dir={root}", f"--output={root}/net.onnx"]
    assert main(export) == 0
    assert {str(path.relative_to(root)) for path in root.rglob("*")} == {
        "net.onnx",
        *(
            f"version_0/{name}"
            for name in (
                "checkpoints/best.ckpt",
                "checkpoints/last.ckpt",
                "config.yaml",
                "curves.png",
                "metrics.csv",
                "predictions.csv",
                "robustness.csv",
                "robustness.md",
                "robustness.png",
                "throughput.json",
            )
        ),
    }
    assert not os.listdir(elsewhere)


def test_wrong_buckets_and_keys_are_one_sentence(
    fashion_mnist_dir: Path,
    tmp_path: Path,
    bucket: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = short(fashion_mnist_dir, tmp_path)
    assert main(["fit", *options, "--trainer.default_root_dir=s3://nothing/runs"]) == 2
    assert (
        "error: trainer.default_root_dir: 's3://nothing/runs': there is no bucket" in capsys.readouterr().err
    )
    for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(variable)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))  # without keys in a file
    process = start("fit", *options, f"--trainer.default_root_dir={bucket}/runs")
    _, said = process.communicate()
    assert process.returncode == 2
    (line,) = [line for line in said.decode().splitlines() if line.startswith("error")]
    assert line == f"error: trainer.default_root_dir: '{bucket}/runs': Unable to locate credentials"


def test_a_study_in_a_bucket(fashion_mnist_dir: Path, tmp_path: Path, bucket: str, elsewhere: Path) -> None:
    pytest.importorskip("optuna", reason="the extra 'tune' is not installed")
    data = {"data_dir": str(fashion_mnist_dir), "verify_checksum": False}
    study = {
        "name": "small",
        "base": [
            {
                "data": {"class_path": "FashionMNISTDataModule", "init_args": data},
                "model": {"net": {"class_path": "SoftmaxRegression"}},
                "trainer": {"accelerator": "cpu", "limit_val_batches": 1},
            }
        ],
        "epochs": 1,
        "seeds": [0],
        "values": [0.01, 0.1],
        "methods": {"SGD": {"optimizer": {"class_path": "SGD"}}},
    }
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(study))
    arguments = ["compare", f"--config={file}", f"--output={bucket}/study", "--workers=2", "--oversubscribe"]
    assert main([*arguments, f"--storage=sqlite:///{tmp_path / 'study.db'}"]) == 0
    folder = UrlPath(f"{bucket}/study")
    reports = {path.name for path in folder.iterdir()}
    assert {"runs", "report.html", "table.md", "table.csv", "curves.png", "ranking.svg"} <= reports
    runs = {path.parent for path in folder.rglob("run.yaml")}
    assert len(runs) == 2
    assert all((run / "version_0" / "checkpoints" / "last.ckpt").exists() for run in runs)
    assert not os.listdir(elsewhere)
