"""Every callback with processes that march together: it works and resumes exactly, or refuses in time."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.strategies import Strategy

from lightning_optreg import strategies
from tests.contracts.parts import CALLBACKS
from tests.contracts.strategies import STARTED, STRATEGIES
from tests.contracts.strategy_runs import fit, plain
from tests.processes import in_processes, needs_gloo
from tests.resume_tools import assert_identical

STEP = 3  # from which runs are resumed: in the middle of an epoch, and between two exchanges
QUICK = ("AdamRestarts", "EarlyStopping")  # slow tests run all callbacks


def draws(strategy: str, name: str) -> bool:
    """Whether there is dropout in a run, which some callbacks need."""
    return STRATEGIES[strategy].draws or "noise layers" in CALLBACKS[name].needs


def fit_all(rank: int, folder: Path, rows: list[str], names: list[str]) -> None:
    """What each process does: a row after the other."""
    for strategy in rows:
        row = STRATEGIES[strategy]
        for name in names:
            where = folder / strategy / name
            options: dict[str, Any] = {"devices": row.devices, "every": STEP, "draws": draws(strategy, name)}
            runs = {"straight": fit(name, where, row.make(), **options)[0]}
            if "refused" not in runs["straight"] and "resumes" not in CALLBACKS[name].excused:
                runs["resumed"] = fit(name, where, row.make(), **options, start=STEP)[0]
            where.mkdir(parents=True, exist_ok=True)
            torch.save(runs, where / f"{rank}.pt")


def check(folder: Path, strategy: str, name: str) -> None:
    row, where = STRATEGIES[strategy], folder / strategy / name
    ranks = [torch.load(where / f"{rank}.pt", weights_only=True) for rank in range(row.processes)]
    for runs in ranks:
        refused = runs["straight"].get("refused")
        if name in row.refuses:
            assert row.refuses[name] in str(refused)
            assert str(refused).startswith(f"{name}: ")
            assert "\n" not in str(refused)
        else:
            assert refused is None, refused
    if name in row.refuses:
        return
    for runs in ranks:
        assert_identical(ranks[0]["straight"]["weights"], runs["straight"]["weights"], "ranks")
    if row.equals_plain and row.draws == draws(strategy, name):
        alone = plain(name, draws=row.draws)
        for key in ("weights", "metrics"):
            assert_identical(alone[key], ranks[0]["straight"][key], key)
    if "resumed" not in ranks[0]:
        return
    for runs in ranks:
        assert_identical(runs["straight"]["weights"], runs["resumed"]["weights"], "resumed")
    # those of the others are not saved, so nothing may depend on what they have of their own
    assert_identical(ranks[0]["straight"]["callbacks"], ranks[0]["resumed"]["callbacks"], "callbacks")
    straight, resumed = (torch.load(where / f"end-{start}.ckpt", weights_only=True) for start in (None, STEP))
    for key in ("state_dict", "optimizer_states", "lr_schedulers", "workers"):
        assert_identical(without_private(straight.get(key)), without_private(resumed.get(key)), key)


def without_private(tree: Any) -> Any:
    """Leave out what a schedule keeps only within its step."""
    if isinstance(tree, dict):
        return {k: without_private(v) for k, v in tree.items() if not str(k).startswith("_get_lr")}
    return [without_private(each) for each in tree] if isinstance(tree, list) else tree


def run(folder: Path, names: list[str]) -> Path:
    """Start processes once for all strategies that want as many."""
    for count in {STRATEGIES[name].processes for name in STARTED}:
        ours = [name for name in STARTED if STRATEGIES[name].processes == count]
        in_processes(count, fit_all, folder, ours, names)
    return folder


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with what each rank had at the end of some of the runs."""
    return run(tmp_path_factory.mktemp("few"), list(QUICK))


@needs_gloo
@pytest.mark.parametrize("name", QUICK)
@pytest.mark.parametrize("strategy", STARTED)
def test_callbacks_work_or_refuse(strategy: str, name: str, few: Path) -> None:
    check(few, strategy, name)


@pytest.fixture(scope="module")
def every(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with what each rank had at the end of each run."""
    return run(tmp_path_factory.mktemp("every"), list(CALLBACKS))


@needs_gloo
@pytest.mark.slow
@pytest.mark.parametrize("name", CALLBACKS)
@pytest.mark.parametrize("strategy", STARTED)
def test_all_callbacks_work_or_refuse(strategy: str, name: str, every: Path) -> None:
    check(every, strategy, name)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_what_a_strategy_refuses_is_in_the_table_of_callbacks(strategy: str) -> None:
    assert STRATEGIES[strategy].refuses.keys() <= CALLBACKS.keys()


def test_every_strategy_has_a_row() -> None:
    ours = [getattr(strategies, name) for name in strategies.__all__]
    rows = {type(row.make()) for row in STRATEGIES.values()}
    assert rows == {each for each in ours if isinstance(each, type) and issubclass(each, Strategy)}
