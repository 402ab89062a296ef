"""Prechelt's criteria against sequences worked out by hand, restored weights, one decision for all ranks."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch import callbacks as lightning_callbacks
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_optreg.callbacks import EarlyStopping, ExactResume
from lightning_optreg.callbacks.early_stopping import generalization_loss, training_progress
from tests.resume_tools import assert_identical

pytestmark = [
    pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:It is recommended to use `self.log"),
]


class Scripted(LightningModule):
    """Logs given errors; its one weight counts the epochs."""

    def __init__(self, val: list[float], train: list[float] | None = None) -> None:
        super().__init__()
        self.val, self.train_errors = val, train or val
        self.count = nn.Parameter(torch.zeros(()))
        self.norm = nn.BatchNorm1d(1)

    def train_dataloader(self) -> Any:
        return DataLoader(torch.arange(4.0), batch_size=2)

    val_dataloader = train_dataloader

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        self.norm(batch[:, None] + self.current_epoch)
        self.log("train", self.train_errors[self.current_epoch], on_step=False, on_epoch=True)
        return -self.count  # so that SGD with rate 0.5 counts two steps an epoch

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.log("val", self.val[self.current_epoch] + 0.7 * self.global_rank)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD([self.count], lr=0.5)


def fit(
    folder: Path,
    module: LightningModule,
    *callbacks: Callback,
    ckpt_path: Path | None = None,
    **options: Any,
) -> Trainer:
    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        callbacks=list(callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        num_sanity_val_steps=0,
        **{"max_epochs": 12, "enable_checkpointing": False, **options},
    )
    trainer.fit(module, ckpt_path=ckpt_path)
    return trainer


# after epochs         1    2    3    4    5    6     7     8    9    10   11   12
VAL = [2.0, 1.5, 1.0, 1.02, 1.01, 1.04, 1.03, 1.06, 1.2, 1.3, 1.4, 1.5]
TRAIN = [2.0, 1.5, 1.2, 1.0, 0.9, 0.85, 0.84, 0.84, 0.84, 0.84, 0.84, 0.84]
# GL = 0, 0, 0, 2, 1, 4, 3, 6, 20, ... P_3 at 3, 6, 9: 305.6, 78.4, 0


# Each with the check at the training epoch's end, or after the validation, where PQ's training error is not
# known yet.
CASES: list[tuple[dict[str, Any], int]] = [
    ({"patience": 3}, 6),
    ({"patience": 7}, 10),
    ({"criterion": "GL", "alpha": 1.5}, 4),
    ({"criterion": "GL", "alpha": 3.5}, 6),
    ({"criterion": "GL", "alpha": 5.0}, 8),
    ({"criterion": "GL", "alpha": 10.0}, 9),
    # 4 / P_3(6), P_3 = 1000 ((1 + 0.9 + 0.85) / (3 * 0.85) - 1) = 78.4: 0.051
    ({"criterion": "PQ", "train_monitor": "train", "alpha": 0.05, "strip": 3}, 6),
    ({"criterion": "PQ", "train_monitor": "train", "alpha": 0.06, "strip": 3}, 9),  # no progress at all
    ({"criterion": "UP", "strip": 2, "successive": 1}, 6),  # 1.02 -> 1.04 after 4 -> 6
    ({"criterion": "UP", "strip": 2, "successive": 3}, 10),
    ({"criterion": "UP", "strip": 5, "successive": 1}, 10),
    ({"criterion": "UP", "strip": 5, "successive": 2}, 12),  # never
    ({"patience": 3, "min_delta": 0.6}, 6),  # 2.0, 1.5, then 1.0 is the better by 0.6, and no more
    ({"stopping_threshold": 1.1}, 3),
    ({"criterion": "GL", "alpha": 90.0, "divergence_threshold": 1.35}, 1),
]


@pytest.mark.parametrize(
    ("arguments", "epochs", "after_validation"),
    [
        (*case, after)
        for case in CASES
        for after in (False, True)
        if not (after and case[0].get("criterion") == "PQ")
    ],
)
def test_stops_when_worked_out_by_hand(
    arguments: dict[str, Any], epochs: int, after_validation: bool, tmp_path: Path
) -> None:
    stop = EarlyStopping("val", check_on_train_epoch_end=not after_validation, **arguments)
    trainer = fit(tmp_path, Scripted(VAL, TRAIN), stop)
    assert trainer.current_epoch == epochs


def test_formulas() -> None:
    assert generalization_loss(1.04, 1.0) == pytest.approx(4.0)
    assert training_progress([1.0, 0.9, 0.85]) == pytest.approx(1000 * (2.75 / 2.55 - 1))


def test_smoothing_is_a_moving_average_without_its_bias(tmp_path: Path) -> None:
    values = [1.0, 2.0, 0.0, 3.0]
    seen = []

    class Sees(EarlyStopping):
        def _evaluate_stopping_criteria(self, current: Tensor) -> Any:
            seen.append(float(current))
            return super()._evaluate_stopping_criteria(current)

    fit(tmp_path, Scripted(values), Sees("val", patience=9, smoothing=0.6), max_epochs=4)
    expected = []
    for t in range(1, 5):
        weights = [0.6 ** (t - i) for i in range(1, t + 1)]
        expected.append(sum(w * v for w, v in zip(weights, values, strict=False)) / sum(weights))
    assert seen == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("epochs", [5, 12])
def test_best_weights_come_back_however_the_fit_ends(epochs: int, tmp_path: Path) -> None:
    module = Scripted(VAL)
    trainer = fit(tmp_path, module, EarlyStopping("val", patience=4, restore_best=True), max_epochs=epochs)
    assert trainer.current_epoch == min(epochs, 7)
    assert module.count.item() == 3.0  # after the third epoch, at 1.0
    assert int(module.norm.num_batches_tracked) == 6  # type: ignore[arg-type]


def test_by_default_it_is_lightnings(tmp_path: Path) -> None:
    ours, theirs = Scripted(VAL), Scripted(VAL)
    one = fit(tmp_path, ours, EarlyStopping("val", patience=4))
    other = fit(tmp_path, theirs, lightning_callbacks.EarlyStopping("val", patience=4))
    assert one.current_epoch == other.current_epoch == 7
    assert_identical(dict(ours.state_dict()), dict(theirs.state_dict()))
    assert ours.count.item() == 7.0


ALL: list[dict[str, Any]] = [
    {"patience": 4, "smoothing": 0.3},
    {"criterion": "GL", "alpha": 5.0},
    {"criterion": "PQ", "train_monitor": "train", "alpha": 0.05, "strip": 3},
    {"criterion": "UP", "strip": 2, "successive": 2},
]


@pytest.mark.parametrize("arguments", ALL)
@pytest.mark.parametrize("step", [4, 8])
def test_a_resumed_run_stops_at_the_same_place(arguments: dict[str, Any], step: int, tmp_path: Path) -> None:
    def stop() -> EarlyStopping:
        return EarlyStopping("val", restore_best=True, **arguments)

    saver = ModelCheckpoint(tmp_path / "all", "{step}", every_n_train_steps=1, save_top_k=-1)
    straight = Scripted(VAL, TRAIN)
    one = fit(tmp_path, straight, ExactResume(), stop(), saver, enable_checkpointing=True)
    path = tmp_path / "all" / f"step={step}.ckpt"
    torch.load(path, weights_only=True)
    resumed = Scripted(VAL, TRAIN)
    other = fit(tmp_path, resumed, ExactResume(), stop(), ckpt_path=path)
    assert one.current_epoch == other.current_epoch < 12
    assert_identical(straight.state_dict()["count"], resumed.state_dict()["count"])


@pytest.mark.parametrize("arguments", ALL)
def test_a_run_that_had_stopped_stays_stopped(arguments: dict[str, Any], tmp_path: Path) -> None:
    saver = ModelCheckpoint(tmp_path / "all", "last", enable_version_counter=False)
    first = Scripted(VAL, TRAIN)
    callbacks = [ExactResume(), EarlyStopping("val", restore_best=True, **arguments)]
    one = fit(tmp_path, first, *callbacks, saver, enable_checkpointing=True)
    again = Scripted(VAL, TRAIN)
    callbacks = [ExactResume(), EarlyStopping("val", restore_best=True, **arguments)]
    other = fit(tmp_path, again, *callbacks, ckpt_path=tmp_path / "all" / "last.ckpt")
    assert other.current_epoch == one.current_epoch
    assert again.count.item() == first.count.item()


def test_a_second_fit_begins_anew(tmp_path: Path) -> None:
    stop = EarlyStopping("val", patience=4, restore_best=True)
    for _ in range(2):
        module = Scripted(VAL)
        assert fit(tmp_path, module, stop).current_epoch == 7
        assert module.count.item() == 3.0


class WriteEpoch(Callback):
    """Children of a fork can only leave files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        (self.folder / f"rank{trainer.global_rank}").write_text(
            f"{trainer.current_epoch} {pl_module.count.item():g}"  # type: ignore[operator, union-attr]
        )


@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="this build of torch has no gloo")
@pytest.mark.parametrize("arguments", ALL[:2])
def test_ranks_that_see_other_values_stop_together(arguments: dict[str, Any], tmp_path: Path) -> None:
    stop = EarlyStopping("val", restore_best=True, **arguments)
    module = Scripted(VAL, TRAIN)
    module.norm = nn.Identity()  # type: ignore[assignment]
    fit(tmp_path, module, stop, WriteEpoch(tmp_path), strategy="ddp_fork", devices=2)
    alone = Scripted(VAL, TRAIN)
    trainer = fit(tmp_path, alone, EarlyStopping("val", restore_best=True, **arguments))
    for rank in range(2):
        epoch, _ = (tmp_path / f"rank{rank}").read_text().split()
        assert int(epoch) == trainer.current_epoch  # as the first rank's values say
    assert (tmp_path / "rank0").read_text() == (tmp_path / "rank1").read_text()


def test_averaged_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MisconfigurationException, match=r"^EarlyStopping: beside EMAWeightAveraging"):
        fit(
            tmp_path,
            Scripted(VAL),
            EarlyStopping("val", restore_best=True),
            lightning_callbacks.EMAWeightAveraging(),
        )


def test_missing_and_wrong_values_are_named(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="metric `loss` which is not available"):
        fit(tmp_path, Scripted(VAL), EarlyStopping("loss"))
    pq = EarlyStopping("val", criterion="PQ", train_monitor="loss")
    with pytest.raises(MisconfigurationException, match="train_monitor 'loss' is not among"):
        fit(tmp_path, Scripted(VAL), pq)
    with pytest.raises(MisconfigurationException, match=r"GL needs errors above 0, got val=-1\.0"):
        fit(tmp_path, Scripted([-1.0] * 12), EarlyStopping("val", criterion="GL"))
