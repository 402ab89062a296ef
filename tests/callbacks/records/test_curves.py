from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import LearningRateFinder, ModelCheckpoint
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.loggers import CSVLogger

from lightning_optreg.callbacks import Curves, ExactResume
from lightning_optreg.classifier import ImageClassifier
from lightning_optreg.data import FashionMNISTDataModule
from lightning_optreg.nets import SoftmaxRegression
from tests.resume_tools import Regression, SaveAlways, StatefulLoader, spoil_random_state
from tests.small_runs import quiet_trainer

PNG = b"\x89PNG\r\n\x1a\n"


def fit(
    folder: Path, curves: Curves, *others: Callback, ckpt_path: Path | None = None, **options: Any
) -> None:
    trainer = quiet_trainer(
        logger=options.pop("logger", False),
        callbacks=[ExactResume(), curves, *others],
        enable_checkpointing=any(isinstance(other, (SaveAlways, ModelCheckpoint)) for other in others),
        default_root_dir=folder,
        **{"max_epochs": 3, **options},
    )
    trainer.fit(Scripted(), StatefulLoader(), StatefulLoader(2), ckpt_path=ckpt_path)


class Scripted(Regression):
    """Logs values from which one sees when they were taken."""

    def __init__(self) -> None:
        super().__init__("cosine_epoch")
        self.lr = 0.05

    def on_train_epoch_end(self) -> None:
        self.log("my_loss", 100.0 + self.current_epoch)
        self.log("my_acc", self.current_epoch / 10)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("valid_loss", 10.0 * self.current_epoch + float(self.global_step))


def test_takes_every_epochs_own_values(tmp_path: Path) -> None:
    curves = Curves()
    fit(tmp_path, curves)
    assert [point["epoch"] for point in curves.history] == [0, 1, 2]
    assert [point["my_loss"] for point in curves.history] == [100, 101, 102]
    assert [point["my_acc"] for point in curves.history] == pytest.approx([0, 0.1, 0.2])
    assert [point["valid_loss"] for point in curves.history] == [6, 22, 38]
    assert [point["learning_rate"] for point in curves.history] == pytest.approx([0.05, 0.0375, 0.0125])
    assert (tmp_path / "curves.png").read_bytes().startswith(PNG)
    assert [path.name for path in tmp_path.iterdir()] == ["curves.png"]


@pytest.mark.usefixtures("blank_curves")
def test_an_old_validation_is_not_taken_for_a_new_one(tmp_path: Path) -> None:
    curves = Curves()
    fit(tmp_path, curves, check_val_every_n_epoch=2)
    assert ["valid_loss" in point for point in curves.history] == [False, True, False]


def test_equals_the_metrics_of_the_classifier(fashion_mnist_dir: Path, tmp_path: Path) -> None:
    curves = Curves("pictures/run.svg")
    logger = CSVLogger(tmp_path, "")
    trainer = quiet_trainer(log_every_n_steps=50, max_epochs=2, logger=logger, callbacks=[curves])
    model = ImageClassifier(SoftmaxRegression(), optimizer=partial(torch.optim.SGD, lr=0.01))
    trainer.fit(model, FashionMNISTDataModule(str(fashion_mnist_dir), batch_size=100, verify_checksum=False))
    lines = (Path(logger.log_dir) / "metrics.csv").read_text().split()
    rows = [dict(zip(lines[0].split(","), line.split(","), strict=True)) for line in lines[1:]]
    for point in curves.history:
        for name in ("train/loss", "train/accuracy", "val/loss", "val/accuracy"):
            logged = [float(row[name]) for row in rows if row["epoch"] == str(point["epoch"]) and row[name]]
            assert logged == [pytest.approx(point[name], abs=1e-6)]
        assert point["learning_rate"] == 0.01
    assert "<svg" in (Path(logger.log_dir) / "pictures/run.svg").read_text()


class Undrawn(Curves):
    """Keeps the history only: drawing takes longer than these fits."""

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        pass


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, marks=pytest.mark.slow),
        pytest.param({"val_check_interval": 0.5}, marks=pytest.mark.slow),
        {"check_val_every_n_epoch": 2},
    ],
)
def test_every_checkpoint_continues_the_same_history(options: dict[str, Any], tmp_path: Path) -> None:
    seed_everything(1, verbose=False)
    straight, saver = Undrawn(), SaveAlways(tmp_path / "all")
    fit(tmp_path, straight, saver, **options)
    for name, path in saver.paths.items():
        torch.load(path, weights_only=True)
        spoil_random_state()
        resumed = Undrawn()
        fit(tmp_path, resumed, ckpt_path=path, **options)
        assert resumed.history == straight.history, name


@pytest.mark.usefixtures("blank_curves")
def test_a_run_that_was_over_is_drawn_again(tmp_path: Path) -> None:
    saver = SaveAlways(tmp_path / "all")
    fit(tmp_path, Curves(), saver, max_epochs=1)
    fit(tmp_path / "again", curves := Curves(), ckpt_path=list(saver.paths.values())[-1], max_epochs=1)
    assert [point["my_loss"] for point in curves.history] == [100]
    assert (tmp_path / "again/curves.png").exists()


@pytest.mark.usefixtures("blank_curves")
def test_an_epoch_that_comes_again_replaces_its_point(tmp_path: Path) -> None:
    curves = Curves()
    fit(tmp_path, curves)
    fit(tmp_path, curves, max_epochs=2)
    assert [point["epoch"] for point in curves.history] == [0, 1]
    assert [point["my_loss"] for point in curves.history] == [100, 101]


class StopIn(Callback):
    def __init__(self, epoch: int, error: BaseException) -> None:
        self.epoch, self.error = epoch, error

    def on_train_batch_start(self, trainer: Trainer, *args: Any) -> None:
        if trainer.current_epoch == self.epoch:
            raise self.error


@pytest.mark.usefixtures("blank_curves")
@pytest.mark.parametrize("error", [RuntimeError("spoiled"), KeyboardInterrupt()])
def test_draws_when_a_fit_is_stopped(error: BaseException, tmp_path: Path) -> None:
    curves = Curves()
    with pytest.raises((RuntimeError, SystemExit, KeyboardInterrupt)):
        fit(tmp_path, curves, StopIn(2, error))
    assert (tmp_path / "curves.png").read_bytes().startswith(PNG)
    assert [point.get("my_loss") for point in curves.history] == [100, 101, None]


def test_leaves_other_stages_alone(tmp_path: Path) -> None:
    class Failing(BoringModel):
        def test_step(self, batch: Any, batch_idx: int) -> None:
            raise RuntimeError("spoiled")

    curves = Curves()
    trainer = Trainer(accelerator="cpu", logger=False, callbacks=[curves], default_root_dir=tmp_path)
    curves.history = [{"epoch": 0, "loss": 1.0}]
    trainer.validate(BoringModel(), verbose=False)
    with pytest.raises(RuntimeError, match="spoiled"):
        trainer.test(Failing())
    assert curves.history == [{"epoch": 0, "loss": 1.0}]
    assert not list(tmp_path.rglob("*.png"))


def test_a_module_that_logs_nothing(tmp_path: Path) -> None:
    class Silent(BoringModel):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            pass

    module: LightningModule = Silent()
    curves = Curves()
    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        callbacks=[curves],
        default_root_dir=tmp_path,
        max_epochs=1,
        limit_train_batches=2,
        enable_checkpointing=False,
    )
    trainer.fit(module)
    assert curves.history == [{"epoch": 0, "learning_rate": pytest.approx(0.1)}]


def test_two_processes_draw_once(fashion_mnist_dir: Path, tmp_path: Path) -> None:
    """Both know the same history."""

    class Write(Callback):
        def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            torch.save(curves.history, tmp_path / f"{trainer.global_rank}.pt")

    curves = Curves()
    trainer = quiet_trainer(
        strategy="ddp_fork", devices=2, max_epochs=2, callbacks=[curves, Write()], default_root_dir=tmp_path
    )
    model = ImageClassifier(SoftmaxRegression(), optimizer=partial(torch.optim.SGD, lr=0.01))
    data = FashionMNISTDataModule(str(fashion_mnist_dir), batch_size=100, verify_checksum=False)
    trainer.fit(model, data)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert first == second
    assert [len(point) for point in first] == [2 + 4, 2 + 4]  # epoch, learning rate and the four metrics
    assert (tmp_path / "curves.png").read_bytes().startswith(PNG)


@pytest.mark.usefixtures("blank_curves")
def test_the_learning_rate_finders_steps_are_no_epochs(tmp_path: Path) -> None:
    curves, finder = Curves(), LearningRateFinder(1e-4, 1.0, num_training_steps=14, early_stop_threshold=None)
    fit(tmp_path, curves, finder, SaveAlways(tmp_path / "all"), max_epochs=5)
    assert [point["epoch"] for point in curves.history] == [0, 1, 2, 3, 4]
    assert [point["my_loss"] for point in curves.history] == [100, 101, 102, 103, 104]


def test_refuses_a_wrong_ending() -> None:
    with pytest.raises(
        ValueError, match=r"Curves: filename must be a name ending in .png, .svg or .pdf, got 'curves'"
    ):
        Curves("curves")
