import copy
import os
import pickle
import signal
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.callbacks import EarlyStopping, StochasticWeightAveraging
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch.utils.data import DataLoader, TensorDataset

from lightning_optreg.callbacks import ExactResume
from lightning_optreg.callbacks.resume.signals._signal_watch import SignalWatch
from lightning_optreg.callbacks.resume.signals.stop_signals import StopSignals
from lightning_optreg.runs import AtomicCheckpointIO
from tests.resume_tools import (
    EPOCHS,
    Regression,
    SaveAlways,
    StatefulLoader,
    assert_identical,
    final_state,
    run,
    spoil_random_state,
)
from tests.small_runs import quiet_trainer

CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "no_validation": {"validate": False},
    "validation_twice_an_epoch": {"val_check_interval": 0.5},
    "validation_every_2_epochs": {"check_val_every_n_epoch": 2},
    "validation_by_steps": {"val_check_interval": 4, "check_val_every_n_epoch": None},
    "accumulation": {"accumulate_grad_batches": 4},
    "accumulation_validation": {"accumulate_grad_batches": 4, "val_check_interval": 3},
    "cosine_step": {"schedule": "cosine_step"},
    "cosine_epoch": {"schedule": "cosine_epoch"},
    "plateau_epoch": {"schedule": "plateau_epoch"},
    "plateau_epoch_on_train_loss": {"schedule": "plateau_epoch", "monitor": "train_loss"},
    "plateau_step": {"schedule": "plateau_step", "monitor": "train_step"},
    "plateau_step_validation": {"schedule": "plateau_step", "val_check_interval": 3},
    "bf16": {"precision": "bf16-mixed"},
    "clipping": {"gradient_clip_val": 0.1},
}
FAST = "accumulation_validation"


@pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`")
@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=[] if case == FAST else pytest.mark.slow) for case in CASES]
)
def test_every_checkpoint_of_a_run_continues_it_exactly(case: str, tmp_path: Path) -> None:
    options = dict(CASES[case])
    model = {key: options.pop(key) for key in ("schedule", "monitor") if key in options}
    seed_everything(1, verbose=False)
    saver = SaveAlways(tmp_path / "all")
    straight, logged, _ = run(tmp_path, Regression(**model), [saver], enable_checkpointing=True, **options)

    for name, path in saver.paths.items():
        torch.load(path, weights_only=True)
        spoil_random_state()
        resumed, logged_after, _ = run(tmp_path, Regression(**model), [], ckpt_path=path, **options)
        assert_identical(straight, resumed, f"{name}: ")
        for key, value in logged_after.items():
            assert logged[key] == value, f"{name}: {key} was {logged[key]}, is {value}"
        missing = logged.keys() - saver.logged[name] - logged_after.keys()
        assert not missing, f"{name}: {sorted(missing)} are not logged after the resume"


class Spoiler(Callback):
    """Send this process a SIGTERM at a given moment."""

    def __init__(self, hook: str, count: int) -> None:
        self.hook, self.count = hook, count

    def _maybe(self, hook: str, trainer: Trainer) -> None:
        if hook == self.hook and not trainer.sanity_checking:
            self.count -= 1
            if self.count == 0:
                os.kill(os.getpid(), signal.SIGTERM)

    def on_train_batch_start(self, trainer: Trainer, *args: Any) -> None:
        self._maybe("on_train_batch_start", trainer)

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        self._maybe("on_train_batch_end", trainer)

    def on_validation_batch_start(self, trainer: Trainer, *args: Any) -> None:
        self._maybe("on_validation_batch_start", trainer)

    def on_validation_end(self, trainer: Trainer, *args: Any) -> None:
        self._maybe("on_validation_end", trainer)

    def on_train_epoch_end(self, trainer: Trainer, *args: Any) -> None:
        self._maybe("on_train_epoch_end", trainer)


SIGTERMS = [
    ("on_train_batch_start", 2),
    ("on_train_batch_end", 6),
    ("on_validation_batch_start", 3),
    ("on_validation_end", 1),
    ("on_train_epoch_end", 2),
    pytest.param("on_train_batch_start", 3, marks=pytest.mark.slow),
    pytest.param("on_train_batch_end", 8, marks=pytest.mark.slow),
    pytest.param("on_validation_batch_start", 1, marks=pytest.mark.slow),
    pytest.param("on_validation_end", 2, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("hook", "count"), SIGTERMS)
@pytest.mark.parametrize(
    "case",
    [
        "plateau_epoch",
        pytest.param("validation_twice_an_epoch", marks=pytest.mark.slow),
        pytest.param("accumulation_validation", marks=pytest.mark.slow),
    ],
)
def test_sigterm_leaves_a_checkpoint_that_continues_the_run(
    case: str, hook: str, count: int, tmp_path: Path
) -> None:
    options = dict(CASES[case])
    model = {key: options.pop(key) for key in ("schedule", "monitor") if key in options}
    seed_everything(1, verbose=False)
    straight, logged, _ = run(tmp_path, Regression(**model), [], **options)

    seed_everything(1, verbose=False)
    with pytest.raises(SIGTERMException):
        run(tmp_path, Regression(**model), [Spoiler(hook, count)], **options)
    spoil_random_state()
    resumed, logged_after, _ = run(
        tmp_path, Regression(**model), [], ckpt_path=tmp_path / "last.ckpt", **options
    )
    assert_identical(straight, resumed)
    for key, value in logged_after.items():
        assert logged[key] == value, key


def test_sigterm_leaves_nothing_if_not_wanted(tmp_path: Path) -> None:
    trainer = quiet_trainer(
        callbacks=[ExactResume(save_on_sigterm=False), Spoiler("on_train_batch_end", 2)],
        max_epochs=1,
        default_root_dir=tmp_path,
    )
    with pytest.raises(SIGTERMException):
        trainer.fit(Regression(), StatefulLoader(), StatefulLoader(2))
    assert not list(tmp_path.rglob("*.ckpt"))


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_at_an_epochs_end_any_loader_that_draws_from_the_global_generators(
    workers: int, tmp_path: Path
) -> None:
    def fit(callbacks: list[Callback], ckpt_path: Path | None = None, epochs: int = 3) -> dict[str, Any]:
        module = Regression()
        data = StatefulLoader()
        train = DataLoader(TensorDataset(data.x, data.y), batch_size=4, shuffle=True, num_workers=workers)
        val = DataLoader(TensorDataset(data.x, data.y), batch_size=4)
        trainer = quiet_trainer(
            max_epochs=epochs,
            callbacks=[ExactResume(), *callbacks],
            enable_checkpointing=bool(callbacks),
            default_root_dir=tmp_path,
        )
        trainer.fit(module, train, val, ckpt_path=ckpt_path)
        return final_state(trainer, module)

    seed_everything(1, verbose=False)
    saver = SaveAlways(tmp_path)
    saver._save = lambda trainer, moment: (  # type: ignore[method-assign]
        SaveAlways._save(saver, trainer, moment) if moment != "batch" else None
    )
    straight = fit([saver])
    assert len(saver.paths) == 6
    for name, path in saver.paths.items():
        spoil_random_state()
        assert_identical(straight, fit([], path), name)


def test_an_early_stopped_run_stays_stopped(tmp_path: Path) -> None:
    def stopping() -> EarlyStopping:
        return EarlyStopping("val_loss", patience=1, min_delta=100.0)

    seed_everything(1, verbose=False)
    saver = SaveAlways(tmp_path)
    straight, _, trainer = run(tmp_path, Regression(), [stopping(), saver], enable_checkpointing=True)
    assert trainer.current_epoch == 2 < EPOCHS
    last_validation = [path for name, path in saver.paths.items() if "validation" in name][-1]
    resumed, _, trainer = run(tmp_path, Regression(), [stopping()], ckpt_path=last_validation)
    assert trainer.current_epoch == 2
    assert_identical(straight, resumed)


@pytest.mark.filterwarnings("ignore:ExactResume. the checkpoint was saved without ExactResume")
def test_without_the_callback_a_resume_differs(tmp_path: Path) -> None:
    """The tests above could not fail if Lightning alone were exact."""
    seed_everything(1, verbose=False)
    saver = SaveAlways(tmp_path)
    straight, _, _ = run(tmp_path, Regression(), [saver], enable_checkpointing=True)
    checkpoint = torch.load(next(iter(saver.paths.values())), weights_only=True)
    del checkpoint["callbacks"]["ExactResume"]
    path = tmp_path / "bare.ckpt"
    torch.save(checkpoint, path)
    spoil_random_state()
    resumed, _, _ = run(tmp_path, Regression(), [], ckpt_path=path)
    with pytest.raises(AssertionError, match="differ by"):
        assert_identical(straight, resumed)


def test_neutral_without_an_interruption(tmp_path: Path) -> None:
    def fit(callbacks: list[Callback]) -> dict[str, Any]:
        seed_everything(1, verbose=False)
        module = Regression("plateau_epoch")
        trainer = quiet_trainer(max_epochs=2, callbacks=callbacks, default_root_dir=tmp_path)
        trainer.fit(module, StatefulLoader(), StatefulLoader(2))
        return final_state(trainer, module)

    assert_identical(fit([]), fit([ExactResume()]))


def test_says_when_a_checkpoint_cannot_be_exact(tmp_path: Path) -> None:
    class SaveWithinBatch(Callback):
        def on_before_zero_grad(self, trainer: Trainer, *args: Any) -> None:
            trainer.save_checkpoint(tmp_path / "within.ckpt")

    with pytest.warns(UserWarning, match="saved within a training batch"):
        run(tmp_path, Regression(), [SaveWithinBatch()])


def test_says_when_the_number_of_processes_differs(tmp_path: Path) -> None:
    saver = SaveAlways(tmp_path)
    run(tmp_path, Regression(), [saver], enable_checkpointing=True)
    path = next(iter(saver.paths.values()))
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["callbacks"]["ExactResume"]["ranks"] *= 2
    torch.save(checkpoint, path)
    with pytest.warns(UserWarning, match=r"from 2 process\(es\), this run has 1"):
        run(tmp_path, Regression(), [], ckpt_path=path)


def test_refuses_a_wrong_type() -> None:
    with pytest.raises(TypeError, match="save_on_sigterm must be True or False, got 'yes'"):
        ExactResume(save_on_sigterm="yes")  # type: ignore[arg-type]


@pytest.mark.parametrize("seconds", [0.5, float("nan"), float("inf")])
def test_refuses_a_bound_that_is_none(seconds: float) -> None:
    with pytest.raises(ValueError, match="answer_within must be a number >= 1, got"):
        ExactResume(answer_within=seconds)


def test_a_module_can_be_copied_while_it_is_trained(tmp_path: Path) -> None:
    """Averages of weights copy the module, and with it its trainer, callbacks and plugins."""

    class Copies(Callback):
        copies = 0

        def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *args: Any) -> None:
            self.copies += isinstance(copy.deepcopy(pl_module), Regression)

    copies = Copies()
    run(tmp_path, Regression(), [copies], plugins=[AtomicCheckpointIO()])
    assert copies.copies == 6 * EPOCHS


def test_what_a_spawned_process_gets_can_be_pickled() -> None:
    watching = StopSignals(5.0)
    watching._watch = SignalWatch({15: 143}, 5.0, lambda: None, "")
    for part in (AtomicCheckpointIO(), ExactResume(answer_within=5.0), watching):
        assert type(pickle.loads(pickle.dumps(part))) is type(part)
    watching._watch.start()
    watching._watch.close()


@pytest.mark.parametrize(("step", "said"), [(4, True), (6, False)])
def test_says_that_averaged_weights_are_inexact_in_mid_epoch(step: int, said: bool, tmp_path: Path) -> None:
    def averaging() -> StochasticWeightAveraging:
        return StochasticWeightAveraging(swa_lrs=0.01, swa_epoch_start=1, device=torch.device("cpu"))

    saver = SaveAlways(tmp_path)
    run(tmp_path, Regression(), [averaging(), saver], enable_checkpointing=True)
    kind = "epoch" if step == 6 else "batch"
    path = next(path for name, path in saver.paths.items() if name.endswith(f"{kind}-0-{step}"))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run(tmp_path, Regression(), [averaging()], ckpt_path=path)
    sentences = [str(each.message) for each in caught if "StochasticWeightAveraging" in str(each.message)]
    assert any("resume from an epoch's end" in sentence for sentence in sentences) is said
