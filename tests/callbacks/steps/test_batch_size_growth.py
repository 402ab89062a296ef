"""BatchSizeGrowth multiplies the batch, and that has the noise of a rate that is divided."""

from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from lightning_optreg.callbacks import BatchSizeGrowth
from lightning_optreg.callbacks.steps.batch_size_growth import noise_scale
from tests.resume_tools import Regression, StatefulLoader
from tests.small_runs import quiet_trainer

RUNS = 4000


class Noisy(LightningModule):
    """SGD on E (x - xi)^2 / 2, 4000 runs side by side, one a coordinate; a batch is one sample of each."""

    def __init__(self, lr: float, batches: int) -> None:
        super().__init__()
        self.lr, self.batches = lr, batches
        self.x = nn.Parameter(torch.zeros(RUNS))
        self.rates: list[float] = []
        self.steps: list[int] = []

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        self.rates.append(self.trainer.optimizers[0].param_groups[0]["lr"])
        self.steps.append(self.trainer.global_step)
        xi = torch.randn(RUNS, generator=self.generator)
        return 0.5 * (self.x - xi).square().sum()

    def on_fit_start(self) -> None:
        self.generator = torch.Generator().manual_seed(0)

    def train_dataloader(self) -> Any:
        return torch.utils.data.DataLoader(torch.zeros(self.batches, 1))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=self.lr)


def fit(module: LightningModule, *callbacks: Any, **options: Any) -> None:
    trainer = quiet_trainer(callbacks=list(callbacks), **options)
    loaders = [StatefulLoader(), StatefulLoader(1)] if isinstance(module, Regression) else []
    trainer.fit(module, *loaders)
    assert trainer.accumulate_grad_batches == options.get("accumulate_grad_batches", 1)  # as it was


def test_milestones_that_the_run_does_not_get_to() -> None:
    with pytest.warns(UserWarning, match=r"^BatchSizeGrowth: the run's 2 epochs end before milestones 2, 5$"):
        fit(Noisy(0.1, batches=4), BatchSizeGrowth([1, 2, 5], factor=2), max_epochs=2)


def test_steps_of_each_epoch() -> None:
    module = Noisy(0.1, batches=12)
    fit(module, BatchSizeGrowth([1, 2], factor=2), max_epochs=4)
    # 12 steps of one batch, 6 of two, 3 of four, 3 of four
    assert [module.steps[12 * epoch] for epoch in range(4)] == [0, 12, 18, 21]
    assert set(module.rates) == {0.1}
    module = Noisy(0.1, batches=12)
    fit(module, BatchSizeGrowth([1], factor=2), max_epochs=2, accumulate_grad_batches=3)
    assert [module.steps[12 * epoch] for epoch in range(2)] == [0, 4]


def test_past_the_limit_the_rate_is_divided() -> None:
    module = Noisy(0.8, batches=8)
    fit(module, BatchSizeGrowth([1, 2, 3], factor=2, max_growth=3), max_epochs=4)
    assert [module.rates[8 * epoch] for epoch in range(4)] == pytest.approx([0.8, 0.8, 0.4, 0.2])
    assert [module.steps[8 * epoch] for epoch in range(4)] == [0, 8, 12, 16]
    assert [BatchSizeGrowth([1, 2], 5, 125).growth(epoch) for epoch in (0, 1, 9)] == [1, 5, 25]


def test_a_larger_batch_has_the_noise_of_a_smaller_rate() -> None:
    """The stationary variance of x is s / (B (2 - s)): about s / (2 B), so s / 4 and 4 B are alike."""

    def spread(lr: float, growth: bool) -> float:
        module = Noisy(lr, batches=120)  # at rate s / 4 the start is forgotten within some 50 steps
        callbacks = [BatchSizeGrowth([1], factor=4)] if growth else []
        fit(module, *callbacks, max_epochs=3)
        return float(module.x.detach().square().mean())

    s = 0.08
    grown, divided, plain = spread(s, growth=True), spread(s / 4, growth=False), spread(s, growth=False)
    # 4000 independent runs: a relative standard error of sqrt(2 / 4000) = 2.2 %
    assert grown == pytest.approx(s / (4 * (2 - s)), rel=0.09)
    assert divided == pytest.approx(s / 4 / (2 - s / 4), rel=0.09)
    assert grown == pytest.approx(divided, rel=0.13)
    assert plain > 3 * grown


def test_noise_scale() -> None:
    assert noise_scale(0.1, 100, 50_000) == pytest.approx(noise_scale(0.02, 20, 50_000), rel=0.002)
    assert noise_scale(0.1, 100, 50_000, momentum=0.9) == pytest.approx(10 * noise_scale(0.1, 100, 50_000))


def test_a_schedule_that_would_undo_it_is_refused() -> None:
    with pytest.raises(
        MisconfigurationException, match="BatchSizeGrowth: beyond max_growth the learning rate is divided"
    ):
        fit(Regression("cosine_step"), BatchSizeGrowth([1, 2], 2, max_growth=2), max_epochs=1)
    fit(Regression("cosine_step"), BatchSizeGrowth([1], 2, max_growth=2), max_epochs=2)


class Fails(Callback):
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch == 1:
            raise RuntimeError("enough")


def test_an_error_leaves_the_trainer_and_the_callback_as_they_were() -> None:
    growth = BatchSizeGrowth([1], factor=2)
    trainer = quiet_trainer(callbacks=[growth, Fails()], max_epochs=2)
    with pytest.raises(RuntimeError, match="enough"):
        trainer.fit(Noisy(0.1, batches=12))
    assert trainer.accumulate_grad_batches == 1
    module = Noisy(0.1, batches=12)
    fit(module, growth, max_epochs=2, accumulate_grad_batches=3)
    assert [module.steps[12 * epoch] for epoch in range(2)] == [0, 4]
