"""Every callback in two gloo processes: all ranks agree, and a resumed run equals one that never stopped."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import seed_everything
from lightning.pytorch.loggers import TensorBoardLogger

from lightning_optreg.callbacks import ExactResume
from tests.contracts.parts import CALLBACKS, STEPWISE
from tests.contracts.runs import checkpoint_every_step, regression
from tests.processes import ddp, in_processes, needs_gloo
from tests.resume_tools import (
    StatefulLoader,
    assert_identical,
    callback_states,
    final_state,
    spoil_random_state,
)
from tests.small_runs import quiet_trainer

pytestmark = needs_gloo

ROWS = [name for name, part in STEPWISE.items() if "resumes" not in part.excused]
# One of each kind of state: what a callback counts, draws, keeps of the weights, changes in a run, writes.
FEW_ROWS = ["AdamToSGD", "BatchSizeGrowth", "EarlyStopping", "GradientNoise", "MixUp", "SnapshotEnsemble"]
FEW = (4,)  # in the middle of an epoch
ALL = tuple(range(1, 13))


def fit(name: str, folder: Path, rank: int, step: int | None = None, every: int = 1) -> dict[str, Any]:
    """Train with a row's callback, from the start or from a checkpoint of the run from the start.

    The run from the start keeps a checkpoint of each step, or of `every` so many.
    """
    part = CALLBACKS[name]
    callbacks = [*([] if name == "ExactResume" else [ExactResume()]), part.build()]
    if step is None:
        seed_everything(1, verbose=False)
        callbacks.append(checkpoint_every_step(folder / "all", every))
    else:
        spoil_random_state()
    trainer = quiet_trainer(
        strategy=ddp(),
        devices=2,
        max_epochs=2,
        logger=TensorBoardLogger(folder) if name == "Histograms" else False,
        callbacks=callbacks,
        enable_checkpointing=step is None,
        default_root_dir=folder,
    )
    module = regression(part)
    loaders = [StatefulLoader(batches, images=True, rank=rank) for batches in (6, 2)]
    trainer.fit(module, *loaders, ckpt_path=None if step is None else folder / "all" / f"step={step}.ckpt")
    return {**final_state(trainer, module), "callbacks": callback_states(trainer)}


def fit_all(rank: int, folder: Path, rows: list[str], steps: tuple[int, ...]) -> None:
    """What each of the two processes does: a row after the other, in one process group."""
    for name in rows:
        straight = fit(name, folder / name, rank, every=steps[0])
        # a run may take fewer steps than that, as with batches that grow
        there = [step for step in steps if (folder / name / "all" / f"step={step}.ckpt").exists()]
        resumed = {step: fit(name, folder / name, rank, step) for step in there}
        torch.save({"straight": straight, "resumed": resumed}, folder / f"{name}-{rank}.pt")


def fit_few(rank: int, folder: Path) -> None:
    fit_all(rank, folder, FEW_ROWS, FEW)


def fit_at_every_step(rank: int, folder: Path) -> None:
    fit_all(rank, folder, ROWS, ALL)


def check(folder: Path, name: str, steps: tuple[int, ...]) -> None:
    ranks = [torch.load(folder / f"{name}-{rank}.pt", weights_only=True) for rank in range(2)]
    for states in ranks:
        assert set(states["resumed"]) >= {step for step in steps if step <= 6}
        for step, state in states["resumed"].items():
            assert_identical(states["straight"], state, f"step {step}")
    assert_identical(ranks[0]["straight"], ranks[1]["straight"], "ranks")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with what each rank had at the end of some rows' runs. One start of two processes for all."""
    folder = tmp_path_factory.mktemp("ddp")
    in_processes(2, fit_few, folder)
    return folder


@pytest.mark.parametrize("name", FEW_ROWS)
def test_two_processes_agree_and_resume_exactly(name: str, results: Path) -> None:
    check(results, name, FEW)


@pytest.fixture(scope="module")
def results_of_every_step(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same of all rows, resumed at every step."""
    folder = tmp_path_factory.mktemp("ddp")
    in_processes(2, fit_at_every_step, folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", ROWS)
def test_two_processes_resume_exactly_at_every_step(name: str, results_of_every_step: Path) -> None:
    check(results_of_every_step, name, ALL)
