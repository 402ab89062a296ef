"""No step waits for the device, nor copies to it: the same as `test_gpu`, on a machine without a GPU.

Beyond that it watches what lies between the steps of an epoch, such as the next batch, and refuses operations
on tensors of two devices.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger

from lightning_optreg.trainer.queries import is_logging_step
from tests.contracts.optimizers import RULES, make
from tests.contracts.watched_runs import WATCHED, fit, fit_with
from tests.fake_device import DEVICE, FakeDevice, WaitedError, needs_fake_device

pytestmark = [
    needs_fake_device,
    pytest.mark.filterwarnings("ignore:DifferentialPrivacy. epsilon is computed for Poisson samples"),
]
UNKNOWN = {"RobustnessEvaluation": "Foolbox takes torch's own class of tensors only; it acts in evaluation"}


class Watch(Callback):
    """First among the callbacks: from the second epoch on, no step may wait, unless it logs."""

    def __init__(self, device: FakeDevice) -> None:
        self.device = device

    def on_train_batch_start(self, trainer: Trainer, module: Any, batch: Any, batch_idx: int) -> None:
        logs = is_logging_step(trainer, trainer.global_step + 1)
        self.device.watching = trainer.current_epoch > 0 and batch_idx > 0 and not logs


class Rest(Callback):
    """Last among the callbacks: the end of an epoch may wait."""

    def __init__(self, device: FakeDevice) -> None:
        self.device = device

    def on_train_batch_end(
        self, trainer: Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.is_last_batch:
            self.device.watching = False


def options(fake: FakeDevice, **others: Any) -> dict[str, Any]:
    return {"accelerator": "cpu", "strategy": fake.strategy(), "max_epochs": 2, "device": "cpu:1", **others}


def logging(folder: Path) -> dict[str, Any]:
    """The seventh of ten steps logs, and those after it don't."""
    return {"logger": CSVLogger(folder), "log_every_n_steps": 7}


@pytest.mark.parametrize("name", ["none", *(name for name in WATCHED if name not in UNKNOWN)])
def test_no_step_with_a_callback_waits(name: str, tmp_path: Path) -> None:
    with FakeDevice() as device:
        fit_with(name, tmp_path, Watch(device), Rest(device), **options(device), **logging(tmp_path))
    assert device.copies == []


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_no_step_in_half_precision_waits(precision: str, tmp_path: Path) -> None:
    with FakeDevice() as device:
        fit_with("MixUp", tmp_path, Watch(device), Rest(device), **options(device, precision=precision))
    assert device.copies == []


@pytest.mark.parametrize("name", [name for name, rule in RULES.items() if not rule.reads_values])
def test_no_step_of_an_optimizer_waits(name: str, tmp_path: Path) -> None:
    with FakeDevice() as device:
        fit(
            tmp_path,
            [Watch(device), Rest(device)],
            partial(make, name),
            **options(device, gradient_clip_val=1.0),
        )
    assert device.copies == []


@pytest.mark.parametrize("name", [name for name, rule in RULES.items() if rule.reads_values])
def test_an_optimizer_that_reads_values_is_seen(name: str, tmp_path: Path) -> None:
    with FakeDevice() as device, pytest.raises(WaitedError):
        fit(
            tmp_path,
            [Watch(device), Rest(device)],
            partial(make, name),
            **options(device),
        )


def gradient_norm(module: Any) -> torch.Tensor:
    return torch.nn.utils.get_total_norm([p.grad for p in module.parameters()])


PLANTED: dict[str, Callable[[Any, Any], object]] = {
    "the loss": lambda module, loss: loss.item(),
    "whether the loss is large": lambda module, loss: bool(loss > 5.0),
    "a gradient norm": lambda module, loss: float(gradient_norm(module)),
    "a metric": lambda module, loss: module.val_loss.mean_value.tolist(),
    "a constant of the device": lambda module, loss: loss + torch.tensor(0.1, device=module.device),
    "a number drawn on the device": lambda module, loss: torch.rand((), device=module.device).item(),
}


class Planted(Callback):
    """Waits for the device once in a step."""

    def __init__(self, what: str) -> None:
        self.what = what

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        PLANTED[self.what](module, outputs["loss"])


@pytest.mark.parametrize("what", PLANTED)
def test_a_step_that_waits_is_seen(what: str, tmp_path: Path) -> None:
    with FakeDevice() as device, pytest.raises(WaitedError):
        fit(
            tmp_path,
            [Watch(device), Planted(what), Rest(device)],
            lambda p: torch.optim.SGD(p, lr=0.1),
            **options(device),
        )


class Always(Watch):
    """Steps that log may not wait either."""

    def on_train_batch_start(self, trainer: Trainer, module: Any, batch: Any, batch_idx: int) -> None:
        self.device.watching = trainer.current_epoch > 0 and batch_idx > 0


def test_a_step_that_logs_waits(tmp_path: Path) -> None:
    with FakeDevice() as device, pytest.raises(WaitedError):
        fit_with("none", tmp_path, Always(device), Rest(device), **options(device), **logging(tmp_path))


class LogsToTheBar(Callback):
    """Logs a value of the device that a progress bar may show."""

    def on_train_batch_end(
        self, trainer: Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if is_logging_step(trainer):
            module.log("loss", outputs["loss"], prog_bar=True, on_step=True, on_epoch=False)


def test_a_step_after_it_waits_for_what_a_progress_bar_shows(tmp_path: Path) -> None:
    with FakeDevice() as device, pytest.raises(WaitedError):
        fit(
            tmp_path,
            [Watch(device), LogsToTheBar(), Rest(device)],
            lambda p: torch.optim.SGD(p, lr=0.1),
            **options(device),
            **logging(tmp_path),
        )


def test_images_in_main_memory_are_copied_in_every_step_without_waiting(tmp_path: Path) -> None:
    with FakeDevice() as device:
        fit_with("none", tmp_path, Watch(device), Rest(device), **options(device, device="cpu"))
    assert device.copies == ["aten::_to_copy"] * 9  # images, labels and positions of the next 3 batches


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_run_is_the_same_wherever_its_images_lie(precision: str, tmp_path: Path) -> None:
    with FakeDevice() as device:
        runs = [
            fit_with(
                "MixUp",
                tmp_path,
                Watch(device),
                Rest(device),
                **options(device, device=lie, precision=precision),
            ).state_dict()
            for lie in ("cpu:1", "cpu", "auto")
        ]
        assert all(torch.equal(runs[0][name], run[name]) for run in runs[1:] for name in run)
    assert DEVICE not in {tensor.device for tensor in runs[0].values()}  # Lightning moves it back
    plain = fit_with(
        "MixUp", tmp_path, Callback(), Callback(), accelerator="cpu", max_epochs=2, precision=precision
    ).state_dict()
    assert all(torch.equal(runs[0][name], plain[name]) for name in plain)
