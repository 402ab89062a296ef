"""SIGTERM before, in and after a validation: the resumed run equals one that nobody stopped, or says why not."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import EarlyStopping, EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import MeanMetric

from lightning_optreg.callbacks import BatchNormRecalibration, ExactResume
from tests.resume_tools import (
    Diary,
    Regression,
    StatefulLoader,
    assert_identical,
    final_state,
    spoil_random_state,
)


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
        self.log("val_loss", loss, add_dataloader_idx=False)
        self.val_error.update(loss.detach())
        self.log("val_error", self.val_error, add_dataloader_idx=False)


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
    trainer = Trainer(
        max_epochs=3,
        accelerator="cpu",
        logger=diary,
        callbacks=[ExactResume(), moments, *callbacks],
        log_every_n_steps=1,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=any(isinstance(callback, ModelCheckpoint) for callback in callbacks),
        default_root_dir=folder,
        **case,
    )
    module = Measured(**model)
    trainer.fit(module, StatefulLoader(), loaders, ckpt_path=ckpt_path)
    state = final_state(trainer, module)
    state["callbacks"] = {type(callback).__name__: callback.state_dict() for callback in callbacks}
    state["metrics"] = dict(trainer.callback_metrics)
    return state, diary


def every_moment(calls: dict[str, int]) -> Iterator[tuple[str, int]]:
    for hook, count in calls.items():
        step = max(1, count // 3)
        for number in range(1, count + 1, step):
            yield hook, number


@pytest.mark.parametrize("case", CASES)
def test_every_moment(case: str, tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    import warnings

    warnings.simplefilter("ignore")
    moments = Moments()
    seed_everything(1, verbose=False)
    straight, logged = run(tmp_path, moments, **CASES[case])
    bad = []
    for at in every_moment(moments.calls):
        folder = tmp_path / f"{at[0]}-{at[1]}"
        seed_everything(1, verbose=False)
        before = None
        m = Moments(at)
        try:
            run(folder, m, **CASES[case])
            print(case, at, "no stop")
            continue
        except SIGTERMException as e:
            assert e.code == 143
        spoil_random_state()
        paths = list(folder.rglob("last.ckpt"))
        if not paths:
            print(case, at, "nothing saved")
            continue
        try:
            resumed, logged_after = run(folder, Moments(), paths[0], **CASES[case])
            for s in (straight, resumed):
                mc = s["callbacks"].get("ModelCheckpoint")
                if mc:
                    s["callbacks"]["ModelCheckpoint"] = {
                        k: v for k, v in mc.items() if k in ("best_model_score", "current_score")
                    }
            assert_identical(straight, resumed, f"{at}: ")
            for key, value in logged_after.values.items():
                assert logged.values[key] == value, f"{key}: {logged.values[key]} {value}"
        except (AssertionError, Exception) as e:
            bad.append((at, m.calls, str(e)[:150]))
    for b in bad:
        print(case, b[0], b[2])
    assert not bad
