"""Hogwild with other settings of the trainer and the module: what works, and what is counted."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn

from lightning_optreg.strategies import Hogwild
from tests.strategies.shared_memory.hogwild_tools import OurLoader, Regression, Told, told, trainer_of

pytestmark = pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers")


class _Manual(Regression):
    """Two optimizers, each stepped by hand."""

    automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        loss = nn.functional.mse_loss(self(batch[0]), batch[1])
        optimizers = self.optimizers()
        for optimizer in optimizers:
            optimizer.zero_grad()
        self.manual_backward(loss)
        for optimizer in optimizers:
            optimizer.step()

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(layer.parameters(), lr=0.01) for layer in (self.first, self.last)]


class _Plateau(Regression):
    """Its rate falls by ten at each validation, as no loss is low enough."""

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.01)
        schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(
            optimizer, mode="max", factor=0.1, patience=0, threshold=1e9
        )
        return [optimizer], [{"scheduler": schedule, "monitor": "val"}]


@pytest.mark.parametrize(
    ("module", "options", "steps"),
    [
        (Regression, {"accumulate_grad_batches": 4}, 2 * 2 * 2),
        (Regression, {"gradient_clip_val": 0.1, "precision": "bf16-mixed"}, 2 * 12),
        (Regression, {"val_check_interval": 2}, 2 * 12),
        (Regression, {"limit_train_batches": 3}, 2 * 2 * 3),
        (_Manual, {}, 2 * 2 * 12),
    ],
    ids=["accumulation", "clipping, bf16", "validation within epochs", "limited", "manual, two optimizers"],
)
def test_steps_are_those_of_all(
    tmp_path: Path, module: type[Regression], options: dict[str, Any], steps: int
) -> None:
    trainer = trainer_of(tmp_path, **options)
    model = module()
    trainer.fit(model)
    assert trainer.global_step == steps
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())


def test_rates_follow_worker_0_s_validation(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, callbacks=[Told(tmp_path)], max_epochs=4)
    trainer.fit(_Plateau())
    rates = {
        worker: [words[2] for words in told(tmp_path, worker, "batch") if words[0] == "3"]
        for worker in (0, 1)
    }
    assert set(rates[0]) == set(rates[1]) != {"0.010000000"}


def test_loaders_of_this_package_deal_their_images_out(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, callbacks=[Told(tmp_path)], max_epochs=1)
    trainer.fit(OurLoader(lr=1e-6))
    seen = [float(x) for worker in (0, 1) for words in told(tmp_path, worker, "batch") for x in words[3:]]
    assert sorted(seen) == [float(4 * k) for k in range(48)]


class _Grows(Told):
    """A module that makes its layers late gets a parameter that the others don't see."""

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        pl_module.last.weight = nn.Parameter(torch.zeros(1, 4))

    def on_train_batch_end(self, *args: Any) -> None:
        pass


def test_parameters_made_too_late_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="was replaced after the module's setup"):
        trainer_of(tmp_path, callbacks=[_Grows(tmp_path)]).fit(Regression())


class _Late(Regression):
    def configure_optimizers(self) -> Any:
        return torch.optim.LBFGS(self.parameters())


def test_second_order_methods_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="LBFGS compares losses and gradients at points of its own"):
        trainer_of(tmp_path).fit(_Late())


class _SparseAdam(Regression):
    def configure_model(self) -> None:
        self.table = nn.Embedding(5, 1, sparse=True)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.table(torch.tensor([batch_idx % 5])).sum()

    def configure_optimizers(self) -> Any:
        return torch.optim.SparseAdam(self.parameters())


def test_plain_numbers_cannot_be_shared(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="SparseAdam keeps step as plain numbers"):
        trainer_of(tmp_path, strategy=Hogwild(shared_state=True)).fit(_SparseAdam())
