"""Every callback in two gloo processes: all ranks agree, and a resumed run equals one that never stopped."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.strategies import DDPStrategy

from lightning_optreg.callbacks import ExactResume
from tests.contracts.parts import CALLBACKS, checkpoint_every_step
from tests.contracts.test_callbacks import STEPWISE, regression
from tests.processes import in_processes
from tests.resume_tools import StatefulLoader, assert_identical, final_state, spoil_random_state

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_gloo_available(), reason="this build of torch has no gloo"
)

ROWS = [name for name, part in STEPWISE.items() if part.resumes]
STEPS = {"mid-epoch": 4, "epoch's end": 6}


def fit(name: str, folder: Path, rank: int, step: int | None = None) -> dict[str, Any]:
    """Train with a row's callback, from the start or from a checkpoint of the run from the start."""
    part = CALLBACKS[name]
    callbacks = [*([] if name == "ExactResume" else [ExactResume()]), part.build(folder)]
    if step is None:
        seed_everything(1, verbose=False)
        callbacks.append(checkpoint_every_step(folder / "all"))
    else:
        spoil_random_state()
    trainer = Trainer(
        accelerator="cpu",
        # Not a minute's wait for a rank that waits for the other one in vain.
        strategy=DDPStrategy(process_group_backend="gloo", timeout=timedelta(seconds=60)),
        devices=2,
        max_epochs=2,
        logger=TensorBoardLogger(folder),
        callbacks=callbacks,
        log_every_n_steps=1,
        enable_checkpointing=step is None,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    module = regression(part)
    loaders = [StatefulLoader(batches, images=True, rank=rank) for batches in (6, 2)]
    trainer.fit(module, *loaders, ckpt_path=None if step is None else folder / "all" / f"step={step}.ckpt")
    return final_state(trainer, module)


def fit_all(rank: int, folder: Path) -> None:
    """What each of the two processes does: a row after the other, in one process group."""
    for name in ROWS:
        states = {"straight": fit(name, folder / name, rank)}
        for place, step in STEPS.items():
            states[place] = fit(name, folder / name, rank, step)
        torch.save(states, folder / f"{name}-{rank}.pt")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with what each rank had at the end of each run. One start of two processes for all rows."""
    folder = tmp_path_factory.mktemp("ddp")
    in_processes(2, fit_all, folder)
    return folder


@pytest.mark.parametrize("name", ROWS)
def test_two_processes_agree_and_resume_exactly(name: str, results: Path) -> None:
    ranks = [torch.load(results / f"{name}-{rank}.pt", weights_only=True) for rank in range(2)]
    for states in ranks:
        for place in STEPS:
            assert_identical(states["straight"], states[place], place)
    assert_identical(ranks[0]["straight"], ranks[1]["straight"], "ranks")
