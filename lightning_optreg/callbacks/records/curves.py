"""A picture of the run's learning curves in the run's folder, without any logger."""

from pathlib import Path
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from typing_extensions import override

from lightning_optreg.callbacks._of_a_kind import OfAKind
from lightning_optreg.figures.learning_curves import draw_curves, is_accuracy, is_loss, is_validation
from lightning_optreg.files import check_inside, replacing

__all__ = ["Curves"]


class Curves(OfAKind):
    """Draws loss, accuracy and learning rate over the epochs when a fit ends or is stopped.

    It takes what any module logs for an epoch: each metric with `loss` or `acc` in its name (those with `val`
    come from validation), and the learning rate with which the epoch begins, of the first optimizer's first
    parameter group. Nothing is done in a step. A resumed run's picture is whole.

    Args:
        filename: Name of the picture in the run's folder, ending in .png, .svg or .pdf; it may have folders
            of its own, but stays in the run's.

    Attributes:
        history: For each epoch its number `epoch`, its metrics and its `learning_rate`; see `draw_curves`.

    Raises:
        ValueError: If filename has another ending or would leave the run's folder.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[Curves()], accelerator="cpu", logger=False)
    """

    def __init__(self, filename: str = "curves.png") -> None:
        if not str(filename).endswith((".png", ".svg", ".pdf")):
            raise ValueError(
                f"Curves: filename must be a name ending in .png, .svg or .pdf, got {filename!r}"
            )
        self.filename = check_inside(filename, "Curves: filename")
        self.history: list[dict[str, float]] = []
        self._ended: int | None = None  # epoch whose last values are still to come
        self._folder: Path | None = None  # before the fit begins

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse to draw over another one's picture."""
        super().setup(trainer, pl_module, stage)
        callbacks = trainer.callbacks  # type: ignore[attr-defined]  # a connector sets it
        names = [callback.filename for callback in callbacks if isinstance(callback, Curves)]
        if names.count(self.filename) > 1:
            raise MisconfigurationException(
                f"Curves: two of them would draw {self.filename}; give each a filename of its own"
            )

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Ask for the folder while all processes take part: one that fails later is alone."""
        self._folder = Path(trainer.log_dir or trainer.default_root_dir)

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget epochs that come again."""
        self.history = [point for point in self.history if point["epoch"] <= trainer.current_epoch]

    @override
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the values of the epoch before, and the learning rate that this one begins with."""
        self._take_training_values(trainer)
        self._ended = None
        point = self._point(trainer.current_epoch)
        groups = [group for optimizer in trainer.optimizers for group in optimizer.param_groups]
        if groups:  # a module may have no optimizer
            point["learning_rate"] = float(groups[0]["lr"])

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the values of a validation within the fit; the epoch's last one counts."""
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self._take(trainer, trainer.current_epoch, validation=True)

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note that the epoch is over; the module logs its values after this hook."""
        self._ended = trainer.current_epoch

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the last epoch's values."""
        self._take_training_values(trainer)
        self._ended = None

    @override
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw."""
        self._draw(trainer)

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Draw what there is."""
        if trainer.state.fn == TrainerFn.FITTING:
            self._take_training_values(trainer)
            self._draw(trainer)

    @override
    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Put the history into a checkpoint, with the values of an epoch that has just ended."""
        # state_dict has no trainer to ask for them
        self._take_training_values(trainer)
        checkpoint["callbacks"][self.state_key] = {"history": [dict(point) for point in self.history]}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint's history."""
        self.history = [dict(point) for point in state_dict["history"]]

    def _take_training_values(self, trainer: Trainer) -> None:
        if self._ended is not None:
            self._take(trainer, self._ended, validation=False)

    def _take(self, trainer: Trainer, epoch: int, *, validation: bool) -> None:
        # callback_metrics still holds the values of an older validation: hence each kind in its own time
        values = {
            name: float(value)
            for name, value in trainer.callback_metrics.items()
            if (is_loss(name) or is_accuracy(name)) and is_validation(name) is validation
        }
        if values:
            self._point(epoch).update(values)

    def _point(self, epoch: int) -> dict[str, float]:
        """The epoch's entry in the history; a new one if it has none."""
        for point in reversed(self.history):
            if point["epoch"] == epoch:
                return point
        self.history.append({"epoch": epoch})
        return self.history[-1]

    def _draw(self, trainer: Trainer) -> None:
        dry: bool = trainer.fast_dev_run  # type: ignore[attr-defined]  # a connector sets it
        if self._folder is None or dry or not trainer.is_global_zero:
            return
        if any(len(point) > 1 for point in self.history):
            with replacing(self._folder / self.filename) as path:
                draw_curves(self.history).savefig(path, dpi=150)
