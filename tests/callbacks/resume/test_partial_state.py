"""What is half done when a run is stopped and logged or stepped later, in one process."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import seed_everything
from torch import Tensor
from torchmetrics import MeanMetric, MetricCollection, SumMetric

from tests.resume_tools import Regression, SaveAlways, assert_identical, run, spoil_random_state


class Logs(Regression):
    """Logs what a resume could lose: seldom, several times a batch, by step and by epoch, as torchmetrics."""

    def __init__(self) -> None:
        super().__init__()
        self.several = MetricCollection({"average": MeanMetric(), "total": SumMetric()})

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        value = loss.detach()
        for name in ("mean", "sum", "max", "min"):
            self.log(name, value, on_step=True, on_epoch=True, reduce_fx=name)
        for part in (1 / 3, 0.1, 0.7):
            self.log("thrice", part * value, on_step=False, on_epoch=True)
        if batch_idx % 4 == 0:
            self.log("seldom", value, on_step=True, on_epoch=True)
            self.log("seldom_step", value)
        self.several.update(value)
        if batch_idx == 0:
            self.log_dict(self.several, on_step=False, on_epoch=True)
        return loss


class AccumulatesItself(Regression):
    """Steps after every fourth batch of the run, also where an epoch ends in between."""

    def __init__(self, *, zeroes_after: bool = True) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.zeroes_after = zeroes_after

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        optimizer: Any = self.optimizers()
        number = self.trainer.fit_loop.total_batch_idx
        if number % 4 == 0 and not self.zeroes_after:
            optimizer.zero_grad()
        loss = super().training_step(batch, batch_idx)
        self.manual_backward(loss)
        if number % 4 == 3:
            optimizer.step()
            if self.zeroes_after:
                optimizer.zero_grad()
        return loss

    def kept(self, path: Path) -> int:
        """Number of gradients in a checkpoint."""
        return len(torch.load(path, weights_only=True)["callbacks"]["ExactResume"]["gradients"])


@pytest.mark.parametrize(
    ("window", "precision", "every"),
    [
        (4, "32-true", 6),
        pytest.param(1, "32-true", 1, marks=pytest.mark.slow),
        pytest.param(1, "bf16-mixed", 1, marks=pytest.mark.slow),
        pytest.param(4, "32-true", 1, marks=pytest.mark.slow),
        pytest.param(4, "bf16-mixed", 1, marks=pytest.mark.slow),
    ],
)
def test_logged_values_of_a_resumed_epoch_are_the_same(
    window: int, precision: str, every: int, tmp_path: Path
) -> None:
    options: dict[str, Any] = {
        "accumulate_grad_batches": window,
        "precision": precision,
        "val_check_interval": 3,
    }
    seed_everything(1, verbose=False)
    saver = SaveAlways(tmp_path / "all")
    straight, logged, _ = run(tmp_path, Logs(), [saver], enable_checkpointing=True, **options)
    for name, path in list(saver.paths.items())[window % 3 :: every]:
        spoil_random_state()
        resumed, logged_after, _ = run(tmp_path, Logs(), [], ckpt_path=path, **options)
        assert_identical(straight, resumed, f"{name}: ")
        assert {key: logged[key] for key in logged_after} == logged_after, name
        assert logged.keys() <= saver.logged[name] | logged_after.keys(), name


def test_a_value_may_be_logged_in_another_way_after_a_resume(tmp_path: Path) -> None:
    class InProgressBar(Logs):
        def log(self, name: str, value: Any, **options: Any) -> None:
            super().log(name, value, **{**options, "prog_bar": True})

    seed_everything(1, verbose=False)
    saver = SaveAlways(tmp_path / "all")
    _, logged, _ = run(tmp_path, Logs(), [saver], enable_checkpointing=True)
    _, logged_after, _ = run(tmp_path, InProgressBar(), [], ckpt_path=list(saver.paths.values())[2])
    assert {key: logged[key] for key in logged_after} == logged_after


@pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`")
@pytest.mark.slow
@pytest.mark.parametrize("zeroes_after", [True, False])
def test_gradients_that_a_module_accumulates_itself(zeroes_after: bool, tmp_path: Path) -> None:
    seed_everything(1, verbose=False)
    saver = SaveAlways(tmp_path / "all")
    module = AccumulatesItself(zeroes_after=zeroes_after)
    # a validation would zero them: Lightning does before each
    straight, logged, _ = run(tmp_path, module, [saver], enable_checkpointing=True, validate=False)
    for name, path in saver.paths.items():
        spoil_random_state()
        again = AccumulatesItself(zeroes_after=zeroes_after)
        resumed, logged_after, _ = run(tmp_path, again, [], ckpt_path=path, validate=False)
        assert_identical(straight, resumed, f"{name}: ")
        assert {key: logged[key] for key in logged_after} == logged_after, name
    at_step = list(saver.paths.values())[3]  # after the fourth batch
    assert module.kept(at_step) == (0 if zeroes_after else len(list(module.parameters())))
