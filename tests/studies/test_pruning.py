"""Runs that do worse than others end early, in all processes at once, and again after a resume."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_optreg.callbacks import ExactResume
from lightning_optreg.studies.pruning import TrialPruning
from tests.processes import ddp, in_processes, needs_gloo
from tests.resume_tools import Regression, StatefulLoader
from tests.small_runs import quiet_trainer

optuna = pytest.importorskip("optuna", reason="the extra 'tune' is not installed")


class Trial:
    """Keeps what it is told, and is pruned after a number of reports."""

    def __init__(self, prune_after: int | None = None) -> None:
        self.prune_after = prune_after
        self.told: list[tuple[int, float]] = []

    def report(self, value: float, step: int) -> None:
        self.told.append((step, value))

    def should_prune(self) -> bool:
        return self.prune_after is not None and len(self.told) >= self.prune_after


def fit(pruning: TrialPruning, **options: Any) -> Any:
    torch.manual_seed(0)
    ckpt_path = options.pop("ckpt_path", None)
    trainer = quiet_trainer(**{"max_epochs": 4, "callbacks": [pruning], **options})
    trainer.fit(Regression(), StatefulLoader(), StatefulLoader(2), ckpt_path=ckpt_path)
    return trainer


def test_it_reports_each_validation() -> None:
    trial = Trial()
    pruning = TrialPruning(trial, "val_loss")
    trainer = fit(pruning, val_check_interval=0.5)
    assert [step for step, _ in trial.told] == list(range(1, 9))
    assert trial.told[-1][1] == float(trainer.callback_metrics["val_loss"])
    assert len({value for _, value in trial.told}) == 8
    pruning.check_pruned()  # it was not


def test_a_pruned_run_ends_after_its_validation() -> None:
    pruning = TrialPruning(Trial(prune_after=2), "val_loss")
    trainer = fit(pruning)
    assert trainer.current_epoch == 2
    with pytest.raises(optuna.TrialPruned, match=r"val_loss was .* after validation 2"):
        pruning.check_pruned()
    fit(TrialPruning(Trial(), "val_loss"))  # another run is not concerned


def test_with_optuna_s_own_pruner() -> None:
    study = optuna.create_study(pruner=optuna.pruners.ThresholdPruner(upper=-1.0, n_warmup_steps=3))

    def objective(trial: Any) -> float:
        pruning = TrialPruning(trial, "val_loss")
        trainer = fit(pruning)
        pruning.check_pruned()
        return float(trainer.callback_metrics["val_loss"])

    study.optimize(objective, n_trials=1)
    (trial,) = study.trials
    assert trial.state.name == "PRUNED"
    assert list(trial.intermediate_values) == [1, 2, 3]


def test_a_resumed_run_tells_a_new_trial_all(tmp_path: Path) -> None:
    straight = Trial()
    saved = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
    first: list[Any] = [ExactResume(), TrialPruning(straight, "val_loss"), saved]
    fit(first[1], callbacks=first, enable_checkpointing=True)
    trial = Trial()
    callbacks = [ExactResume(), TrialPruning(trial, "val_loss")]
    fit(callbacks[1], callbacks=callbacks, ckpt_path=tmp_path / "epoch=1.ckpt")  # type: ignore[arg-type]
    assert trial.told == straight.told


def test_mistakes_are_named() -> None:
    with pytest.raises(MisconfigurationException, match=r"^TrialPruning: rank 0 must have the trial"):
        fit(TrialPruning(None, "val_loss"))
    with pytest.raises(MisconfigurationException, match=r"has logged no 'val_los'; did you mean val_loss\?"):
        fit(TrialPruning(Trial(), "val_los"))


def _in_two_processes(rank: int, folder: Path) -> None:
    trial = Trial(prune_after=3) if rank == 0 else None
    pruning = TrialPruning(trial, "val_loss")
    trainer = fit(pruning, strategy=ddp(), devices=2)
    state = {"epoch": trainer.current_epoch, "pruned": pruning.pruned, "values": pruning.values}
    torch.save(state, folder / f"{rank}.pt")


@needs_gloo
def test_two_processes_end_together(tmp_path: Path) -> None:
    in_processes(2, _in_two_processes, tmp_path)
    ends: Sequence[Any] = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    assert [(end["epoch"], end["pruned"]) for end in ends] == [(3, True), (3, True)]


@needs_gloo
@pytest.mark.filterwarnings("ignore")
def test_processes_that_copy_the_trial_are_refused() -> None:
    with pytest.raises(Exception, match="TrialPruning: DDPStrategy starts its processes by fork or spawn"):
        fit(TrialPruning(Trial(), "val_loss"), strategy="ddp_fork", devices=2)
