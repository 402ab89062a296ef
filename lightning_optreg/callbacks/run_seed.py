"""What callbacks draw from the run's seed goes on with that seed in a resumed run that is given another."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from typing_extensions import override

from lightning_optreg.data.processes import RunSeed

__all__ = ["SeededCallback"]

_KEY = "lightning_optreg_seeds"


class SeededCallback(Callback):
    """Base of callbacks that draw from a seed of their own or from the run's, which checkpoints keep.

    Not in the callback's state: Lightning refuses two callbacks of a kind whose states have the same key.

    Args:
        seed: Its own seed. None: the number given to `seed_everything` when the run began, else 0.
    """

    def __init__(self, seed: int | None) -> None:
        self.run_seed = RunSeed(seed)

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Agree on a seed."""
        self.run_seed.settle(trainer)

    @override
    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep the seed."""
        checkpoint.setdefault(_KEY, {})[self._name(trainer)] = self.run_seed.value

    @override
    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Go on with it, unless another one is given."""
        before = checkpoint.get(_KEY, {}).get(self._name(trainer))
        if before is not None:
            self.run_seed.load(before, type(self).__name__)

    def _name(self, trainer: Trainer) -> str:
        callbacks = trainer.callbacks  # type: ignore[attr-defined]  # a connector sets it
        alike = [callback for callback in callbacks if type(callback) is type(self)]
        return f"{type(self).__name__}-{alike.index(self)}"
