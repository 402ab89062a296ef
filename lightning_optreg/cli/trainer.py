"""Lightning's Trainer for the command line: other names for callbacks, checkpoints written whole."""

from typing import Any

import lightning.pytorch as pl
from lightning.pytorch import Callback
from lightning.pytorch.plugins.io import AsyncCheckpointIO, CheckpointIO, TorchCheckpointIO
from lightning.pytorch.strategies import Strategy

from lightning_optreg.callbacks import EarlyStopping
from lightning_optreg.runs import AtomicCheckpointIO

__all__ = ["Trainer"]


class Trainer(pl.Trainer):
    """Lightning's Trainer, where `EarlyStopping` means this package's and checkpoints are written whole.

    Lightning has a class of that name, which ours extends, and jsonargparse takes a short name for no class
    if two have it. Types of a union are tried in their order.

    `AtomicCheckpointIO` stands in for Lightning's `TorchCheckpointIO` unless a `CheckpointIO` is given, by
    `plugins` or with the strategy; an `AsyncCheckpointIO` that is given gets it inside.

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
        plugins, strategy = kwargs.get("plugins"), kwargs.get("strategy")
        given = plugins if isinstance(plugins, list) else [plugins]
        for plugin in given:
            if isinstance(plugin, AsyncCheckpointIO) and plugin.checkpoint_io is None:
                plugin.checkpoint_io = AtomicCheckpointIO()
        super().__init__(callbacks=callbacks, **kwargs)
        # Private in Lightning 2.6: the public property makes a TorchCheckpointIO where none was given.
        has_own = isinstance(strategy, Strategy) and strategy._checkpoint_io is not None
        if has_own or any(isinstance(plugin, CheckpointIO) for plugin in given):
            return
        if type(self.strategy.checkpoint_io) is TorchCheckpointIO:
            self.strategy.checkpoint_io = AtomicCheckpointIO()
