"""What ImageClassifier carries from one fit to the next, and what it must not."""

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
from tests.resume_tools import Diary

pytestmark = [
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),
]


def loader() -> DataLoader[Any]:
    """Three batches: 4, 4 and 2 images."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(10, 1, 2, 2, generator=generator)
    return DataLoader(TensorDataset(images, torch.arange(10) % 3), batch_size=4)


def model(**arguments: Any) -> ImageClassifier:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    return ImageClassifier(net, optimizer=partial(SGD, lr=0.0), num_classes=3, **arguments)


def fit(module: LightningModule, ckpt_path: Path | None = None, **options: Any) -> Trainer:
    trainer = Trainer(
        accelerator="cpu",
        **{
            "max_epochs": 1,
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            **options,
        },
    )
    trainer.fit(module, loader(), ckpt_path=ckpt_path)
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
    torch.testing.assert_close(checkpoint["train_sums"], torch.tensor([losses, right, 8.0]))


def test_weights_of_half_an_epoch_start_a_whole_one(
    half_an_epoch: Path, expected: dict[str, torch.Tensor]
) -> None:
    loaded = ImageClassifier.load_from_checkpoint(
        half_an_epoch, net=model().net, optimizer=partial(SGD, lr=0.0)
    )
    assert fit(loaded).callback_metrics == expected
    tested = model()
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False)
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


def test_an_epoch_without_batches_logs_nothing(tmp_path: Path) -> None:
    """Resumed at an epoch's end with max_steps, Lightning 2.6 goes through an empty epoch."""
    path = tmp_path / "end.ckpt"
    saver = ModelCheckpoint(tmp_path, "end", every_n_epochs=1, save_on_train_epoch_end=True)
    fit(model(), callbacks=[saver], enable_checkpointing=True, default_root_dir=tmp_path)
    diary = Diary()
    fit(model(), path, max_epochs=-1, max_steps=6, logger=diary)
    values = [value for (_, name), value in diary.values.items() if name == "train/loss"]
    assert values
    assert not any(value != value for value in values)


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
            r"of shape \(3,\), one for each image, got int64 of shape \(3, 1\)",
        ),
        (torch.zeros(3), r"int64 of shape \(3,\), one for each image, got float32 of shape \(3,\)"),
    ],
)
def test_labels_of_another_kind(labels: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model().validation_step((torch.zeros(3, 1, 2, 2), labels), 0)
