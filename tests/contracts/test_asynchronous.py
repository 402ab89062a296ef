"""Every callback with workers that do not wait for each other: it works, or refuses before the first step.

One worker trains as without the strategy, bit for bit, also from a checkpoint on. With two the order of their
steps differs in each run, so there it is tested that all steps are made, that the result is sound, and that a
checkpoint continues.
"""

import multiprocessing
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_optreg.strategies.servers._ray_cluster import ray_for
from tests.contracts.parts import CALLBACKS
from tests.contracts.strategies import STARTING, STRATEGIES, StrategyRow
from tests.contracts.strategy_runs import fit, plain, processes_with
from tests.resume_tools import assert_identical
from tests.strategies.servers.local_ray import local_ray  # noqa: F401

STEP = 9  # from which runs are continued: in the middle of an epoch, which has 12 steps of two workers
QUICK = ("EarlyStopping", "GradientNoise", "MaxNorm", "MixUp")  # slow tests run all callbacks
QUICK_TOGETHER = ("AdamRestarts", "EarlyStopping", "MaxNorm")  # with two workers, and without Ray

RESTORES_CENTRE = {"EarlyStopping": "the weights that it puts back are those of the centre"}


def check_refusal(name: str, sentence: str, state: dict[str, Any]) -> None:
    refused = state.get("refused", "nothing")
    assert refused.startswith(f"{name}: ")
    assert sentence in refused
    assert "\n" not in refused


# ---- one worker --------------------------------------------------------------------------------------------


def check_alone(strategy: str, name: str, folder: Path, *, resumes: bool) -> None:
    row = STRATEGIES[strategy]
    assert row.alone is not None
    straight, worker = alone(row, name, folder)
    if name in row.refuses and row.refuses_alone:
        check_refusal(name, row.refuses[name], straight)
        return
    without = plain(name)
    if "refused" in without:  # what is missing is missing here too
        assert straight["refused"] == without["refused"]
        return
    for key in ("optimizer", "schedule", "step", *([] if row.own_weights else ["weights", "callbacks"])):
        assert_identical(without[key], straight[key], key)
    if row.own_weights and name not in RESTORES_CENTRE:
        weights = [without["weights"][key] for key in without["parameters"]]
        assert_identical(weights, worker["parameters"], "the worker's")
    # A run of whole batches has fewer steps.
    if resumes and "resumes" not in CALLBACKS[name].excused and (folder / "step=3.ckpt").exists():
        resumed, now = alone(row, name, folder, start=3)
        # Not what it logs: bytes are counted for checkpoints too.
        for key in ("weights", "optimizer", "schedule", "callbacks", "step"):
            assert_identical(straight[key], resumed[key], f"resumed {key}")
        assert_identical(worker, now, "the resumed worker")


def alone(
    row: StrategyRow, name: str, folder: Path, start: int | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a run with one worker ends with, and what the worker has of its own if that is another thing."""
    assert row.alone is not None
    strategy = row.alone()
    state, _ = fit(name, folder, strategy, start=start)
    record: dict[str, Any] | None = getattr(strategy, "record", None)
    return state, (record or {}).get("worker", {})


@pytest.mark.usefixtures("local_ray")
@pytest.mark.parametrize("name", QUICK)
@pytest.mark.parametrize("strategy", STARTING)
def test_one_worker_trains_as_without(strategy: str, name: str, tmp_path: Path) -> None:
    check_alone(strategy, name, tmp_path, resumes=False)


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
@pytest.mark.parametrize("name", CALLBACKS)
@pytest.mark.parametrize("strategy", STARTING)
def test_one_worker_trains_as_without_under_all_callbacks(strategy: str, name: str, tmp_path: Path) -> None:
    check_alone(strategy, name, tmp_path, resumes=True)


# ---- two workers -------------------------------------------------------------------------------------------


def check_together(strategy: str, name: str, folder: Path) -> None:
    row = STRATEGIES[strategy]
    state, _ = fit(name, folder, row.make(), devices=row.devices, every=STEP)
    nothing_left(row)
    if name in row.refuses:
        check_refusal(name, row.refuses[name], state)
        return
    # Each worker has as many batches as the process of a plain run.
    steps = row.devices * plain(name)["step"]
    check_end(state, steps)
    again, _ = fit(name, folder, row.make(), devices=row.devices, start=STEP)
    nothing_left(row)
    check_end(again, steps)
    for path in (f"step={STEP}.ckpt", "end-None.ckpt", f"end-{STEP}.ckpt"):
        saved = torch.load(folder / path, weights_only=True)
        assert saved["state_dict"].keys() == state["weights"].keys()
        assert saved["global_step"] <= state["step"]


def check_end(state: dict[str, Any], steps: int) -> None:
    assert "refused" not in state, state["refused"]
    assert state["step"] == steps
    for name, value in state["weights"].items():
        assert value.isfinite().all(), name
        # Batch normalisation takes this bias away again, so its gradient is hardly more than rounding.
        assert name == "net.0.bias" or not torch.equal(value, state["began"][name]), name


def nothing_left(row: StrategyRow) -> None:
    """No worker and no server is left; Ray's end a moment later."""
    assert multiprocessing.active_children() == []
    end = time.monotonic() + 20
    while row.on_ray and (left := [*processes_with("Shard"), *processes_with("_run_worker")]):
        assert time.monotonic() < end, left
        time.sleep(0.05)


@pytest.fixture(scope="module")
def module_ray() -> Iterator[None]:
    """One Ray for all tests, since its start takes 10 seconds and more."""
    with ray_for(2, None, gpus=[], payload=0):
        yield


@pytest.mark.parametrize("name", QUICK_TOGETHER)
@pytest.mark.parametrize("strategy", [name for name in STARTING if not STRATEGIES[name].on_ray])
def test_two_workers_work_or_refuse(strategy: str, name: str, tmp_path: Path) -> None:
    check_together(strategy, name, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", CALLBACKS)
@pytest.mark.parametrize("strategy", STARTING)
def test_two_workers_work_or_refuse_under_all_callbacks(
    strategy: str, name: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if STRATEGIES[strategy].on_ray:
        if find_spec("ray") is None:
            pytest.skip("Ray is not installed")
        request.getfixturevalue("module_ray")
    check_together(strategy, name, tmp_path)
