"""Lightning's Trainer, for whose callbacks the command line prefers this package's names."""

from typing import Any

import lightning.pytorch as pl
from lightning.pytorch import Callback

from lightning_optreg.callbacks import EarlyStopping

__all__ = ["Trainer"]


class Trainer(pl.Trainer):
    """Lightning's Trainer with another annotation: `EarlyStopping` means this package's.

    Lightning has a class of that name, which ours extends, and jsonargparse takes a short name for no class
    if two have it. Types of a union are tried in their order.

    Args:
        callbacks: See Lightning's Trainer.
        kwargs: All else.

    Example:
        >>> Trainer(accelerator="cpu", logger=False).max_epochs
    """

    def __init__(
        self,
        *,
        callbacks: list[EarlyStopping | Callback] | EarlyStopping | Callback | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(callbacks=callbacks, **kwargs)
