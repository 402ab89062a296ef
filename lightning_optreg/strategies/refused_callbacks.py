"""Find Lightning's callbacks that a strategy refuses."""

from collections.abc import Iterator, Mapping

from lightning.pytorch import Callback, Trainer

from lightning_optreg.trainer.queries import callbacks_of

__all__ = ["refused"]


def refused(trainer: Trainer, reasons: Mapping[type[Callback], str]) -> Iterator[tuple[str, str]]:
    """Yield the class name of each callback that is refused, and the reason for its kind.

    Args:
        trainer: The trainer.
        reasons: Classes, each with the reason; subclasses are refused too.
    """
    for callback in callbacks_of(trainer):
        for kind, reason in reasons.items():
            if isinstance(callback, kind):
                yield type(callback).__name__, reason
