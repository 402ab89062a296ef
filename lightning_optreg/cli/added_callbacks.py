"""Callbacks that a command adds to those of the configuration, or leaves out."""

from collections.abc import Sequence
from pathlib import Path

from lightning.pytorch import Callback
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from lightning_optreg.callbacks import PredictionWriter
from lightning_optreg.files import is_writable
from lightning_optreg.places import Place

__all__ = ["prediction_writer", "without_validation"]


def prediction_writer(folder: Place, *, is_read_only: bool) -> PredictionWriter:
    """Make the callback that writes to the run's folder, or to the current one if that is read-only.

    Args:
        folder: The run's folder.
        is_read_only: Whether nothing can be written to it.

    Raises:
        ValueError: If nothing can be written to the current folder either, or the file exists there.
    """
    if not is_read_only:
        return PredictionWriter()
    path = Path.cwd() / "predictions.csv"
    if path.exists() or not is_writable(path.parent):
        raise ValueError(
            f"predict: {folder} can't be written to, and {path} "
            f"{'is there already' if path.exists() else 'neither'}; name a file with "
            "--trainer.callbacks+=PredictionWriter --trainer.callbacks.path=FILE.csv"
        )
    rank_zero_warn(f"{folder} can't be written to: the predictions go to {path}")
    return PredictionWriter(str(path))


def without_validation(callbacks: Sequence[Callback]) -> list[Callback]:
    """Leave out, and say so, callbacks that watch a metric of a validation that does not take place.

    Args:
        callbacks: The callbacks of a fit without validation.
    """
    watched = {callback: str(getattr(callback, "monitor", None)) for callback in callbacks}
    for callback, metric in watched.items():
        if metric.startswith("val/"):
            name = type(callback).__name__
            rank_zero_info(f"there is no validation: {name}, which watches {metric}, is left out")
    return [callback for callback, metric in watched.items() if not metric.startswith("val/")]
