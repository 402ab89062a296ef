"""What the command line shows of a run: a line for each epoch, a bar on a terminal, the network's layers.

These callbacks are put beside those of the configuration, and only by the commands: a Trainer that is used
from Python has Lightning's own.
"""

import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelSummary, ProgressBar
from typing_extensions import override

from lightning_optreg.cli.layer_table import LayerTable
from lightning_optreg.cli.meter import Meter, duration

__all__ = ["EpochLines", "console_callbacks"]


def console_callbacks(trainer: Mapping[str, Any], callbacks: Sequence[Callback]) -> list[Callback]:
    """Make the callbacks that show a run, where the user has not chosen others.

    Args:
        trainer: The settings of the trainer.
        callbacks: The callbacks of the configuration.
    """
    if trainer.get("barebones"):
        return []
    made: list[Callback] = []
    if trainer.get("enable_progress_bar") is not False and not _has(callbacks, ProgressBar):
        made.append(EpochLines())
    if trainer.get("enable_model_summary") is not False and not _has(callbacks, ModelSummary):
        made.append(LayerTable())
    return made


def _has(callbacks: Sequence[Callback], kind: type[Callback]) -> bool:
    return any(isinstance(callback, kind) for callback in callbacks)


class EpochLines(ProgressBar):
    """Print a line when an epoch has ended, and on a terminal a bar while it runs.

    Elsewhere than on a terminal there is nothing between two lines of a fit; a test or a prediction says now
    and then how far it is. Values are read from the device when they are shown, not in every step.

    Example:
        >>> trainer = Trainer(accelerator="cpu", logger=False, callbacks=[EpochLines()])
    """

    def __init__(self) -> None:
        super().__init__()
        self._is_on = True
        self._meter = Meter("batches", lines=False)
        self._began = time.monotonic()
        self._ended: int | None = None  # an epoch whose line is not printed yet

    @override
    def enable(self) -> None:
        """Show something again."""
        self._is_on = True

    @override
    def disable(self) -> None:
        """Show nothing: in other processes than the first, and while Lightning searches for a setting."""
        self._is_on = False

    @override
    def print(self, *args: Any, **kwargs: Any) -> None:
        """Print something where the bar was."""
        self._meter.clear()
        super().print(*args, **kwargs)

    # ---- fit -----------------------------------------------------------------------------------------------

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock; a run that was stopped within an epoch doesn't begin one."""
        self._began = time.monotonic()
        self._ended = None
        self._meter = Meter("batches", lines=False)

    @override
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the line of the epoch before, whose values are all there only now."""
        self._print_line(trainer, pl_module)
        self._began = time.monotonic()
        self._meter.begin()

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Draw the bar, a few times a second."""
        if self._is_on and self._meter.is_due():
            values = _shown(
                {k: v for k, v in self._values(trainer, pl_module).items() if k.endswith("_step")}
            )
            self._meter(batch_idx + 1, self.total_train_batches, self._epoch(trainer), values)

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note that the epoch has ended; the module and other callbacks log at this moment too."""
        self._ended = trainer.current_epoch

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the line of the last epoch."""
        self._print_line(trainer, pl_module)

    def _print_line(self, trainer: Trainer, pl_module: LightningModule) -> None:
        ended, self._ended = self._ended, None
        self._meter.clear()
        if ended is None or not self._is_on:
            return
        values = {k: v for k, v in self._values(trainer, pl_module).items() if not k.endswith("_step")}
        took = duration(time.monotonic() - self._began)
        said = ", ".join(filter(None, (_shown(values), took)))
        print(f"{self._epoch(trainer, ended)}: {said}", file=sys.stderr, flush=True)

    def _epoch(self, trainer: Trainer, number: int | None = None) -> str:
        number = trainer.current_epoch if number is None else number
        last = trainer.max_epochs
        return f"epoch {number + 1}" + (f"/{last}" if last is not None and last > 0 else "")

    def _values(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        values: dict[str, Any] = self.get_metrics(trainer, pl_module)
        return {name: value for name, value in values.items() if name != "v_num"}

    # ---- validation, test, prediction ----------------------------------------------------------------------

    @override
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin a bar of the validation's own."""
        self._begin(lines=trainer.state.fn != "fit")

    @override
    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Draw it."""
        if self._is_on and self._meter.is_due() and not trainer.sanity_checking:
            self.has_dataloader_changed(dataloader_idx)
            what = f"{self._epoch(trainer)}, validation" if trainer.state.fn == "fit" else "validation"
            self._meter(batch_idx + 1, self.total_val_batches_current_dataloader, what)

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take it away."""
        self._begin(lines=False)

    @override
    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin a bar."""
        self._begin(lines=True)

    @override
    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Draw it."""
        if self._is_on:
            self.has_dataloader_changed(dataloader_idx)
            self._meter(batch_idx + 1, self.total_test_batches_current_dataloader, "test")

    on_test_end = on_validation_end

    @override
    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin a bar."""
        self._begin(lines=True)

    @override
    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Draw it."""
        if self._is_on:
            self.has_dataloader_changed(dataloader_idx)
            self._meter(batch_idx + 1, self.total_predict_batches_current_dataloader, "prediction")

    on_predict_end = on_validation_end

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Take the bar away, so that the message begins a line."""
        self._meter.clear()

    def _begin(self, *, lines: bool) -> None:
        self._meter.clear()
        self._meter = Meter("batches", lines=lines)
        self.reset_dataloader_idx_tracker()


def _shown(values: Mapping[str, Any]) -> str:
    """Values with their names, in three digits or so."""
    words = [
        f"{name} {value:.4g}" if isinstance(value, (int, float)) else f"{name} {value}"
        for name, value in values.items()
    ]
    return ", ".join(words)
