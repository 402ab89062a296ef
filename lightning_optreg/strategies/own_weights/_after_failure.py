"""What is left to do in a process that an exception has ended, while the others may be anywhere."""

from collections.abc import Iterator
from typing import Any, TypeVar

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor
from typing_extensions import override

from lightning_optreg.places import place_of
from lightning_optreg.trainer.queries import callbacks_of
from lightning_optreg.trainer.roles import OwnWeights

__all__ = ["EndsAlone", "reaches_all"]

Anything = TypeVar("Anything")


def reaches_all(exception: BaseException) -> bool:
    """Whether all processes end with this exception, at one place of the run, so that they can still save."""
    return isinstance(exception, SIGTERMException | KeyboardInterrupt)


class EndsAlone(DDPStrategy, OwnWeights):
    """Communicates with nobody after an exception, and saves no checkpoint, which would need the others."""

    _muted: tuple[ModelCheckpoint, ...] = ()

    @property
    def its_trainer(self) -> Trainer:
        """The trainer of the run."""
        assert self.lightning_module is not None  # connected before anything else
        return self.lightning_module.trainer

    @override
    def setup_environment(self) -> None:
        self.is_alone = False
        super().setup_environment()

    def end_alone(self) -> None:
        """From now on communicate with nobody: the others are elsewhere, and would wait or answer wrongly."""
        self.is_alone = True
        # They would save now, and remove an older checkpoint or its link in exchange.
        self._muted = tuple(each for each in _savers(self.its_trainer) if each.save_on_exception)
        for callback in self._muted:
            callback.save_on_exception = False
        if self._muted:
            self.warn_of_no_checkpoint()

    def warn_of_no_checkpoint(self) -> None:
        """Say why no checkpoint is saved, and which to continue from."""
        path = _newest_checkpoint(self.its_trainer)
        rank_zero_warn(
            f"{type(self).__name__}: no checkpoint is saved after the exception, as it needs each worker's "
            "weights and the other processes may be gone or elsewhere; "
            + (f"continue from {path}" if path else "there is no earlier one to continue from")
        )

    @override
    def teardown(self) -> None:
        for callback in self._muted:
            callback.save_on_exception = True
        self._muted = ()
        super().teardown()

    @override
    def barrier(self, *args: Any, **kwargs: Any) -> None:
        if not self.is_alone:
            super().barrier(*args, **kwargs)

    @override
    def broadcast(self, obj: Anything, src: int = 0) -> Anything:
        return obj if self.is_alone else super().broadcast(obj, src)

    @override
    def reduce(self, tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return tensor if self.is_alone else super().reduce(tensor, *args, **kwargs)

    @override
    def remove_checkpoint(self, filepath: Any) -> None:
        if not self.is_alone:  # nothing has been saved in its place
            super().remove_checkpoint(filepath)


def _newest_checkpoint(trainer: Trainer) -> str | None:
    """Return the checkpoint that was written last and is still there, else the one the run began with."""
    paths = (path for each in _savers(trainer) for path in (each.last_model_path, each.best_model_path))
    there = [place for path in paths if path and (place := place_of(path)).exists()]
    if there:
        return str(max(there, key=lambda place: place.stat().st_mtime))
    return None if trainer.ckpt_path is None else str(trainer.ckpt_path)


def _savers(trainer: Trainer) -> Iterator[ModelCheckpoint]:
    return (each for each in callbacks_of(trainer) if isinstance(each, ModelCheckpoint))
