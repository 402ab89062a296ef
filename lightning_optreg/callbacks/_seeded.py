"""What callbacks draw from the run's seed goes on with that seed in a resumed run that is given another."""

from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from typing_extensions import override

from lightning_optreg.callbacks._of_a_kind import OfAKind
from lightning_optreg.randomness.draws import mix
from lightning_optreg.randomness.run_seed import RunSeed
from lightning_optreg.trainer.queries import callbacks_of
from lightning_optreg.trainer.roles import TurnsNoiseOff

__all__ = ["SeededCallback"]

_KEY = "lightning_optreg_seeds"


class SeededCallback(OfAKind):
    """Base of callbacks that draw from a seed of their own or from the run's, which checkpoints keep.

    Not in the callback's state: Lightning refuses two callbacks of a kind whose states have the same key.

    Args:
        seed: Its own seed. None: the number given to `seed_everything` when the run began, else 0.
    """

    def __init__(self, seed: int | None) -> None:
        self.run_seed = RunSeed(seed)

    @property
    def seed_of_draws(self) -> int:
        """What it draws from: a second one of its class, of the run's seed, draws other numbers."""
        if self._number == 0 or self.run_seed.given is not None:
            return self.run_seed.value
        return mix(self.run_seed.value, self._number)

    @property
    def is_noise(self) -> bool:
        """Whether training steps are random because of it."""
        return True

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Agree on a seed; refuse to be noise where there shall be none."""
        self.run_seed.settle(trainer)
        for callback in callbacks_of(trainer) if self.is_noise else ():
            if isinstance(callback, TurnsNoiseOff) and (callback.augmentation or callback.layers):
                raise MisconfigurationException(
                    f"{type(self).__name__}: it makes the steps of training random, which "
                    f"{type(callback).__name__} excludes; leave one out"
                )

    @override
    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep the seed."""
        checkpoint.setdefault(_KEY, {})[self._name] = self.run_seed.value

    @override
    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Go on with it, unless another one is given."""
        before = checkpoint.get(_KEY, {}).get(self._name)
        if before is not None:
            self.run_seed.load(before, type(self).__name__)

    @property
    def _name(self) -> str:
        return f"{type(self).__name__}-{self._number}"
