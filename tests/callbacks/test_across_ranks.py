"""What processes tell the first one, and what they do not."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import Tensor, nn
from torchmetrics import Metric

from lightning_optreg.callbacks import exact_resume
from lightning_optreg.callbacks.across_ranks import gather_ranks, gather_tensors, tensors_of_rank
from lightning_optreg.callbacks.partial_state import restore_metric_states
from tests.callbacks.test_exact_resume import SaveAlways, run
from tests.processes import in_processes
from tests.resume_tools import Regression, assert_identical


def tensors(rank: int) -> dict[str, Tensor]:
    """Tensors of a rank, of every kind of number, equal and not."""
    mine = {
        "equal": torch.arange(3.0),
        "part": torch.arange(10.0)[2 * rank : 2 * rank + 2],
        "half": torch.full((2, 2), 1.5 + rank, dtype=torch.bfloat16),
        "whole": torch.tensor(rank),
        "truth": torch.tensor([True, rank == 1]),
        "empty": torch.zeros(0, 3),
        "sparse": torch.sparse_coo_tensor([[rank]], [2.0], (3,)),
        "channels last": torch.ones(1, 2, 2, 2).to(memory_format=torch.channels_last) * (rank + 1),
    }
    if rank == 1:
        mine["only here"] = torch.ones(1)
    return mine


def gather(rank: int, folder: Path) -> None:
    dist.init_process_group("gloo", rank=rank, world_size=2)
    trainer: Any = SimpleNamespace(world_size=2)
    results = {
        "plain": gather_ranks(trainer, {"rank": rank}),
        "all": gather_tensors(trainer, tensors(rank), if_equal=True),
        "different": gather_tensors(trainer, tensors(rank), if_equal=False),
    }
    torch.save(results, folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.skipif(not dist.is_gloo_available(), reason="this build of torch has no gloo")
def test_the_first_process_has_what_differs_and_others_nothing(tmp_path: Path) -> None:
    in_processes(2, gather, tmp_path)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert second == {"plain": [], "all": {}, "different": {}}
    assert first["plain"] == [{"rank": 0}, {"rank": 1}]
    equal = {"equal", "empty"}
    assert {name for name, kept in first["all"].items() if len(kept) == 1} == equal
    assert first["different"].keys() == tensors(1).keys() - equal
    for rank in range(2):
        got, expected = tensors_of_rank(first["all"], rank), tensors(rank)
        assert got.keys() == expected.keys()
        for name, tensor in expected.items():
            assert got[name].dtype == tensor.dtype
            assert torch.equal(got[name].to_dense(), tensor.to_dense()), name
    # a part of a larger tensor travels and is written without the rest
    assert first["all"]["part"][1].untyped_storage().nbytes() == 8


def test_one_process_copies_what_it_keeps() -> None:
    trainer: Any = SimpleNamespace(world_size=1)
    mine = {"a": torch.zeros(2)}
    kept = gather_tensors(trainer, mine, if_equal=True)
    mine["a"] += 1
    assert_identical(kept, {"a": [torch.zeros(2)]})
    assert gather_tensors(trainer, mine, if_equal=False) == {}
    assert gather_ranks(trainer, {"b": 1}) == [{"b": 1}]


@pytest.mark.filterwarnings("ignore:ExactResume.*taken within a training batch")
def test_gradients_of_sharded_parameters_are_left_out_with_a_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # a sharding strategy runs on GPUs only
    monkeypatch.setattr(exact_resume, "SHARDING", (SingleDeviceStrategy,))
    saver = SaveAlways(tmp_path)
    with pytest.warns(
        UserWarning, match="gradients SingleDeviceStrategy shards and it lacks: no exact resume"
    ):
        run(tmp_path, Regression(), [saver], enable_checkpointing=True, accumulate_grad_batches=4)
    for path in saver.paths.values():
        assert torch.load(path, weights_only=True)["callbacks"]["ExactResume"]["gradients"] == {}


class Spread(Metric):
    """A metric whose states processes cannot merge before the end."""

    full_state_update = False

    def __init__(self) -> None:
        super().__init__()
        self.add_state("seen", torch.tensor(0.0), dist_reduce_fx=None)

    def update(self, value: Tensor) -> None:
        self.seen = torch.maximum(self.seen, value)

    def compute(self) -> Tensor:
        return self.seen


def test_says_which_metric_cannot_be_merged() -> None:
    module: Any = nn.Module()
    module.spread = Spread()
    ranks = [
        {"spread": {"update_count": 1, "states": {"seen": torch.tensor(float(rank))}}} for rank in range(2)
    ]
    with pytest.warns(UserWarning, match="the metric spread cannot merge what 2 processes had counted"):
        restore_metric_states(module, ranks)
    assert module.spread.compute() == 0.0
