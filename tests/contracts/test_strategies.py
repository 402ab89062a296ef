"""Every callback under every strategy: it works and resumes exactly, or it refuses before the first step."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import seed_everything
from lightning.pytorch.loggers import TensorBoardLogger

from lightning_optreg.callbacks import ExactResume
from tests.contracts.parts import CALLBACKS
from tests.contracts.runs import checkpoint_every_step, regression
from tests.contracts.strategies import STRATEGIES
from tests.processes import in_processes, needs_gloo
from tests.resume_tools import StatefulLoader, assert_identical, callback_states, spoil_random_state
from tests.small_runs import quiet_trainer

pytestmark = needs_gloo

STEP = 3  # from which runs are resumed: in the middle of an epoch, and between two exchanges
QUICK = ("AdamRestarts", "EarlyStopping", "MaxNorm")  # callbacks of the ordinary suite; slow tests run all


def fit(strategy: str, name: str, folder: Path, rank: int, *, resumed: bool = False) -> dict[str, Any]:
    """Train with a row's callback, from the start or from a checkpoint of the run from the start."""
    row, part = STRATEGIES[strategy], CALLBACKS[name]
    callbacks = [*([] if name == "ExactResume" else [ExactResume()]), part.build()]
    if resumed:
        spoil_random_state()
    else:
        seed_everything(1, verbose=False)
        callbacks.append(checkpoint_every_step(folder, STEP))
    trainer = quiet_trainer(
        strategy=row.make(),
        devices=row.devices,
        max_epochs=2,
        logger=TensorBoardLogger(folder) if name == "Histograms" else False,
        callbacks=callbacks,
        enable_checkpointing=not resumed,
        default_root_dir=folder,
    )
    module = regression(part)
    before = {key: value.clone() for key, value in module.state_dict().items()}
    loaders = [StatefulLoader(batches, images=True, rank=rank) for batches in (6, 2)]
    try:
        trainer.fit(module, *loaders, ckpt_path=folder / f"step={STEP}.ckpt" if resumed else None)
    except MisconfigurationException as error:
        assert_identical(before, dict(module.state_dict()), "refused late")
        assert trainer.global_step == 0, "refused late"
        return {"refused": str(error)}
    trainer.save_checkpoint(folder / f"end-{resumed}.ckpt")
    return {"weights": dict(module.state_dict()), "callbacks": callback_states(trainer)}


def fit_all(rank: int, folder: Path, strategies: list[str], names: list[str]) -> None:
    """What each process does: a row after the other."""
    for strategy in strategies:
        for name in names:
            where = folder / strategy / name
            runs = {"straight": fit(strategy, name, where, rank)}
            if "refused" not in runs["straight"] and "resumes" not in CALLBACKS[name].excused:
                runs["resumed"] = fit(strategy, name, where, rank, resumed=True)
            where.mkdir(parents=True, exist_ok=True)
            torch.save(runs, where / f"{rank}.pt")


def check(folder: Path, strategy: str, name: str) -> None:
    row, folder = STRATEGIES[strategy], folder / strategy / name
    ranks = [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(row.processes)]
    refused = ranks[0]["straight"].get("refused")
    if name in row.refuses:
        assert row.refuses[name] in str(refused)
        assert str(refused).startswith(name)
        assert "\n" not in str(refused)
        return
    assert refused is None, refused
    for runs in ranks:
        assert_identical(ranks[0]["straight"]["weights"], runs["straight"]["weights"], "ranks")
    if "resumed" not in ranks[0] or not row.resumes:
        return
    for runs in ranks:
        assert_identical(runs["straight"]["weights"], runs["resumed"]["weights"], "resumed")
    # those of the others are not saved, so nothing may depend on what they have of their own
    assert_identical(ranks[0]["straight"]["callbacks"], ranks[0]["resumed"]["callbacks"], "callbacks")
    straight, resumed = (
        torch.load(folder / f"end-{which}.ckpt", weights_only=True) for which in (False, True)
    )
    for key in ("state_dict", "optimizer_states", "lr_schedulers", "workers"):
        assert_identical(without_private(straight.get(key)), without_private(resumed.get(key)), key)


def without_private(tree: Any) -> Any:
    """Leave out what a schedule keeps only within its step."""
    if isinstance(tree, dict):
        return {k: without_private(v) for k, v in tree.items() if not str(k).startswith("_get_lr")}
    return [without_private(each) for each in tree] if isinstance(tree, list) else tree


def run(folder: Path, names: list[str]) -> Path:
    """Start processes once for all strategies that want as many."""
    for count in {row.processes for row in STRATEGIES.values()}:
        strategies = [strategy for strategy, row in STRATEGIES.items() if row.processes == count]
        in_processes(count, fit_all, folder, strategies, names)
    return folder


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with what each rank had at the end of some of the runs."""
    return run(tmp_path_factory.mktemp("few"), list(QUICK))


@pytest.mark.parametrize("name", QUICK)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_callbacks_work_or_refuse(strategy: str, name: str, few: Path) -> None:
    check(few, strategy, name)


@pytest.fixture(scope="module")
def every(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with what each rank had at the end of each run."""
    return run(tmp_path_factory.mktemp("every"), list(CALLBACKS))


@pytest.mark.slow
@pytest.mark.parametrize("name", CALLBACKS)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_all_callbacks_work_or_refuse(strategy: str, name: str, every: Path) -> None:
    check(every, strategy, name)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_what_a_strategy_refuses_is_in_the_table_of_callbacks(strategy: str) -> None:
    assert STRATEGIES[strategy].refuses.keys() <= CALLBACKS.keys()
