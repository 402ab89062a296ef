"""AdamRestarts goes back to the best weights with a lower rate and a fresh optimizer, then ends the run."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from torch import Tensor, nn

from lightning_optreg.callbacks import AdamRestarts, ExactResume
from lightning_optreg.optimizers import SWATS, NAGConvex
from tests.contracts.runs import checkpoint_every_step
from tests.processes import WriteAtEnd, needs_gloo, written
from tests.resume_tools import Regression, StatefulLoader, assert_identical, final_state, spoil_random_state
from tests.small_runs import quiet_trainer

pytestmark = pytest.mark.filterwarnings("ignore:It is recommended to use .*sync_dist=True")


class Scripted(LightningModule):
    """Its validation has the values that it is told; one step of Adam between two of them."""

    def __init__(self, values: list[float]) -> None:
        super().__init__()
        self.values = values
        self.w = nn.Parameter(torch.zeros(2))
        self.register_buffer("seen", torch.zeros(()))
        self.weights: list[Tensor] = []
        self.rates: list[float] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        optimizer = self.trainer.optimizers[0]
        self.weights.append(self.w.detach().clone())
        self.rates.append(optimizer.param_groups[0]["lr"])
        self.fresh = not optimizer.state
        self.seen += 1
        return (self.w - 3).square().sum()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        if not self.trainer.sanity_checking:
            self.log("val/loss", torch.tensor(self.values[self.trainer.current_epoch]))

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=0.1)


def fit(
    module: LightningModule, callbacks: list[Callback], ckpt_path: Path | None = None, **options: Any
) -> Trainer:
    trainer = quiet_trainer(callbacks=callbacks, **{"max_epochs": 9, **options})
    batches = 1 if isinstance(module, Scripted) else 6
    trainer.fit(module, StatefulLoader(batches), StatefulLoader(1), ckpt_path=ckpt_path)
    return trainer


def test_a_least_change_that_is_set_after_construction_counts() -> None:
    callback = AdamRestarts(patience=1, max_restarts=2)
    callback.min_delta = 9.0
    fit(Scripted([5.0, 4.0, 3.0, 2.0, 1.0, 0.5, 0.4, 0.3, 0.2]), [callback])
    assert callback.restarts == 2


def test_restarts_from_the_best_weights_with_half_the_rate() -> None:
    #         epoch 0    1    2    3    4    5    6    7    8
    module = Scripted([5.0, 4.0, 4.5, 4.2, 3.0, 3.5, 3.0, 9.0, 9.0])
    callback = AdamRestarts(patience=2, max_restarts=1)
    trainer = fit(module, [callback])
    # Best at 1, bad at 2 and 3: restart. Best at 4, bad at 5 and 6 (equal is no improvement): the end.
    assert callback.restarts == 1
    assert trainer.current_epoch == 7
    assert module.rates == [0.1] * 4 + [0.05] * 3
    torch.testing.assert_close(module.weights[4], module.weights[2])  # the weights that epoch 1 ended with
    step = module.weights[5] - module.weights[4]
    torch.testing.assert_close(step, torch.full((2,), 0.05))  # Adam's first step is its rate
    torch.testing.assert_close(
        module.w.detach(), module.weights[5]
    )  # the best of all: what epoch 4 ended with
    assert module.seen.item() == 2 + 1  # buffers go back too: two steps until epoch 1, one in epoch 4


def test_first_patience_and_rising_values() -> None:
    module = Scripted([1.0, 1.0, 1.0, 1.0, 1.0, 1.0])
    callback = AdamRestarts(mode="max", patience=1, first_patience=3, max_restarts=5, factor=0.1)
    fit(module, [callback], max_epochs=6)
    assert module.rates == pytest.approx([0.1] * 4 + [0.01] + [0.001])


def test_a_schedule_is_refused() -> None:
    with pytest.raises(
        MisconfigurationException, match=r"^AdamRestarts: the module has a learning-rate schedule"
    ):
        fit(Regression("cosine_step"), [AdamRestarts("val_loss")])


def test_an_unknown_monitor_is_named() -> None:
    with pytest.raises(MisconfigurationException, match="AdamRestarts: monitor 'val_los' is not among"):
        fit(Regression(), [AdamRestarts("val_los")])


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, marks=pytest.mark.slow),
        {"accumulate_grad_batches": 4},
        pytest.param({"precision": "bf16-mixed"}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_resumes_before_at_and_after_a_restart(options: dict[str, Any], tmp_path: Path) -> None:
    def run(ckpt_path: Path | None = None, saver: Callback | None = None) -> Any:
        callback = AdamRestarts("val_loss", patience=1, min_delta=0.3, max_restarts=3)
        callbacks = [ExactResume(), callback, *([] if saver is None else [saver])]
        module = Regression(adam=True)
        trainer = fit(
            module, callbacks, ckpt_path, max_epochs=4, enable_checkpointing=saver is not None, **options
        )
        return final_state(trainer, module), callback.restarts

    seed_everything(1, verbose=False)
    straight, restarts = run(saver=checkpoint_every_step(tmp_path))
    assert restarts >= 2
    paths = sorted(tmp_path.glob("*.ckpt"))
    assert len(paths) >= 8
    for path in paths[:-1]:
        torch.load(path, weights_only=True)
        spoil_random_state()
        assert_identical((straight, restarts), run(path))


class HasRestarted(Callback):
    """Sees that each process restarted."""

    def __init__(self, restarts: AdamRestarts) -> None:
        self.restarts = restarts

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert self.restarts.restarts >= 1


@needs_gloo
def test_two_processes_restart_together(tmp_path: Path) -> None:
    callback = AdamRestarts("val_loss", patience=1, min_delta=0.3)
    callbacks = [callback, HasRestarted(callback), WriteAtEnd(tmp_path)]
    fit(Regression(adam=True), callbacks, strategy="ddp_fork", devices=2, max_epochs=3)
    first, second = written(tmp_path)
    assert_identical(first["weights"], second["weights"])


@pytest.mark.parametrize("make", [partial(SWATS, lr=0.1, switch_eps=0.0), partial(NAGConvex, lr=0.1)])
def test_what_an_optimizer_counts_in_its_groups_begins_anew(make: Any) -> None:
    module = Scripted([5.0] + [6.0] * 8)
    module.configure_optimizers = lambda: make(module.parameters())  # type: ignore[method-assign]
    fit(module, [AdamRestarts(patience=4, factor=1.0, max_restarts=2)])
    # From the weights of epoch 0 the steps after the restart are those from any first point
    again = Scripted([5.0] * 9)
    again.w.data.copy_(module.weights[5])
    again.configure_optimizers = lambda: make(again.parameters())  # type: ignore[method-assign]
    fit(again, [], max_epochs=4)
    torch.testing.assert_close(torch.stack(module.weights[5:9]), torch.stack(again.weights))
