"""Draw the learning curves into the run's folder, without a logger."""

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from typing_extensions import override

from lightning_optreg.callbacks._of_a_kind import OfAKind
from lightning_optreg.figures.learning_curves import draw_curves, is_accuracy, is_loss, is_validation
from lightning_optreg.files import check_inside, replacing
from lightning_optreg.places import Place, place_of
from lightning_optreg.trainer.queries import is_dry_run, validates_in_fit
from lightning_optreg.trainer.roles import OnlyRecords

__all__ = ["Curves"]


class Curves(OnlyRecords, OfAKind):
    """Draw loss, accuracy and learning rate over the epochs when a fit ends or is stopped.

    It uses the metrics that the module logs per epoch: those with `loss` or `acc` in their names (with `val`:
    from validation), and the learning rate at the start of the epoch, of the first optimizer's first
    parameter group. It does nothing in a step. The picture of a resumed run is complete.

    Args:
        filename: Path of the picture in the run's folder, ending in .png, .svg or .pdf; it may have
            subfolders, but can't leave the run's folder. Default: `curves.png`.

    Attributes:
        history: For each epoch its number `epoch`, its metrics and its `learning_rate`; see `draw_curves`.

    Raises:
        ValueError: If filename has another ending or would leave the run's folder.
        MisconfigurationException: At the start of a fit, if another `Curves` has the same filename.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[Curves()], accelerator="cpu", logger=False)
    """

    must_differ = ("filename", "draw")

    def __init__(self, filename: str = "curves.png") -> None:
        if not str(filename).endswith((".png", ".svg", ".pdf")):
            raise ValueError(
                f"Curves: filename must be a name ending in .png, .svg or .pdf, got {filename!r}"
            )
        self.filename = check_inside(filename, "Curves: filename")
        self.history: list[dict[str, float]] = []
        self._ended: int | None = None  # an ended epoch whose last values are not logged yet
        self._folder: Place | None = None  # None before the fit begins

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the folder now: this needs all processes, and one that fails later is alone."""
        self._folder = place_of(trainer.log_dir or trainer.default_root_dir)

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget epochs that are repeated."""
        self.history = [point for point in self.history if point["epoch"] <= trainer.current_epoch]

    @override
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Store the values of the previous epoch, and the learning rate at the start of this one."""
        self._take_training_values(trainer)
        self._ended = None
        point = self._point(trainer.current_epoch)
        groups = [group for optimizer in trainer.optimizers for group in optimizer.param_groups]
        if groups:  # a module may have no optimizer
            point["learning_rate"] = float(groups[0]["lr"])

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Store the values of a validation within the fit; the epoch's last one counts."""
        if validates_in_fit(trainer):
            self._take(trainer, trainer.current_epoch, validation=True)

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note that the epoch is over; the module logs its values after this hook."""
        self._ended = trainer.current_epoch

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Store the last epoch's values."""
        self._take_training_values(trainer)
        self._ended = None

    @override
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the curves."""
        self._draw(trainer)

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Draw the curves so far."""
        if trainer.state.fn == TrainerFn.FITTING:
            self._take_training_values(trainer)
            self._draw(trainer)

    @override
    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Save the history in a checkpoint, with the values of an epoch that has just ended."""
        # state_dict has no access to the trainer's values
        self._take_training_values(trainer)
        checkpoint["callbacks"][self.state_key] = {"history": [dict(point) for point in self.history]}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the history."""
        self.history = [dict(point) for point in state_dict["history"]]

    def _take_training_values(self, trainer: Trainer) -> None:
        if self._ended is not None:
            self._take(trainer, self._ended, validation=False)

    def _take(self, trainer: Trainer, epoch: int, *, validation: bool) -> None:
        # callback_metrics still has the values of an older validation, so the two kinds are read separately
        values = {
            name: float(value)
            for name, value in trainer.callback_metrics.items()
            if (is_loss(name) or is_accuracy(name)) and is_validation(name) is validation
        }
        if values:
            self._point(epoch).update(values)

    def _point(self, epoch: int) -> dict[str, float]:
        """Return the epoch's entry in the history; a new one if there is none."""
        for point in reversed(self.history):
            if point["epoch"] == epoch:
                return point
        self.history.append({"epoch": epoch})
        return self.history[-1]

    def _draw(self, trainer: Trainer) -> None:
        dry = is_dry_run(trainer)
        if self._folder is None or dry or not trainer.is_global_zero:
            return
        if any(len(point) > 1 for point in self.history):
            with replacing(self._folder / self.filename) as path:
                draw_curves(self.history).savefig(path, dpi=150)
