"""What a run shows: a line for each epoch, a bar only on a terminal, the layers, and no advertising."""

import io
import logging
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_optreg.__main__ import main
from lightning_optreg.cli.console import EpochLines, console_callbacks
from lightning_optreg.cli.expected_warnings import without_expected_warnings
from lightning_optreg.cli.layer_table import LayerTable, layer_table
from lightning_optreg.cli.meter import Meter, duration
from lightning_optreg.nets import LeNet5
from tests.cli.tools import short


class Somebodys(LightningModule):
    """A module of another project."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(2, 3)
        self.second = nn.Linear(3, 1)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        loss: torch.Tensor = self.second(self.first(batch[0])).square().mean()
        self.log("loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val", 0.25, prog_bar=True)

    test_step = validation_step

    def on_train_epoch_end(self) -> None:
        self.log("end", float(self.current_epoch), prog_bar=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Terminal(io.StringIO):
    """A terminal that keeps what is drawn."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def trainer(**settings: Any) -> Trainer:
    return Trainer(
        accelerator="cpu",
        max_epochs=3,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        callbacks=[EpochLines(), LayerTable()],
        **settings,
    )


def loader(count: int = 4) -> Any:
    return DataLoader(TensorDataset(torch.ones(count, 2)), batch_size=1)


def test_a_line_for_each_epoch_of_any_module(capsys: pytest.CaptureFixture[str]) -> None:
    trainer().fit(Somebodys(), loader(), loader())
    out, err = capsys.readouterr()
    lines = [line for line in err.splitlines() if line.startswith("epoch")]
    assert [line.partition(":")[0] for line in lines] == ["epoch 1/3", "epoch 2/3", "epoch 3/3"]
    for number, line in enumerate(lines):  # each with the values of its own epoch
        assert f"end {number}" in line
        assert "val 0.25" in line
        assert line.endswith(" s")
    assert out == ""
    assert "\r" not in err
    assert "Somebodys: 13 parameters\n  first   Linear  9\n  second  Linear  4\n" in err


def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("lightning_optreg.cli.meter._BETWEEN_BARS", 0.0)
    trainer().fit(Somebodys(), loader(), loader(2))
    drawn = terminal.getvalue()
    assert "epoch 2/3  ██████████░░░░░░░░░░  2 of 4 batches" in drawn
    assert "epoch 2/3, validation  ██████████░░░░░░░░░░  1 of 2 batches" in drawn
    lines = [line.rpartition("\r\x1b[K")[2] for line in drawn.split("\n")]
    assert [line[:9] for line in lines if line.startswith("epoch")] == ["epoch 1/3", "epoch 2/3", "epoch 3/3"]


def test_a_test_in_a_pipe_says_how_far_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("lightning_optreg.cli.meter._BETWEEN_LINES", 0.0)
    trainer().test(Somebodys(), loader(), verbose=False)
    assert "test 3 of 4 batches, " in capsys.readouterr().err


def test_nothing_is_shown_when_it_is_switched_off(capsys: pytest.CaptureFixture[str]) -> None:
    made = trainer()
    (lines,) = [callback for callback in made.callbacks if isinstance(callback, EpochLines)]
    lines.disable()
    made.fit(Somebodys(), loader(), loader())
    assert "epoch" not in capsys.readouterr().err


def test_the_user_decides() -> None:
    assert [type(each) for each in console_callbacks({}, [])] == [EpochLines, LayerTable]
    assert [type(each) for each in console_callbacks({}, [TQDMProgressBar()])] == [LayerTable]
    off = {"enable_progress_bar": False, "enable_model_summary": False}
    assert console_callbacks(off, []) == console_callbacks({"barebones": True}, []) == []


def test_the_table_is_of_the_network() -> None:
    lines = layer_table(nn.ModuleDict({"net": LeNet5(), "loss": nn.CrossEntropyLoss()})).splitlines()
    net = LeNet5()
    count = sum(each.numel() for each in net.parameters())
    assert lines[0] == f"LeNet5: {count:,} parameters"
    rows = [line.split() for line in lines[1:]]
    assert sum(int(row[-1].replace(",", "")) for row in rows) == count


def test_the_table_of_frozen_lazy_and_many_layers() -> None:
    part = nn.Linear(2, 1)
    part.weight.requires_grad_(False)
    assert layer_table(nn.Sequential(part, nn.Linear(1, 1))).startswith(
        "Sequential: 5 parameters, 3 of them trained"
    )
    assert "in the first batch" in layer_table(nn.Sequential(nn.LazyLinear(3), nn.Linear(3, 1)))
    many = layer_table(nn.Sequential(*(nn.Linear(1, 1) for _ in range(40)))).splitlines()
    assert len(many) == 18
    assert "  ... 24 more" in many
    own = nn.Module()
    own.weight = nn.Parameter(torch.ones(4))
    assert layer_table(own) == "Module: 4 parameters\n    its own  4"


def test_advertising_and_what_is_not_there_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    unasked = ("\N{ELECTRIC LIGHT BULB} Tip: For seamless cloud", "TPU available: False, using: 0 TPU cores")
    with caplog.at_level(logging.INFO, logger.name), without_expected_warnings():
        for message in (*unasked, "GPU available: True (cuda), used: True"):
            logger.info(message)
        warnings.warn("The number of training batches (2) is smaller than the logging interval", stacklevel=1)
    assert [record.getMessage() for record in caplog.records] == ["GPU available: True (cuda), used: True"]
    logger.addHandler(caplog.handler)
    try:
        logger.warning(unasked[0])
    finally:
        logger.removeHandler(caplog.handler)
    assert unasked[0] in caplog.text  # only the commands leave it out


def test_a_meter_waits_between_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    meter = Meter("places")
    for number in range(1, 11):
        now[0] += 2.0
        meter(number, 10)
    assert capsys.readouterr().err.splitlines() == [
        "3 of 10 places, 14 s to go",
        "6 of 10 places, 8.0 s to go",
        "9 of 10 places, 2.0 s to go",
    ]


def test_a_meter_without_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("lightning_optreg.cli.meter._BETWEEN_BARS", 0.0)
    meter = Meter("batches")
    meter(1, float("inf"), "epoch 1")
    meter(2, float("inf"), "epoch 1")
    assert terminal.getvalue().endswith("epoch 1  2 batches")
    meter.clear()
    assert terminal.getvalue().endswith("\r\x1b[K")
    assert duration(5400) == "1.5 h"


def test_a_whole_run_in_a_pipe(tmp_path: Path, fashion_mnist_dir: Path) -> None:
    options = [
        option
        for option in short(fashion_mnist_dir, Path("runs"))
        if not option.startswith(("--trainer.enable_", "--trainer.log_every", "--trainer.max_epochs"))
    ]
    command = [sys.executable, "-m", "lightning_optreg", "fit", *options, "--trainer.max_epochs=2"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=240, cwd=tmp_path, check=True)
    assert run.stdout == ""
    lines = [line for line in run.stderr.splitlines() if not line.startswith("`Trainer(limit_")]
    assert lines[0].removeprefix("[rank: 0] ") == "Seed set to 0"  # in the environment of another run's rank
    assert lines[1] == "run folder: runs/version_0"
    assert lines[2:4] == ["SoftmaxRegression: 7,850 parameters", "  linear  Linear  7,850"]
    assert [line[:10] for line in lines[4:6]] == ["epoch 1/2:", "epoch 2/2:"]
    assert len(lines) == 7
    assert lines[6].startswith("Trained on ")


def test_nothing_of_it_is_in_the_configuration(tmp_path: Path, fashion_mnist_dir: Path) -> None:
    options = [
        option
        for option in short(fashion_mnist_dir, tmp_path)
        if not option.startswith("--trainer.enable_progress_bar")
    ]
    assert main(["fit", *options]) == 0
    text = (tmp_path / "version_0" / "config.yaml").read_text()
    assert "EpochLines" not in text
    assert "LayerTable" not in text
    checkpoint = torch.load(tmp_path / "version_0" / "checkpoints" / "last.ckpt", weights_only=True)
    assert "EpochLines" not in str(list(checkpoint["callbacks"]))
