"""`metrics.csv` of a run that was stopped and resumed is that of a run that never stopped."""

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch import Tensor, nn
from typing_extensions import override

from lightning_optreg.__main__ import main
from lightning_optreg.loggers import RunCSVLogger, RunWandbLogger, log_config
from tests.small_runs import quiet_trainer

BATCHES, EPOCHS = 4, 3


class Batches:
    """The same batch again and again, resumable: so that a resumed run computes what the other one did."""

    def __len__(self) -> int:
        return BATCHES

    def __iter__(self) -> Any:
        return iter([torch.ones(2, 3)] * BATCHES)

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


class Model(LightningModule):
    """Logs a row a step, a row a validation and a row an epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(3, 2)
        nn.init.constant_(self.net.weight, 0.5)
        nn.init.constant_(self.net.bias, 0.5)

    @override
    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        loss: Tensor = self.net(batch).square().mean()
        self.log("train/loss", loss)
        self.log("train/epoch", float(self.current_epoch), on_step=False, on_epoch=True)
        return loss

    @override
    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.log("val/loss", self.net(batch).square().mean())

    test_step = validation_step

    @override
    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.net.parameters(), lr=0.01)


class Kill(Callback):
    """Ends the run as a kill would: before a given step, without a last checkpoint."""

    def __init__(self, step: int) -> None:
        self.step = step

    @override
    def on_train_batch_start(self, trainer: Trainer, *args: Any) -> None:
        if trainer.global_step == self.step:
            raise InterruptedError


def make_trainer(folder: Path, *callbacks: Callback, **settings: Any) -> Trainer:
    return quiet_trainer(
        logger=RunCSVLogger(folder),
        callbacks=list(callbacks),
        num_sanity_val_steps=0,
        **{"max_epochs": EPOCHS, "enable_checkpointing": True, **settings},
    )


def fit(trainer: Trainer, ckpt_path: Path | None = None) -> None:
    trainer.fit(Model(), Batches(), Batches(), ckpt_path=ckpt_path, weights_only=True)


def text(folder: Path) -> str:
    return Path(folder, "metrics.csv").read_text()


@pytest.fixture(scope="module")
def left_alone(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("left_alone")
    fit(make_trainer(folder, enable_checkpointing=False))
    return text(folder)


def test_rows_of_a_run(left_alone: str) -> None:
    rows = list(csv.DictReader(left_alone.splitlines()))
    assert left_alone.splitlines()[0] == "epoch,step,train/epoch,train/loss,val/loss"
    assert [row["step"] for row in rows if row["train/loss"]] == [
        str(step) for step in range(BATCHES * EPOCHS)
    ]
    assert [row["step"] for row in rows if row["val/loss"]] == ["3", "7", "11"]
    assert [row["train/epoch"] for row in rows if row["train/epoch"]] == ["0.0", "1.0", "2.0"]
    assert len(rows) == BATCHES * EPOCHS + 2 * EPOCHS


@pytest.mark.parametrize("every", ["1 step", "3 steps", "epoch"])
@pytest.mark.parametrize("step", [1, 3, 4, 5, 6, 8, 11])
def test_killed_and_resumed_leaves_the_same_file(
    every: str, step: int, left_alone: str, tmp_path: Path
) -> None:
    steps = {"1 step": 1, "3 steps": 3, "epoch": None}[every]

    def checkpoint() -> ModelCheckpoint:
        return ModelCheckpoint(filename="last", every_n_train_steps=steps, enable_version_counter=False)

    with pytest.raises(InterruptedError):
        fit(make_trainer(tmp_path, checkpoint(), Kill(step)))
    last = tmp_path / "checkpoints" / "last.ckpt"
    assert len(text(tmp_path)) < len(left_alone)
    fit(make_trainer(tmp_path, checkpoint()), ckpt_path=last if last.exists() else None)
    assert text(tmp_path) == left_alone


def test_stopped_after_an_epoch_and_resumed(left_alone: str, tmp_path: Path) -> None:
    fit(make_trainer(tmp_path, max_epochs=1))
    fit(make_trainer(tmp_path), ckpt_path=next(tmp_path.glob("checkpoints/*.ckpt")))
    assert text(tmp_path) == left_alone


def test_fit_again_on_one_trainer_continues(left_alone: str, tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, max_epochs=1, enable_checkpointing=False)
    model = Model()
    trainer.fit(model, Batches(), Batches())
    trainer.fit_loop.max_epochs = EPOCHS
    trainer.fit(model, Batches(), Batches())
    assert text(tmp_path) == left_alone


def test_fit_from_the_start_begins_the_file_anew(left_alone: str, tmp_path: Path) -> None:
    for _ in range(2):
        fit(make_trainer(tmp_path, enable_checkpointing=False))
    assert text(tmp_path) == left_alone


def test_evaluation_adds_a_row_and_keeps_the_others(left_alone: str, tmp_path: Path) -> None:
    fit(make_trainer(tmp_path, enable_checkpointing=False))
    make_trainer(tmp_path, enable_checkpointing=False).test(Model(), Batches(), verbose=False)
    assert text(tmp_path).startswith(left_alone)
    assert len(text(tmp_path).splitlines()) == len(left_alone.splitlines()) + 1


def test_line_that_a_kill_cut_short_is_dropped(tmp_path: Path) -> None:
    RunCSVLogger(tmp_path).log_metrics({"a": 1.5}, step=0)
    with (tmp_path / "metrics.csv").open("a") as file:
        file.write("1,2.")
    RunCSVLogger(tmp_path).log_metrics({"a": 3.5}, step=1)
    assert text(tmp_path) == "step,a\n0,1.5\n1,3.5\n"


def test_new_column_keeps_the_old_rows(tmp_path: Path) -> None:
    logger = RunCSVLogger(tmp_path)
    logger.log_metrics({"b": 1.0, "epoch": 0}, step=0)
    logger.log_metrics({"a": torch.tensor(2.0), "epoch": 0})
    assert text(tmp_path) == "epoch,step,a,b\n0,0,,1.0\n0,1,2.0,\n"


def test_hyperparameters_are_written_unless_the_configuration_is_there(tmp_path: Path) -> None:
    RunCSVLogger(tmp_path / "own").log_hyperparams({"depth": 20})
    assert yaml.safe_load((tmp_path / "own" / "hparams.yaml").read_text()) == {"depth": 20}
    (tmp_path / "config.yaml").write_text("model: {}\n")
    RunCSVLogger(tmp_path).log_hyperparams({"depth": 20})
    assert not (tmp_path / "hparams.yaml").exists()


def test_checkpoints_and_log_dir_are_the_folder(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, max_epochs=1)
    fit(trainer)
    assert trainer.log_dir == str(tmp_path)
    assert list(tmp_path.glob("checkpoints/*.ckpt"))


CONFIG = {"model": {"net": {"class_path": "ResNet", "init_args": {"depth": 20}}}, "seed_everything": None}


def test_configuration_reaches_lightnings_csv_logger(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path, name="", version="")
    log_config([logger], CONFIG)
    logger.save()
    assert logger.experiment.hparams == CONFIG


def test_configuration_reaches_tensorboard(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    logger = TensorBoardLogger(tmp_path, name="", version="")
    log_config([logger], CONFIG)
    logger.finalize("success")
    events = accumulator.EventAccumulator(str(tmp_path), size_guidance={accumulator.TENSORS: 0}).Reload()
    (event,) = events.Tensors("config/text_summary")
    shown = event.tensor_proto.string_val[0].decode()
    assert yaml.safe_load(shown.removeprefix("```yaml\n").removesuffix("```")) == CONFIG


def test_tensorboard_by_one_overlay(
    fashion_mnist_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, blank_curves: None
) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    monkeypatch.setenv("LIGHTNING_OPTREG_RUN", "")  # the program sets it; so it is unset afterwards
    overlays = Path(__file__).parents[2] / "configs" / "methods"
    command = ["fit", "--model.net=SoftmaxRegression", "--data=FashionMNISTDataModule"]
    command += [f"--data.data_dir={fashion_mnist_dir}", "--data.verify_checksum=false"]
    command += [f"--config={overlays / 'tensorboard.yaml'}", f"--config={overlays / 'histograms.yaml'}"]
    command += ["--data.batch_size=8", "--trainer.max_epochs=2"]  # 136 steps
    command += ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]
    assert main([*command, f"--trainer.default_root_dir={tmp_path}"]) == 0
    folder = tmp_path / "version_0"
    assert "val/accuracy" in text(folder).splitlines()[0]
    events = accumulator.EventAccumulator(str(folder)).Reload()
    assert "val/accuracy" in events.Tags()["scalars"]
    assert events.Tags()["histograms"] == ["gradients/net.linear.weight", "gradients/net.linear.bias"]
    assert "config/text_summary" in events.Tags()["tensors"]


def test_run_csv_logger_takes_no_copy_of_the_configuration(tmp_path: Path) -> None:
    log_config([RunCSVLogger(tmp_path)], CONFIG)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("argument", ["project", "name", "id"])
@pytest.mark.parametrize("text", ["../elsewhere", "/elsewhere", "a\\..\\..\\b"])
def test_names_in_wandb_leave_no_folder(argument: str, text: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"RunWandbLogger: {argument} must"):
        RunWandbLogger(tmp_path, **{argument: text})
