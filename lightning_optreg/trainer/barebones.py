"""Trainers that log nothing, for callbacks that look at logged values."""

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer

__all__ = ["refuse_barebones"]


def refuse_barebones(trainer: Trainer, part: str, monitor: str) -> None:
    """Refuse `Trainer(barebones=True)`, before the value is missed at the end of the first epoch.

    Args:
        trainer: The trainer.
        part: Name of the class that asks.
        monitor: The value that it looks at.

    Raises:
        MisconfigurationException: If the trainer is a barebones one.
    """
    if trainer.barebones:
        raise MisconfigurationException(
            f"{part}: a barebones trainer logs nothing, so there is no {monitor!r} to look at; set barebones "
            "to false"
        )
