"""What is kept of one process or several, where it takes no second one to see it."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchmetrics import Metric

from lightning_optreg.callbacks.resume import exact_resume
from lightning_optreg.callbacks.resume._partial_state import restore_metric_states
from lightning_optreg.trainer.across_ranks import gather_ranks, gather_tensors
from tests.resume_tools import Regression, SaveAlways, assert_identical, run


def test_one_process_copies_what_it_keeps() -> None:
    trainer: Any = SimpleNamespace(world_size=1, strategy=None)
    mine = {"a": torch.zeros(2)}
    kept = gather_tensors(trainer, mine, if_equal=True)
    mine["a"] += 1
    assert_identical(kept, {"a": [torch.zeros(2)]})
    assert gather_tensors(trainer, mine, if_equal=False) == {}
    assert gather_ranks(trainer, {"b": 1}) == [{"b": 1}]


@pytest.mark.filterwarnings("ignore:ExactResume.*saved within a training batch")
def test_gradients_of_sharded_parameters_are_left_out_with_a_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # a sharding strategy runs on GPUs only
    monkeypatch.setattr(exact_resume, "shards_parameters", lambda trainer: True)
    saver = SaveAlways(tmp_path)
    with pytest.warns(UserWarning, match="SingleDeviceStrategy shards gradients, so this checkpoint lacks"):
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
    with pytest.warns(UserWarning, match="the metric spread can't merge the states of 2 processes"):
        restore_metric_states(module, ranks)
    assert module.spread.compute() == 0.0
