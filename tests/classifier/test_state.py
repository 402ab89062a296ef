"""What ImageClassifier carries from one fit to the next, and what it must not."""

import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import LearningRateFinder, ModelCheckpoint
from torch import nn
from torch.optim import SGD
from torch.utils.data import DataLoader, TensorDataset

from lightning_optreg.classifier import ImageClassifier
from tests.resume_tools import StatefulLoader
from tests.small_runs import Diary, quiet_trainer

pytestmark = pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`")


def loader() -> DataLoader[Any]:
    """Three batches: 4, 4 and 2 images."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(10, 1, 2, 2, generator=generator)
    return DataLoader(TensorDataset(images, torch.arange(10) % 3), batch_size=4)


def model(**arguments: Any) -> ImageClassifier:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    return ImageClassifier(net, optimizer=partial(SGD, lr=0.0), num_classes=3, **arguments)


def fit(module: LightningModule, ckpt_path: Path | None = None, data: Any = None, **options: Any) -> Trainer:
    trainer = quiet_trainer(**{"max_epochs": 1, **options})
    trainer.fit(module, loader() if data is None else data, ckpt_path=ckpt_path)
    return trainer


@pytest.fixture(scope="module")
def expected() -> dict[str, torch.Tensor]:
    """What an epoch logs: the learning rate is 0, so each does."""
    return fit(model()).callback_metrics


@pytest.fixture(scope="module")
def half_an_epoch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint taken after two batches of three."""
    folder = tmp_path_factory.mktemp("half")
    saver = ModelCheckpoint(folder, "{step}", every_n_train_steps=1, save_top_k=-1)
    fit(model(), callbacks=[saver], enable_checkpointing=True, default_root_dir=folder)
    return folder / "step=2.ckpt"


def test_the_sums_are_in_the_checkpoint(half_an_epoch: Path) -> None:
    module, checkpoint = model(), torch.load(half_an_epoch, weights_only=True)
    batches = list(loader())[:2]
    scores = [module(x) for x, _ in batches]
    losses = sum(4 * float(module.loss(s, y).detach()) for s, (_, y) in zip(scores, batches, strict=True))
    right = sum(int((s.argmax(1) == y).sum()) for s, (_, y) in zip(scores, batches, strict=True))
    torch.testing.assert_close(checkpoint["train_sums"], torch.tensor([[losses, right, 8.0]]))


def test_weights_of_half_an_epoch_start_a_whole_one(
    half_an_epoch: Path, expected: dict[str, torch.Tensor]
) -> None:
    loaded = ImageClassifier.load_from_checkpoint(
        half_an_epoch, net=model().net, optimizer=partial(SGD, lr=0.0)
    )
    assert fit(loaded).callback_metrics == expected
    tested = model()
    trainer = quiet_trainer()
    trainer.test(tested, loader(), ckpt_path=half_an_epoch, verbose=False, weights_only=True)
    assert fit(tested).callback_metrics == expected


class Stumble(Callback):
    """Fail in the second batch."""

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        if trainer.global_step == 2:
            raise ArithmeticError


def test_a_fit_that_failed_leaves_nothing_behind(expected: dict[str, torch.Tensor]) -> None:
    module = model()
    with pytest.raises(ArithmeticError):
        fit(module, callbacks=[Stumble()])
    assert fit(module).callback_metrics == expected


def test_the_finders_steps_do_not_count(expected: dict[str, torch.Tensor], tmp_path: Path) -> None:
    finder = LearningRateFinder(num_training_steps=2, update_attr=False)
    module = model()
    trainer = fit(module, callbacks=[finder], enable_checkpointing=True, default_root_dir=tmp_path)
    assert trainer.callback_metrics == expected
    assert module.lr is None


def test_checkpoints_of_other_versions_have_no_sums(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    fit(model()).save_checkpoint(path)
    checkpoint = torch.load(path, weights_only=True)
    del checkpoint["train_sums"]
    torch.save(checkpoint, path)
    ImageClassifier.load_from_checkpoint(path, net=model().net)


class OneOrder(StatefulLoader):
    """Resumed after its last batch it has none left in this epoch."""

    def set_epoch(self, epoch: int) -> None:
        pass


def test_an_epoch_without_batches_logs_nothing(tmp_path: Path) -> None:
    """Lightning 2.6 goes through one if it is resumed at an epoch's end and max_steps is set."""

    def fit_to(max_steps: int, ckpt_path: Path | None = None) -> dict[tuple[int, str], float]:
        loader, diary = OneOrder(3), Diary()
        loader.y = torch.arange(12) % 3
        module = ImageClassifier(nn.Linear(5, 3), num_classes=3)
        callbacks = [ModelCheckpoint(tmp_path, "end", enable_version_counter=False)]
        options = {"callbacks": callbacks, "enable_checkpointing": True, "default_root_dir": tmp_path}
        fit(module, ckpt_path, loader, max_epochs=-1, max_steps=max_steps, logger=diary, **options)
        return {key: value for key, value in diary.values.items() if key[1] == "train/loss"}

    assert [step for step, _ in fit_to(3)] == [2]
    resumed = fit_to(6, tmp_path / "end.ckpt")
    assert [step for step, _ in resumed] == [5]
    assert all(math.isfinite(value) for value in resumed.values())


def test_steps_are_logged_every_n_steps_or_never() -> None:
    for every_n_steps, expected in ((1, [0, 1, 2]), (2, [1]), (0, [])):
        diary = Diary()
        fit(model(), logger=diary, log_every_n_steps=every_n_steps)
        assert [step for step, name in diary.values if name == "train/loss_step"] == expected


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (
            torch.zeros(3, 1, dtype=torch.int64),
            r"of shape \(3,\), one per image, got int64 of shape \(3, 1\)",
        ),
        (torch.zeros(3), r"int64 of shape \(3,\), one per image, got float32 of shape \(3,\)"),
    ],
)
def test_labels_of_another_kind(labels: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model().validation_step((torch.zeros(3, 1, 2, 2), labels), 0)
