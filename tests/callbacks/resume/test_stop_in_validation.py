"""SIGTERM before, in and after a validation: the resumed run equals one that nobody stopped."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.callbacks import EarlyStopping, EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import MeanMetric

from lightning_optreg.callbacks import BatchNormRecalibration, ExactResume
from tests.resume_tools import Regression, StatefulLoader, assert_identical, final_state, spoil_random_state
from tests.small_runs import Diary, quiet_trainer

pytestmark = pytest.mark.filterwarnings("ignore:Your `val_dataloader`'s sampler has shuffling enabled")


class Measured(Regression):
    """Validates with noise of its own and a torchmetric, on any number of loaders."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.val_error = MeanMetric()

    def on_train_batch_end(self, *args: Any) -> None:
        torch.rand(1)  # moves the generator between the batch and its validation

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        x, y = batch
        loss = torch.nn.functional.mse_loss(self.net(x + 0.1 * torch.randn_like(x)), y)
        self.log("val_loss", loss)
        if dataloader_idx == 0:
            self.val_error.update(loss.detach())
            self.log("val_error", self.val_error)


class CountsValidationBatches(Callback):
    """Its state changes in the middle of a validation."""

    count = 0

    def on_validation_batch_end(self, trainer: Trainer, *args: Any) -> None:
        self.count += not trainer.sanity_checking

    def state_dict(self) -> dict[str, int]:
        return {"count": self.count}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.count = state["count"]


def shuffled(batches: int) -> DataLoader[Any]:
    data = StatefulLoader(batches)
    return DataLoader(TensorDataset(data.x, data.y), batch_size=4, shuffle=True)


def plain(batches: int) -> StatefulLoader:
    return StatefulLoader(batches)


HOOKS = [
    "on_sanity_check_start",
    "on_sanity_check_end",
    "on_train_start",
    "on_train_epoch_start",
    "on_train_batch_start",
    "on_before_zero_grad",
    "on_train_batch_end",
    "on_validation_start",
    "on_validation_epoch_start",
    "on_validation_batch_start",
    "on_validation_batch_end",
    "on_validation_epoch_end",
    "on_validation_end",
    "on_train_epoch_end",
    "on_train_end",
]


class Moments(Callback):
    """Count the calls of every hook, and send this process SIGTERM at one of them."""

    def __init__(self, at: tuple[str, int] | None = None) -> None:
        self.at = at
        self.calls: dict[str, int] = {}
        for hook in HOOKS:
            setattr(self, hook, self._counting(hook))

    def _counting(self, hook: str) -> Callable[..., None]:
        def count(trainer: Trainer, *args: Any, **kwargs: Any) -> None:
            if trainer.sanity_checking and not hook.startswith("on_sanity"):
                return
            self.calls[hook] = self.calls.get(hook, 0) + 1
            if (hook, self.calls[hook]) == self.at:
                os.kill(os.getpid(), signal.SIGTERM)

        return count


CASES: dict[str, dict[str, Any]] = {
    "each_epoch": {},
    "mid_epoch": {"val_check_interval": 0.5},
    "plateau": {"schedule": "plateau_epoch"},
    "plateau_step": {"schedule": "plateau_step", "val_check_interval": 3},
    "every_2_epochs": {"check_val_every_n_epoch": 2},
    "by_steps": {"val_check_interval": 4, "check_val_every_n_epoch": None},
    "limited": {"limit_val_batches": 2},
    "one_batch": {"limit_val_batches": 1},
    "two_loaders": {"val_check_interval": 0.5, "loaders": [plain, plain]},
    "shuffled": {"val_check_interval": 0.5, "loaders": [shuffled]},
    "accumulation": {"accumulate_grad_batches": 4, "val_check_interval": 3},
    "best_and_early": {
        "val_check_interval": 0.5,
        "callbacks": lambda: [
            ModelCheckpoint(monitor="val_loss", filename="best", enable_version_counter=False),
            EarlyStopping("val_loss", patience=2, min_delta=0.5),
        ],
    },
    "other_weights": {"val_check_interval": 0.5, "callbacks": lambda: [EMAWeightAveraging(decay=0.5)]},
    "other_buffers": {"val_check_interval": 0.5, "callbacks": lambda: [BatchNormRecalibration(batches=2)]},
    "counting": {"val_check_interval": 0.5, "callbacks": lambda: [CountsValidationBatches()]},
}


def run(
    folder: Path, moments: Moments, ckpt_path: Path | None = None, **case: Any
) -> tuple[dict[str, Any], Diary]:
    diary = Diary()
    loaders = [make(3) for make in case.pop("loaders", [plain])]
    callbacks = case.pop("callbacks", list)()
    model = {key: case.pop(key) for key in ("schedule", "monitor") if key in case}
    trainer = quiet_trainer(
        max_epochs=3,
        logger=diary,
        callbacks=[ExactResume(), moments, *callbacks],
        enable_checkpointing=any(isinstance(callback, ModelCheckpoint) for callback in callbacks),
        default_root_dir=folder,
        **case,
    )
    module = Measured(**model)
    trainer.fit(module, StatefulLoader(), loaders, ckpt_path=ckpt_path)
    state = final_state(trainer, module)
    state["callbacks"] = {
        type(callback).__name__: callback.state_dict()
        for callback in callbacks
        if not isinstance(callback, ModelCheckpoint)  # its state names files
    }
    if isinstance(trainer.checkpoint_callback, ModelCheckpoint):
        state["best"] = trainer.checkpoint_callback.best_model_score
    state["metrics"] = dict(trainer.callback_metrics)
    return state, diary


def compare_with_straight(case: str, moments: list[tuple[str, int]], folder: Path) -> None:
    """Stop runs at each of some moments, resume them, and compare all that they end with and log."""
    seed_everything(1, verbose=False)
    straight, logged = run(folder, Moments(), **CASES[case])
    for hook, call in moments:
        own = folder / f"{hook}-{call}"
        seed_everything(1, verbose=False)
        with pytest.raises(SIGTERMException) as stopped:
            run(own, Moments((hook, call)), **CASES[case])
        assert stopped.value.code == 143
        (path,) = own.rglob("last.ckpt")
        spoil_random_state()
        resumed, logged_after = run(own, Moments(), path, **CASES[case])
        assert_identical(straight, resumed, f"{case}, {hook} {call}: ")
        for key, value in logged_after.values.items():
            assert logged.values[key] == value, f"{case}, {hook} {call}: {key}"


QUICK = [
    ("mid_epoch", [("on_train_batch_start", 3), ("on_validation_batch_start", 2), ("on_validation_end", 1)]),
    ("plateau", [("on_train_batch_end", 6), ("on_validation_batch_end", 1), ("on_validation_end", 2)]),
    ("accumulation", [("on_train_batch_end", 3), ("on_validation_start", 2)]),
    ("best_and_early", [("on_train_batch_end", 6), ("on_validation_batch_end", 2)]),
    ("other_weights", [("on_train_batch_end", 3), ("on_validation_batch_start", 1)]),
]


@pytest.mark.parametrize(("case", "moments"), QUICK)
def test_a_stop_around_a_validation(case: str, moments: list[tuple[str, int]], tmp_path: Path) -> None:
    compare_with_straight(case, moments, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_a_stop_at_every_hook(case: str, tmp_path: Path) -> None:
    moments = Moments()
    seed_everything(1, verbose=False)
    run(tmp_path / "count", moments, **CASES[case])
    del moments.calls["on_train_end"]  # the run is through
    moments.calls["on_train_epoch_end"] -= 1  # after the last one it is through too
    some = [
        (hook, call)
        for hook, count in moments.calls.items()
        for call in range(1, count + 1, max(1, count // 3))
    ]
    compare_with_straight(case, some, tmp_path)


def test_a_stop_when_the_last_epoch_is_over_lets_the_run_end(tmp_path: Path) -> None:
    """Averaged weights take their place in `on_train_end`, which a resumed run would not come to."""
    ends = []
    for at in (None, ("on_train_epoch_end", 3)):
        seed_everything(1, verbose=False)
        ends.append(run(tmp_path, Moments(at), **CASES["other_weights"])[0])
    assert_identical(ends[0], ends[1])


def test_a_validation_that_cannot_be_begun_again_is_finished(tmp_path: Path) -> None:
    """Averaged weights are in place: a checkpoint would hold them for the trained ones."""
    moments = Moments(("on_validation_batch_start", 1))
    seed_everything(1, verbose=False)
    with pytest.raises(SIGTERMException):
        run(tmp_path, moments, **CASES["other_weights"])
    assert moments.calls["on_validation_batch_end"] == 3
    assert moments.calls["on_validation_end"] == 1
