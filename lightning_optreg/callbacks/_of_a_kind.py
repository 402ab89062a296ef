"""Several callbacks of one class in a trainer: each with a name of its own, or refused in a sentence."""

from typing import ClassVar

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from typing_extensions import override

from lightning_optreg.trainer.queries import callbacks_of

__all__ = ["OfAKind"]


class OfAKind(Callback):
    """Base of callbacks that know which of their class they are in the trainer's list.

    The first one has the names that it would have alone. The second one logs under
    `optreg/<part>-1/<quantity>` and has the state `<class>-1` in checkpoints, and so on, by their order in
    the list, which a resumed run should keep.
    """

    only_one: ClassVar[str | None] = None
    """Why a trainer can't have two of them. None: it can."""

    _number = 0  # among those of the class
    _place: int | None = None  # among those whose state would have the same key

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find out which one this is, and refuse a second one where there can be one only."""
        super().setup(trainer, pl_module, stage)
        callbacks = callbacks_of(trainer)
        if self.only_one is not None:
            family = next(cls for cls in type(self).__mro__ if "only_one" in vars(cls))
            if sum(isinstance(callback, family) for callback in callbacks) > 1:
                raise MisconfigurationException(
                    f"{family.__name__}: a trainer can have one of them only, {self.only_one}; leave one out"
                )
        before: list[OfAKind] = []
        for callback in callbacks:
            if callback is self:
                break
            if type(callback) is type(self):
                before.append(callback)
        else:  # it is called by hand, for a trainer that does not have it
            before = []
        self._number = len(before)
        self._place = sum(each._own_key == self._own_key for each in before)

    @property
    def _own_key(self) -> str:
        return super().state_key

    @property
    def state_key(self) -> str:
        """Name of its state in checkpoints."""
        if self._place is None:  # Lightning compares keys before it tells callbacks of the trainer
            return f"{self._own_key}-{id(self)}"
        return f"{self._own_key}-{self._place}" if self._place else self._own_key

    def _log_path(self, part: str) -> str:
        """Where in the logs its quantities are."""
        return f"optreg/{part}-{self._number}" if self._number else f"optreg/{part}"
