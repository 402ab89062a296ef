"""Downpour and asynchronous elastic averaging with processes of Ray."""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_optreg.strategies import AsyncElasticAveraging, Downpour
from lightning_optreg.strategies.servers._ray_cluster import ray_for
from tests.resume_tools import assert_identical
from tests.strategies.servers import ray_runs
from tests.strategies.servers.ray_runs import BATCH, SAMPLES, fit, taken

# Ray is not imported here: the strategies set its environment first. Its start takes 10 seconds and more;
# `test_downpour.py` has quick tests of the same strategies, with a stand-in for it.
pytestmark = [pytest.mark.slow, pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed")]


@pytest.fixture(scope="session")
def session_ray() -> Iterator[Any]:
    """One Ray for all tests, since its start takes 10 seconds and more."""
    with ray_for(2, None, gpus=[], payload=0) as ray:
        yield ray


def test_two_workers_one_of_which_dies(session_ray: Any, tmp_path: Path) -> None:
    """Downpour: shares, places, counts, checkpoints and the message, in one run."""
    with pytest.warns(UserWarning, match=r"worker 1 died \(WorkerCrashedError\) and is started again"):
        trainer = fit(tmp_path, Downpour(shards=2), kill_at=7)
    each = SAMPLES // BATCH // 2  # batches of a worker in an epoch
    assert trainer.global_step == 2 * 2 * each

    zero, one = taken(tmp_path, 0), taken(tmp_path, 1)
    assert len({process for process, *_ in one}) == 2
    assert [row[1:3] for row in zero] == [(e, b) for e in range(2) for b in range(each)]
    # It goes on where it was: no batch comes twice, and batch 7, in which it died before noting it, comes.
    assert [row[1:3] for row in one] == [(e, b) for e in range(2) for b in range(each)]
    for epoch in range(2):
        # Lightning's DistributedSampler: one half each. A loader of torch begins its epoch's order again in
        # the process started anew, so 7 batches of epoch 0 come twice, and as many do not come.
        mine, other = (
            set().union(*(numbers for _, e, _, numbers in rows if e == epoch)) for rows in (zero, one)
        )
        assert not mine & other
        assert len(mine) == SAMPLES // 2
        assert len(other) == SAMPLES // 2 - (7 * BATCH if epoch == 0 else 0)

    strategy = trainer.strategy
    assert isinstance(strategy, Downpour)
    saved = torch.load(tmp_path / "epoch=1.ckpt", weights_only=True)
    kept = saved["optreg_downpour"]
    # The last validation waited for all, and the checkpoint has all steps, places, and what was validated.
    assert kept["ledger"]["steps"] == {0: 2 * each, 1: 2 * each}
    assert kept["ledger"]["places"] == {0: (2, 0), 1: (2, 0)}
    assert kept["updates"] == 4 * each == sum(number for _, number in kept["delays"])
    size = 5 * 4  # bytes of the parameters of one linear layer; buffers round up
    assert kept["ledger"]["bytes"] > 2 * size * 4 * each
    assert_identical(dict(saved["state_dict"]), dict(trainer.lightning_module.state_dict()))

    trainer.fit_loop.max_epochs = 3  # another fit begins at the next epoch, in all workers
    trainer.fit(trainer.lightning_module, ray_runs.loader(), ray_runs.loader())
    assert trainer.global_step == 3 * 2 * each
    assert [row[1:3] for row in taken(tmp_path, 1)[2 * each :]] == [(2, b) for b in range(each)]
    assert float(trainer.callback_metrics["val_loss"]) < 0.5


def test_elastic_averaging_with_two_workers(session_ray: Any, tmp_path: Path) -> None:
    trainer = fit(tmp_path, AsyncElasticAveraging(period=2), epochs=4)
    each = SAMPLES // BATCH // 2
    assert trainer.global_step == 4 * 2 * each
    kept = torch.load(tmp_path / "epoch=3.ckpt", weights_only=True)["optreg_async_elastic_averaging"]
    assert kept["ledger"]["steps"] == {0: 4 * each, 1: 4 * each}
    assert kept["updates"] == 4 * each  # every second step of each
    assert float(trainer.callback_metrics["val_loss"]) < 0.5


def test_with_ray_too_one_worker_is_plain_training(session_ray: Any, tmp_path: Path) -> None:
    ends = []
    for number, strategy in enumerate(("auto", Downpour(), Downpour(shards=2))):
        folder = tmp_path / str(number)
        folder.mkdir()
        ends.append(dict(fit(folder, strategy, devices=1).lightning_module.state_dict()))
    assert_identical(ends[0], ends[1])
    assert_identical(ends[0], ends[2])


def test_the_others_begin_after_the_warm_start(session_ray: Any, tmp_path: Path) -> None:
    fit(tmp_path, Downpour(warm_start_steps=40), epochs=2)
    kept = torch.load(tmp_path / "epoch=1.ckpt", weights_only=True)["optreg_downpour"]
    assert kept["ledger"]["steps"] == {0: 60, 1: 60}


def test_max_steps_counts_the_steps_of_all(
    session_ray: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = ray_runs.quiet_trainer
    monkeypatch.setattr(ray_runs, "quiet_trainer", lambda **options: make(**options, max_steps=100))
    trainer = fit(tmp_path, Downpour(), epochs=20, pause=0.05)
    # Each worker may be in a step when the last one is counted.
    assert 100 <= trainer.global_step <= 101
