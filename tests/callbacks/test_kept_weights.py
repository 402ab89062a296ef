"""Weights put aside come back as they were validated, also if they were pruned before or since."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.callbacks import ModelPruning
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_optreg.callbacks import AdamRestarts, EarlyStopping
from lightning_optreg.callbacks._kept_weights import in_form_of
from tests.small_runs import quiet_trainer

pytestmark = pytest.mark.filterwarnings("ignore:It is recommended to use `self.log")


class Prunes(ModelPruning):
    """Prunes in the second and in the fifth epoch."""

    def __init__(self, on_train_epoch_end: bool = True, permanent: bool = True) -> None:
        super().__init__(
            "random_unstructured",
            parameter_names=["weight"],
            amount=lambda epoch: 2 if epoch in (1, 4) else 0,  # of 16
            prune_on_train_epoch_end=on_train_epoch_end,
            make_pruning_permanent=permanent,
        )


class Wide(LightningModule):
    """Logs given errors; its weight grows with the steps, and is kept as each validation sees it."""

    def __init__(self, errors: list[float]) -> None:
        super().__init__()
        self.errors = errors
        self.layer = nn.Linear(4, 4, bias=False)
        nn.init.zeros_(self.layer.weight)
        self.validated: dict[int, Tensor] = {}

    def weight(self) -> Tensor:
        self.layer(torch.ones(4))  # a pruned weight is made in the forward pass
        return self.layer.weight.detach().clone()

    def train_dataloader(self) -> Any:
        return DataLoader(torch.arange(4.0), batch_size=2)

    val_dataloader = train_dataloader

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return -self.layer(torch.ones(4)).sum()

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.validated[self.current_epoch] = self.weight()
        self.log("val", self.errors[self.current_epoch])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.layer.parameters(), lr=0.5)


def early_stopping(best: int) -> Callback:
    return EarlyStopping("val", patience=6 - best, restore_best=True)


def adam_restarts(best: int) -> Callback:
    """The first stall ends the run."""
    return AdamRestarts("val", patience=6 - best, max_restarts=0)


@pytest.mark.parametrize("make", [early_stopping, adam_restarts])
@pytest.mark.parametrize(
    "best",
    [
        pytest.param(0, id="before any", marks=pytest.mark.slow),
        pytest.param(2, id="after the first", marks=pytest.mark.slow),
        pytest.param(5, id="after the second"),
    ],
)
@pytest.mark.parametrize("at_epoch_end", [False, True])
def test_pruned_weights_come_back_as_they_were_validated(
    make: Any, best: int, at_epoch_end: bool, tmp_path: Path
) -> None:
    for permanent, first in ((True, True), (True, False), (False, True)):
        keeper, prune = make(best), Prunes(at_epoch_end, permanent)
        module = Wide([2.0 - 0.1 * epoch if epoch <= best else 3.0 for epoch in range(9)])
        trainer = quiet_trainer(
            callbacks=[prune, keeper] if first else [keeper, prune],
            default_root_dir=tmp_path,
            num_sanity_val_steps=0,
            max_epochs=9,
        )
        trainer.fit(module)
        assert trainer.current_epoch == 7
        assert torch.equal(module.weight(), module.validated[best])
        assert int((module.validated[best] == 0).sum()) == {0: 0, 2: 2, 5: 4}[best]


def test_forms_of_a_weight() -> None:
    whole = {"a.weight": torch.tensor([1.0, 2.0]), "a.bias": torch.tensor([3.0])}
    pruned = {
        "a.bias": torch.tensor([3.0]),
        "a.weight_orig": torch.tensor([1.0, 2.0]),
        "a.weight_mask": torch.tensor([1.0, 0.0]),
    }
    assert in_form_of(pruned, pruned) == pruned
    assert in_form_of(whole, whole) == whole
    made_whole = in_form_of(whole, pruned)
    assert made_whole.keys() == whole.keys()
    assert made_whole["a.weight"].tolist() == [1.0, 0.0]
    split = in_form_of(pruned, whole)
    assert split.keys() == pruned.keys()
    assert split["a.weight_mask"].tolist() == [1.0, 1.0]
    # what is not of a pruned weight is left to `load_state_dict`, which says what does not fit
    assert in_form_of(whole, {"b_mask": torch.ones(1)}).keys() == {"b_mask"}
