"""Histograms reach TensorBoard at the right steps with the right numbers; test_tracking_wandb has W&B's."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader
from typing_extensions import override

from lightning_optreg.callbacks.records.histograms import Histograms
from tests.small_runs import quiet_trainer


class Model(LightningModule):
    """Its weight's gradient is 1, 2, 3 for inputs of 1, 2, 3."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(3, 1, bias=False)
        self.left_out = nn.Parameter(torch.ones(1))
        self.after: Tensor | None = None

    @override
    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        loss: Tensor = self.net(batch).mean()
        return loss

    @override
    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.net.parameters(), lr=0.01)


def fit(logger: Any, *callbacks: Histograms, **settings: Any) -> Model:
    model = Model()
    nn.init.ones_(model.net.weight)
    trainer = quiet_trainer(
        log_every_n_steps=50, logger=logger, callbacks=list(callbacks), max_epochs=1, **settings
    )
    data = torch.tensor([[1.0, 2.0, 3.0]]).repeat(8, 1)
    trainer.fit(model, DataLoader(data, batch_size=1))  # type: ignore[arg-type]
    return model


def histograms(folder: Path) -> dict[str, list[Any]]:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(folder), size_guidance={accumulator.HISTOGRAMS: 0}).Reload()
    return {name: events.Histograms(name) for name in events.Tags()["histograms"]}


def test_gradients_and_parameters_before_the_step(tmp_path: Path) -> None:
    fit(TensorBoardLogger(tmp_path, name="", version=""), Histograms("all", every_n_steps=4))
    shown = histograms(tmp_path)
    assert set(shown) == {"gradients/net.weight", "parameters/net.weight"}  # no optimizer has `left_out`
    assert [event.step for event in shown["gradients/net.weight"]] == [3, 7]
    first = shown["gradients/net.weight"][0].histogram_value
    assert (first.min, first.max, first.num, first.sum, first.sum_squares) == (1.0, 3.0, 3.0, 6.0, 14.0)
    first = shown["parameters/net.weight"][0].histogram_value
    assert first.max == pytest.approx(1 - 0.01 * 1 * 3)  # after three steps


def test_accumulated_gradients_are_complete(tmp_path: Path) -> None:
    fit(
        TensorBoardLogger(tmp_path, name="", version=""),
        Histograms(every_n_steps=1),
        accumulate_grad_batches=4,
        gradient_clip_val=0.1,
    )
    shown = histograms(tmp_path)
    assert [event.step for event in shown["gradients/net.weight"]] == [0, 1]
    assert [event.histogram_value.max for event in shown["gradients/net.weight"]] == [3.0, 3.0]


def test_training_is_the_same_with_it(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path, name="", version="")
    watched = fit(logger, Histograms("all", every_n_steps=1)).net.weight
    assert torch.equal(watched, fit(False).net.weight)


def test_entries_that_are_not_finite_are_left_out(tmp_path: Path) -> None:
    class Broken(Histograms):
        @override
        def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
            pl_module.net.weight.grad[0, 0] = torch.nan
            super().on_before_optimizer_step(trainer, pl_module, optimizer)

    fit(TensorBoardLogger(tmp_path, name="", version=""), Broken(every_n_steps=8))
    (event,) = histograms(tmp_path)["gradients/net.weight"]
    assert (event.histogram_value.num, event.histogram_value.min) == (2.0, 2.0)


def test_a_fit_whose_loggers_would_drop_them_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MisconfigurationException, match="Histograms: no logger of this trainer"):
        fit(CSVLogger(tmp_path), Histograms())
    fit(CSVLogger(tmp_path), Histograms(every_n_steps=1), fast_dev_run=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"of": "weights"}, "of must be gradients, parameters or all, got 'weights'"),
        ({"every_n_steps": 0}, "every_n_steps must be >= 1, got 0"),
        ({"bins": 0}, "bins must be >= 1, got 0"),
    ],
)
def test_wrong_values_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"Histograms: {message}"):
        Histograms(**arguments)
