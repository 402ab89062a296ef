"""Which part of a global batch a process has, and the row before it."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_optreg.randomness.processes import row_before, share_of
from lightning_optreg.randomness.run_seed import run_seed


def trainer_of(part: int, parts: int, processes: int) -> Any:
    return SimpleNamespace(
        distributed_sampler_kwargs={"rank": part, "num_replicas": parts},
        world_size=processes,
        strategy=SimpleNamespace(broadcast=lambda number: 5),
    )


def each_sends_its_rank(rows: list[Tensor], row: Tensor) -> None:
    for rank, received in enumerate(rows):
        received.fill_(rank)


def test_one_process_has_all_of_it() -> None:
    alone: Any = SimpleNamespace(distributed_sampler_kwargs=None)
    assert share_of(alone) == (0, 1)
    assert row_before(torch.tensor([[1], [2]]), alone).tolist() == [[2]]


@pytest.mark.parametrize(("parts", "processes"), [(2, 2), (3, 3), (2, 4), (2, 6)])
def test_the_row_is_that_of_the_part_before(
    parts: int, processes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under tensor parallelism processes share a part: those of part k are k * m, ..., k * m + m - 1."""
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "all_gather", each_sends_its_rank)
    for part in range(parts):
        trainer = trainer_of(part, parts, processes)
        assert share_of(trainer) == (part, parts)
        sender = int(row_before(torch.zeros(2, 1), trainer))
        assert sender // (processes // parts) == (part - 1) % parts


def test_the_seed_is_that_of_the_first_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PL_GLOBAL_SEED", "8")
    assert run_seed(None, None) == 8
    assert run_seed(3, None) == 3
    assert run_seed(None, trainer_of(1, 2, 2)) == 5
