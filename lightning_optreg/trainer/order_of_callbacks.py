"""Act before or after all other callbacks in a hook."""

from collections.abc import Callable
from typing import Literal

from lightning.pytorch import Callback, LightningModule, Trainer
from typing_extensions import override

from lightning_optreg.trainer.queries import callbacks_of

__all__ = ["AfterOthers", "put_before", "put_first", "put_last", "take_out"]


def put_first(trainer: Trainer, callback: Callback) -> None:
    """Make a callback the first one of a trainer; call this before `setup`, as a strategy can."""
    take_out(trainer, callback)
    callbacks_of(trainer).insert(0, callback)


def put_last(trainer: Trainer, callback: Callback) -> None:
    """Make a callback the last one of a trainer; call this in `setup` of an earlier callback."""
    take_out(trainer, callback)
    callbacks_of(trainer).append(callback)


def put_before(trainer: Trainer, callback: Callback, kind: type[Callback]) -> None:
    """Make a callback the next before the first one of a kind; the last one if there is none of the kind."""
    take_out(trainer, callback)
    callbacks = callbacks_of(trainer)
    places = [place for place, other in enumerate(callbacks) if isinstance(other, kind)]
    callbacks.insert(places[0] if places else len(callbacks), callback)


def take_out(trainer: Trainer, callback: Callback) -> None:
    """Remove a callback from a trainer, if it is there."""
    callbacks = callbacks_of(trainer)
    if callback in callbacks:
        callbacks.remove(callback)


class AfterOthers(Callback):
    """Runs an action after the other callbacks in a hook.

    In `on_train_start` others may change the same settings; in `on_exception` some of them save checkpoints.

    Args:
        hook: The hook.
        act: Called with the trainer and the module.
    """

    def __init__(
        self,
        hook: Literal["on_train_start", "on_exception"],
        act: Callable[[Trainer, LightningModule], None],
    ) -> None:
        self.hook, self.act = hook, act

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.hook == "on_train_start":
            self.act(trainer, pl_module)

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if self.hook == "on_exception":
            self.act(trainer, pl_module)
