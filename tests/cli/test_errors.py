"""Which exceptions become a line and which keep their traceback; no space, no package."""

import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.exceptions import SIGTERMException
from lightning_utilities.core.imports import RequirementCache
from torch import nn
from torch.multiprocessing.spawn import ProcessExitedException

import lightning_optreg
from lightning_optreg.__main__ import main
from lightning_optreg.cli.errors import run_guarded
from lightning_optreg.nets import ResNet
from tests.cli.tools import short


def fails_with(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (MisconfigurationException("no devices"), 2, "no devices"),
        (ProcessExitedException("process 1 terminated", 1, 2, 143), 143, "stopped by SIGTERM"),
        (ProcessExitedException("process 1 terminated", 1, 2, -15), 143, "stopped by SIGTERM"),
        (ProcessExitedException("process 1 terminated", 1, 2, 130), 130, "interrupted"),
        (ProcessExitedException("process 1 terminated", 1, 2, -9), 1, "process 1 terminated"),
        (ValueError("depth must be >= 1"), 2, "depth must be >= 1"),
        (FileNotFoundError("there is no file 'x'"), 2, "there is no file 'x'"),
        (FileNotFoundError(2, "No such file or directory", "x.ckpt"), 2, "x.ckpt: No such file or directory"),
        (NotADirectoryError(20, "Not a directory", "runs"), 2, "runs: Not a directory"),
        (PermissionError(13, "Permission denied", "/runs"), 1, "/runs: Permission denied"),
        (OSError(28, "No space left on device"), 1, "No space left on device"),
        (EOFError("Ran out of input"), 2, "a file is damaged: Ran out of input"),
        (ModuleNotFoundError("No module named 'foo'"), 2, "No module named 'foo'"),
        (
            ModuleNotFoundError("No module named 'wandb'"),
            2,
            "No module named 'wandb' (pip install 'lightning-optreg[wandb]')",
        ),
        (torch.OutOfMemoryError("CUDA out of memory"), 1, "memory is full; try a smaller data.batch_size"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (SIGTERMException(), 143, "stopped by SIGTERM"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_a_message_and_a_status(
    error: BaseException, status: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_guarded(lambda: fails_with(error)) == status
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(("kind", "status"), [("RuntimeError", 1), ("ValueError", 2)])
def test_a_dead_worker_is_no_mistake(kind: str, status: int, capsys: pytest.CaptureFixture[str]) -> None:
    file = Path(str(lightning_optreg.__file__)).parent / "strategies" / "any.py"
    code = compile(f"def fails(): raise {kind}('Hogwild: worker 1 was killed')", str(file), "exec")
    names: dict[str, Any] = {}
    exec(code, names)
    assert run_guarded(names["fails"]) == status
    assert capsys.readouterr().err == "error: Hogwild: worker 1 was killed\n"


@pytest.mark.parametrize(
    "error", [AttributeError("a"), KeyError("k"), IndexError("i"), AssertionError("x"), RuntimeError("r")]
)
def test_a_bug_is_raised(error: Exception) -> None:
    with pytest.raises(type(error)):
        run_guarded(lambda: fails_with(error))


def test_a_type_error_that_nobody_raised_on_purpose_is_a_bug() -> None:
    with pytest.raises(TypeError, match="has no len"):
        run_guarded(lambda: len(None))  # type: ignore[arg-type]


def test_a_refusal_of_this_package_is_a_message(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_guarded(lambda: ResNet(depth=21)) == 2
    assert "ResNet: depth must be 6n + 2" in capsys.readouterr().err


def test_every_traceback_can_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIGHTNING_OPTREG_TRACEBACK", "1")
    with pytest.raises(ValueError, match="depth must be"):
        run_guarded(lambda: ResNet(depth=21))


@pytest.mark.parametrize("code", [0, 2, 5])
def test_an_exit_keeps_its_status(code: int) -> None:
    assert run_guarded(lambda: sys.exit(code)) == code


class BreaksInTraining(nn.Module):
    """Works in validation; in training its third step fails deep in torch."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(784, 10)
        self.steps = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.steps += self.training
        return self.linear(x.flatten(1)[:, : 700 if self.steps == 2 else 784])


def test_a_bug_in_a_step_keeps_its_traceback(tmp_path: Path, fashion_mnist_dir: Path) -> None:
    options = short(fashion_mnist_dir, tmp_path, net=f"{__name__}.BreaksInTraining")
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        main(["fit", *options])


def test_wandb_is_not_installed(
    tmp_path: Path,
    fashion_mnist_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from lightning.pytorch.loggers import wandb

    # by which Lightning's logger decides whether the package is there
    monkeypatch.setattr(wandb, "_WANDB_AVAILABLE", RequirementCache("wandb>=999"))
    runs = tmp_path / "runs"
    assert main(["fit", *short(fashion_mnist_dir, runs), "--trainer.logger=RunWandbLogger"]) == 2
    (message,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("error: "))
    assert "wandb" in message
    assert message.endswith("(pip install 'lightning-optreg[wandb]')")
    assert not runs.exists()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limits for the size of files")
@pytest.mark.parametrize("limit", [1_000, 20_000], ids=["config.yaml", "checkpoint"])
def test_the_disk_is_full(limit: int, tmp_path: Path, fashion_mnist_dir: Path) -> None:
    runs = tmp_path / "runs"
    options = short(fashion_mnist_dir, runs)
    # The cache of the data is larger than the limit, so it is filled first, whichever test ran before.
    assert main(["fit", *options, "--trainer.fast_dev_run=true"]) == 0
    ended = subprocess.run(
        [sys.executable, "-m", "lightning_optreg", "fit", *options],
        # its files end at `limit` bytes, as on a full disk
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
        capture_output=True,
        text=True,
    )
    text = ended.stderr
    assert ended.returncode == 1, text
    (message,) = (line for line in text.splitlines() if line.startswith("error: "))
    assert "File too large" in message
    assert {1_000: "config.yaml", 20_000: ".ckpt"}[limit] in message
    assert "Traceback" not in text
    if limit == 1_000:
        assert not runs.exists()
    # whatever is left is whole
    for checkpoint in runs.rglob("*.ckpt"):
        torch.load(checkpoint, weights_only=True)
    assert not [path for path in runs.rglob("*") if path.suffix in (".tmp", ".part")]
