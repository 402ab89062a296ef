"""The seed that all processes of a run share."""

import os

from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_warn

__all__ = ["RunSeed", "run_seed"]


def run_seed(given: int | None, trainer: Trainer | None) -> int:
    """Return the seed for numbers that all processes must share: that of rank 0.

    Scripts that call `seed_everything(seed + rank)` have a different one in each process. All processes must
    call it together, once the trainer has started them.

    Args:
        given: A part's own seed. None: the number given to `seed_everything`, else 0.
        trainer: The trainer; None for a single process.

    Example:
        >>> run_seed(7, None)
        7
    """
    seed = int(os.environ.get("PL_GLOBAL_SEED", "0")) if given is None else given
    return seed if trainer is None else int(trainer.strategy.broadcast(seed))


class RunSeed:
    """The seed of a part: its own, or else the run's, which stays the same in a resumed run.

    Args:
        given: The part's own seed. None: the run's.

    Example:
        >>> seed = RunSeed(None)
        >>> seed.load(7, "MixUp")
        >>> seed.value
        7
    """

    def __init__(self, given: int | None) -> None:
        self.given = given
        self.value = 0 if given is None else given
        self._loaded: int | None = None

    def load(self, before: int, owner: str) -> None:
        """Continue with the seed of the checkpoint's run, unless another one is given.

        Args:
            before: The seed of the checkpoint's run.
            owner: Name of the class that draws, for the warning if another seed is given.
        """
        self._loaded = before
        if self.given is not None and self.given != before:
            rank_zero_warn(
                f"{owner}: it draws from seed {self.given}, as given; in the checkpoint's run it drew from "
                f"{before}."
            )
        if self.given is None:
            self.value = before  # for strategies that load checkpoints late

    def settle(self, trainer: Trainer | None) -> int:
        """Agree with the other processes when a fit begins, and return the seed."""
        seed = self.given
        if (
            seed is None
            and self._loaded is not None
            and trainer is not None
            and trainer.ckpt_path is not None
        ):
            seed = self._loaded
        self.value = run_seed(seed, trainer)
        return self.value
