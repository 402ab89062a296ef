"""A run's folder as a damaged disk or a stranger leaves it: one line, and nothing is lost."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_optreg.__main__ import main
from tests.cli.tools import short

# Each test has a copy of one finished run, in a folder of its own.
pytestmark = [
    pytest.mark.filterwarnings("ignore:The dirpath has changed"),
    pytest.mark.usefixtures("blank_curves"),
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, fashion_mnist_dir: Path) -> Path:
    root = tmp_path_factory.mktemp("finished")
    assert main(["fit", *short(fashion_mnist_dir, root)]) == 0
    return root / "version_0"


@pytest.fixture
def run_folder(tmp_path: Path, finished: Path) -> Path:
    """A finished run, whose root is `tmp_path`."""
    return shutil.copytree(finished, tmp_path / "version_0")


def message(capsys: pytest.CaptureFixture[str], data: Path, command: str, *options: str) -> str:
    """The one line with which a command that goes on in the run ends; empty if it does not fail."""
    capsys.readouterr()
    root = next(option for option in options if not option.startswith("-"))
    more = [option for option in options if option != root]
    status = main([command, *short(data, Path(root)), "--trainer.max_epochs=2", *more])
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert (status == 0) == (not lines)
    return lines[0] if lines else ""


def test_a_link_in_place_of_the_lock_empties_nothing(
    run_folder: Path, tmp_path: Path, fashion_mnist_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    precious = tmp_path / "precious.txt"
    precious.write_text("precious")
    (run_folder / "run.lock").symlink_to(precious)
    said = message(capsys, fashion_mnist_dir, "fit", str(tmp_path), "--ckpt_path=last")
    assert "run.lock: is a link" in said
    assert precious.read_text() == "precious"


@pytest.mark.parametrize(
    "content",
    [
        b"\xff\xfe\x00\n",
        pytest.param(b"hello\nworld\n", marks=pytest.mark.slow),
        b"epoch,step,x\n0,zz,1\n",
        pytest.param(b"step,x\n0\n", marks=pytest.mark.slow),
        pytest.param(b"step,x\n0,1,2\n", marks=pytest.mark.slow),
    ],
    ids=["no text", "another text", "no step", "too short", "too wide"],
)
def test_a_damaged_table_is_named(
    content: bytes,
    run_folder: Path,
    tmp_path: Path,
    fashion_mnist_dir: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    table = run_folder / "metrics.csv"
    table.write_bytes(content)
    for command in ("fit", "test"):
        said = message(capsys, fashion_mnist_dir, command, str(tmp_path), "--ckpt_path=last")
        assert f"{table} is not a run's table" in said
        assert table.read_bytes() == content


@pytest.mark.parametrize(
    "content",
    [
        b"\xff\xfe12",
        pytest.param(b"day: 2020-13-45", marks=pytest.mark.slow),
        pytest.param(b"[" * 5000, marks=pytest.mark.slow),
    ],
    ids=["no text", "a day that is none", "too deep"],
)
def test_a_damaged_configuration_is_another_one(
    content: bytes,
    run_folder: Path,
    tmp_path: Path,
    fashion_mnist_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    (run_folder / "config.yaml").write_bytes(content)
    (run_folder / "slurm_job.txt").write_bytes(b"7" if content[0] == ord("[") else b"\xff7")
    assert message(capsys, fashion_mnist_dir, "fit", str(tmp_path), "--ckpt_path=last") == ""
    assert (run_folder / "config.yaml").read_bytes() == content
    assert (run_folder / "config-1.yaml").exists()


EDITS: dict[str, Any] = {
    "state_dict": 5,
    "callbacks": [1],
    "hyper_parameters": None,
    "loops": "x",
    "optimizer_states": {},
    "lr_schedulers": None,
    "global_step": "many",
    "pytorch-lightning_version": "of old",
}


@pytest.mark.slow
def test_parts_of_another_kind(
    run_folder: Path, tmp_path: Path, fashion_mnist_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = torch.load(run_folder / "checkpoints" / "last.ckpt", weights_only=True)
    file = tmp_path / "edited.ckpt"
    for part, value in {**EDITS, "optimizer_states ": [5]}.items():
        torch.save({**whole, part.strip(): value}, file)
        said = message(capsys, fashion_mnist_dir, "fit", str(tmp_path), f"--ckpt_path={file}")
        assert str(file) in said
        assert part.strip() in said
    loops = {name: loop for name, loop in whole["loops"].items() if name != "fit_loop"}
    weights = {name: part for name, part in whole.items() if name not in ("loops", "optimizer_states")}
    for alone in (weights, {**whole, "loops": loops}):
        torch.save(alone, file)
        said = message(capsys, fashion_mnist_dir, "fit", str(tmp_path), f"--ckpt_path={file}")
        assert "holds no training state" in said
    for state in ({}, 5, {"config": [1]}):
        torch.save({**whole, "callbacks": {"SaveConfig": state}}, file)
        assert message(capsys, fashion_mnist_dir, "test", str(tmp_path), f"--ckpt_path={file}") == ""


def test_weights_that_do_not_fit_are_not_exported(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = torch.load(run_folder / "checkpoints" / "last.ckpt", weights_only=True)
    file = tmp_path / "edited.ckpt"
    for edit in ({"state_dict": {}}, {"hyper_parameters": None}):
        torch.save({**whole, **edit}, file)
        for command, output in ((["export"], "out.onnx"), (["plot", "landscape"], "out.png")):
            capsys.readouterr()
            options = ["--output", str(tmp_path / output), "--ckpt_path", str(file)]
            assert main([*command, *options]) == 2
            (line,) = capsys.readouterr().err.splitlines()
            assert str(file) in line
