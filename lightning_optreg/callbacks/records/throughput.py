"""Measure the speed of a fit: images per second of training, and the time of validation."""

import json
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.data import extract_batch_size
from typing_extensions import override

from lightning_optreg.callbacks._of_a_kind import OfAKind
from lightning_optreg.files import replacing
from lightning_optreg.places import place_of
from lightning_optreg.randomness.processes import share_of
from lightning_optreg.trainer.queries import validates_in_fit
from lightning_optreg.trainer.roles import OnlyRecords
from lightning_optreg.trainer.stopwatch import Stopwatch

__all__ = ["Throughput"]


class Throughput(OnlyRecords, OfAKind):
    """Time a fit, print the result at its end and write it to `throughput.json` in the logger's folder.

    The clock runs from the first training step to the end of the fit, without validation, which is timed
    separately. Start-up and the sanity check are left out. A resumed run adds its time to that in the
    checkpoint. Nothing is logged: times differ from run to run, and the logs of a repeated run should be the
    same.

    Attributes:
        images: Images trained on, counting repetitions: those of this process times the number of
            processes, unless these share a batch.
        seconds: Seconds of training.
        validation_seconds: Seconds of validation.

    Example:
        >>> speed = Throughput()
        >>> speed.images, speed.seconds = 120_000, 15.0
        >>> speed.images_per_second
        8000.0
    """

    only_one = "as another would overwrite its file"

    def __init__(self) -> None:
        self.images = 0
        self.seconds = 0.0
        self.validation_seconds = 0.0
        self._watch = Stopwatch()

    @property
    def images_per_second(self) -> float:
        """Images per second of training; 0 before the first step."""
        return self.images / self.seconds if self.seconds else 0.0

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._watch.start()

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the batch's images."""
        self.images += extract_batch_size(batch) * share_of(trainer)[1]

    @override
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Switch the clock to validation."""
        if validates_in_fit(trainer):
            self.seconds += self._watch.lap()

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Switch the clock back to training."""
        if validates_in_fit(trainer):
            self.validation_seconds += self._watch.lap()

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock; print and write the result."""
        self.seconds += self._watch.stop()
        folder = trainer.log_dir  # asks all processes
        if not trainer.is_global_zero:
            return
        rank_zero_info(
            f"Trained on {self.images:,} images in {self.seconds:.1f} s, "
            f"{self.images_per_second:,.0f} images/s, and validated for {self.validation_seconds:.1f} s"
        )
        if folder is None or not trainer.loggers:
            return
        result = {
            "images": self.images,
            "seconds": round(self.seconds, 3),
            "validation_seconds": round(self.validation_seconds, 3),
            "images_per_second": round(self.images_per_second, 1),
        }
        with replacing(place_of(folder) / "throughput.json") as path:
            path.write_text(json.dumps(result, indent=2) + "\n")

    @override
    def state_dict(self) -> dict[str, Any]:
        """Return the counts so far."""
        self.seconds += self._watch.lap()
        return {
            "images": self.images,
            "seconds": self.seconds,
            "validation_seconds": self.validation_seconds,
        }

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the counts."""
        self.images = state_dict["images"]
        self.seconds = state_dict["seconds"]
        self.validation_seconds = state_dict["validation_seconds"]
