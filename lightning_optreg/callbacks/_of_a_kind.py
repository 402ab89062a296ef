"""Several callbacks of one class in a trainer: each gets its own name, or the second is refused."""

from typing import ClassVar

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from typing_extensions import override

from lightning_optreg.trainer.queries import callbacks_of

__all__ = ["OfAKind"]


class OfAKind(Callback):
    """Base of callbacks that number themselves among those of their class in the trainer's list.

    The first one has the same names as a single one. The second one logs under `optreg/<part>-1/<quantity>`
    and has the state `<class>-1` in checkpoints, and so on, by their order in the list, which a resumed run
    should keep.
    """

    only_one: ClassVar[str | None] = None
    """Why a trainer can't have two of them. None: it can."""

    must_differ: ClassVar[tuple[str, str] | None] = None
    """An argument that two of them must not share, and what they would both do to its value."""

    _number = 0  # among those of the class
    _place: int | None = None  # among those whose state has the same key

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the number of this callback, and refuse a second one that conflicts with it."""
        super().setup(trainer, pl_module, stage)
        callbacks = callbacks_of(trainer)
        if self.only_one is not None:
            family = next(cls for cls in type(self).__mro__ if "only_one" in vars(cls))
            if sum(isinstance(callback, family) for callback in callbacks) > 1:
                raise MisconfigurationException(
                    f"{family.__name__}: a trainer can have only one of them, {self.only_one}; remove the "
                    "others"
                )
        if self.must_differ is not None:
            argument, action = self.must_differ
            family = next(cls for cls in type(self).__mro__ if "must_differ" in vars(cls))
            own = getattr(self, argument)
            if [getattr(each, argument) for each in callbacks if isinstance(each, family)].count(own) > 1:
                raise MisconfigurationException(
                    f"{family.__name__}: two of them would {action} {own}; use a different {argument} for "
                    "each"
                )
        before: list[OfAKind] = []
        for callback in callbacks:
            if callback is self:
                break
            if type(callback) is type(self):
                before.append(callback)
        else:  # called directly, with a trainer that does not have it
            before = []
        self._number = len(before)
        self._place = sum(each._own_key == self._own_key for each in before)
        if stage == "fit":
            self.begin_fit()

    def begin_fit(self) -> None:
        """Forget an earlier fit; a checkpoint's state comes after this. Nothing by default."""

    @property
    def _own_key(self) -> str:
        return super().state_key

    @property
    def state_key(self) -> str:
        """Name of its state in checkpoints."""
        if self._place is None:  # Lightning compares keys before it calls `setup`
            return f"{self._own_key}-{id(self)}"
        return f"{self._own_key}-{self._place}" if self._place else self._own_key

    def _log_path(self, part: str) -> str:
        """Return the prefix of its quantities in the logs."""
        return f"optreg/{part}-{self._number}" if self._number else f"optreg/{part}"
