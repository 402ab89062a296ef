"""Ranges of settings that Lightning takes as they are, and then fails late or does something else."""

from typing import Any

from jsonargparse import Namespace

__all__ = ["check_ranges"]

_AT_LEAST = {
    "seed_everything": 0,
    "trainer.accumulate_grad_batches": 1,
    "trainer.check_val_every_n_epoch": 1,
    "trainer.gradient_clip_val": 0,
    "trainer.log_every_n_steps": 0,
}


def check_ranges(settings: Namespace) -> None:
    """Refuse settings that are out of their range.

    Args:
        settings: The parsed configuration of a command.

    Raises:
        ValueError: With the key, what is allowed and the value.

    Example:
        >>> check_ranges(Namespace({"trainer.accumulate_grad_batches": 0}))
        Traceback (most recent call last):
        ValueError: trainer.accumulate_grad_batches must be >= 1, got 0
    """
    for key, low in _AT_LEAST.items():
        value: Any = settings.get(key)
        if value is not None and not value >= low:
            raise ValueError(f"{key} must be >= {low}, got {value}")
