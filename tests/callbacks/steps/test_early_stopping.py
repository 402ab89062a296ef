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
from lightning_optreg.callbacks.steps.prechelt import (
    generalization_loss,
    progress_quotient,
    successive_rises,
    training_progress,
)
from tests.processes import needs_gloo
from tests.resume_tools import assert_identical
from tests.small_runs import quiet_trainer

pytestmark = pytest.mark.filterwarnings("ignore:It is recommended to use `self.log")


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
    trainer = quiet_trainer(
        callbacks=list(callbacks),
        default_root_dir=folder,
        num_sanity_val_steps=0,
        **{"max_epochs": 12, **options},
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
    ({"patience": 0}, 4),  # as 1
    ({"patience": 2.5}, 6),  # as 3
    ({"patience": 4, "min_delta": -0.05}, 12),  # 1.02 ... 1.06 and so on, each worse by less than 0.05
    # With 2.0 as the lowest, which 1.5 is not better than by 0.6, GL would be below 0 until 1.0 comes.
    ({"criterion": "GL", "alpha": 1.5, "min_delta": 0.6}, 4),
    ({"criterion": "GL", "alpha": 1.5, "min_delta": 9.0}, 4),
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


@pytest.mark.parametrize(("arguments", "epochs"), [case for case in CASES if "criterion" in case[0]])
def test_settings_that_are_changed_after_construction_count(
    arguments: dict[str, Any], epochs: int, tmp_path: Path
) -> None:
    settings = {name: arguments[name] for name in ("alpha", "strip", "successive") if name in arguments}
    stop = EarlyStopping("val", **{name: value for name, value in arguments.items() if name not in settings})
    for name, value in settings.items():
        setattr(stop, name, value)
    assert fit(tmp_path, Scripted(VAL, TRAIN), stop).current_epoch == epochs


def test_what_another_criterion_logged_is_not_logged_again(tmp_path: Path) -> None:
    saver = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
    gl = EarlyStopping("val", criterion="GL", alpha=90.0)
    trainer = fit(tmp_path, Scripted(VAL), ExactResume(), gl, saver, enable_checkpointing=True, max_epochs=2)
    assert "optreg/early_stopping/GL" in trainer.callback_metrics
    patience = EarlyStopping("val", patience=9)
    resumed = fit(tmp_path, Scripted(VAL), patience, ckpt_path=tmp_path / "step=4.ckpt", max_epochs=4)
    assert resumed.callback_metrics["optreg/early_stopping/wait"] == 1
    assert "optreg/early_stopping/GL" not in resumed.callback_metrics


def test_formulas() -> None:
    assert generalization_loss(1.04, 1.0) == pytest.approx(4.0)
    assert training_progress([1.0, 0.9, 0.85]) == pytest.approx(1000 * (2.75 / 2.55 - 1))
    assert progress_quotient(4.0, 80.0) == pytest.approx(0.05)
    assert (progress_quotient(4.0, 0.0), progress_quotient(0.0, 0.0)) == (float("inf"), 0.0)
    assert [successive_rises(VAL[1 : 2 * n : 2]) for n in range(1, 7)] == [0, 0, 1, 2, 3, 4]


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


@pytest.mark.parametrize(
    ("arguments", "epochs"),
    [
        ({"patience": 4}, 7),
        ({"patience": 0}, 4),
        ({"patience": 3.0}, 6),
        ({"patience": 2, "min_delta": -0.05}, 10),
        ({"patience": float("inf")}, 12),
    ],
)
def test_by_default_it_is_lightnings(arguments: dict[str, Any], epochs: int, tmp_path: Path) -> None:
    ours, theirs = Scripted(VAL), Scripted(VAL)
    one = fit(tmp_path, ours, EarlyStopping("val", **arguments))
    other = fit(tmp_path, theirs, lightning_callbacks.EarlyStopping("val", **arguments))
    assert one.current_epoch == other.current_epoch == epochs
    assert_identical(dict(ours.state_dict()), dict(theirs.state_dict()))
    assert ours.count.item() == float(epochs)


@pytest.mark.parametrize(
    ("arguments", "best"),
    [
        ({"stopping_threshold": 1.1}, 3.0),
        ({"stopping_threshold": 1.6, "min_delta": 0.9}, 2.0),
        ({"patience": 9, "min_delta": 0.9}, 3.0),  # 1.0 is the lowest, though 2.0 less 1.0 was no news before
        ({"patience": 9, "min_delta": 5.0}, 3.0),
        ({"patience": 9, "min_delta": -0.3}, 3.0),
        ({"divergence_threshold": 1.9}, 1.0),
    ],
)
@pytest.mark.parametrize("after_validation", [False, True])
def test_the_best_weights_are_those_of_the_lowest_value(
    arguments: dict[str, Any], best: float, after_validation: bool, tmp_path: Path
) -> None:
    stop = EarlyStopping("val", restore_best=True, check_on_train_epoch_end=not after_validation, **arguments)
    module = Scripted(VAL)
    trainer = fit(tmp_path, module, stop)
    assert module.count.item() == best
    if not after_validation:
        assert trainer.callback_metrics["optreg/early_stopping/best"].item() == pytest.approx(
            VAL[int(best) - 1]
        )


def test_the_threshold_that_is_reached_is_the_best_score(tmp_path: Path) -> None:
    stop = EarlyStopping("val", stopping_threshold=1.1)
    fit(tmp_path, Scripted(VAL), stop)
    assert float(stop.best_score) == 1.0


class Fails(Callback):
    """Raises in the ninth epoch, in training or validation."""

    def __init__(self, exception: BaseException, validating: bool) -> None:
        self.exception, self.validating = exception, validating

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        if not self.validating and trainer.current_epoch == 8:
            raise self.exception

    def on_validation_batch_end(self, trainer: Trainer, *args: Any) -> None:
        if self.validating and trainer.current_epoch == 8:
            raise self.exception


class Saves(Callback):
    """Saves where it stands when a fit fails."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        trainer.save_checkpoint(self.path)


@pytest.mark.parametrize("validating", [False, True])
@pytest.mark.parametrize(
    ("exception", "seen"),
    [(KeyboardInterrupt(), SystemExit), (RuntimeError("broken"), RuntimeError), (SystemExit(3), SystemExit)],
)
def test_an_exception_leaves_the_best_weights_and_a_checkpoint_of_its_own_time(
    exception: BaseException, seen: type[BaseException], validating: bool, tmp_path: Path
) -> None:
    module = Scripted(VAL)
    stop = EarlyStopping("val", patience=99, restore_best=True)
    with pytest.raises(seen):
        fit(
            tmp_path,
            module,
            stop,
            Fails(exception, validating),
            Saves(tmp_path / "at_once.ckpt"),
            ExactResume(save_on_sigterm=False),
            ModelCheckpoint(tmp_path, save_on_exception=True, every_n_epochs=99),  # stands last
            enable_checkpointing=True,
        )
    assert module.count.item() == 3.0
    paths = list(tmp_path.glob("*.ckpt"))
    assert len(paths) == 2
    for path in paths:
        saved = torch.load(path, weights_only=True)
        assert saved["state_dict"]["count"].item() == (9.0 if validating else 8.5)
        assert saved["callbacks"][stop.state_key]["weights"]["count"].item() == 3.0


def test_a_fit_leaves_the_callbacks_of_the_trainer_as_they_were(tmp_path: Path) -> None:
    stop = EarlyStopping("val", restore_best=True)
    trainer = fit(tmp_path, Scripted(VAL), stop)
    module = Scripted(VAL)
    module.count.data.fill_(7.0)
    trainer.validate(module, verbose=False)
    assert module.count.item() == 7.0
    assert trainer.callbacks == [stop]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "smoothing", [0.9, *(pytest.param(value, marks=pytest.mark.slow) for value in (0.1, 0.5, 0.95))]
)
def test_what_always_improves_is_not_stopped_by_rounding(smoothing: float, tmp_path: Path) -> None:
    errors = [2.0 - 1e-7 * epoch for epoch in range(12)]
    for arguments in ({"criterion": "PQ", "strip": 1}, {"criterion": "GL", "alpha": 1e-9}, {"patience": 1}):
        stop = EarlyStopping("val", train_monitor="train", smoothing=smoothing, **arguments)
        assert fit(tmp_path, Scripted(errors, [1.0] * 12), stop).current_epoch == 12, arguments


@pytest.mark.parametrize(
    ("trainer", "argument"),
    [
        ({"max_steps": 1}, {}),
        ({"max_time": {"seconds": 0}}, {}),
        ({"check_val_every_n_epoch": 2, "max_epochs": 1}, {"check_on_train_epoch_end": True}),
    ],
)
def test_a_run_may_end_before_its_first_validation(
    trainer: dict[str, Any], argument: dict[str, Any], tmp_path: Path
) -> None:
    module = Scripted(VAL)
    fit(tmp_path, module, EarlyStopping("val", restore_best=True, **argument), **trainer)
    assert module.count.item() <= 1.0
    with pytest.raises(RuntimeError, match="metric `loss` which is not available"):
        fit(tmp_path, Scripted(VAL), EarlyStopping("loss", **argument), limit_val_batches=0)


def test_a_patience_of_none_goes_on_after_a_resume(tmp_path: Path) -> None:
    saver = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
    fit(
        tmp_path,
        Scripted(VAL),
        ExactResume(),
        EarlyStopping("val", patience=0),
        saver,
        enable_checkpointing=True,
    )
    resumed = Scripted(VAL)
    callbacks = [ExactResume(), EarlyStopping("val", patience=0)]
    assert fit(tmp_path, resumed, *callbacks, ckpt_path=tmp_path / "step=4.ckpt").current_epoch == 4
    assert resumed.count.item() == 4.0


ALL: list[dict[str, Any]] = [
    {"patience": 4, "smoothing": 0.3},
    {"criterion": "GL", "alpha": 5.0},
    {"criterion": "PQ", "train_monitor": "train", "alpha": 0.05, "strip": 3},
    {"criterion": "UP", "strip": 2, "successive": 2},
]


@pytest.mark.parametrize("arguments", ALL)
@pytest.mark.parametrize("step", [4, pytest.param(8, marks=pytest.mark.slow)])
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


@needs_gloo
@pytest.mark.parametrize("arguments", [ALL[0], pytest.param(ALL[1], marks=pytest.mark.slow)])
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
    with pytest.raises(
        MisconfigurationException, match=r"^EarlyStopping: restore_best must be False with EMAWeightAveraging"
    ):
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
