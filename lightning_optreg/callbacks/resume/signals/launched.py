"""Processes that Lightning's multiprocessing launcher starts: `ddp_fork`, `ddp_spawn` and `ddp_notebook`.

Lightning 2.6 catches exceptions in the process that launched them only. In the launched ones nobody is told
that they are being stopped, and as SystemExit they end with status 0; the launching one then waits for good
for what they would have returned. Here they do for themselves what Lightning does elsewhere, and leave with a
status that is not 0, which torch reports to the launching process.
"""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from lightning.pytorch import LightningModule, Trainer

# There is no public name to tell launchers apart by (Lightning 2.6).
from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher
from lightning.pytorch.trainer.states import TrainerStatus

from lightning_optreg.callbacks.resume.signals._signal_watch import SignalWatch
from lightning_optreg.trainer.queries import callbacks_of, datamodule_of

__all__ = ["Interrupt", "is_launched", "pass_on_sigterm", "wind_up"]


# Seconds. Linux sends the signal when the launching thread is gone, maybe before the last one of its process.
_DYING = 1.0


def is_launched(trainer: Trainer) -> bool:
    """Tell whether the trainer's hooks run in processes that a multiprocessing launcher has started."""
    return isinstance(trainer.strategy.launcher, _MultiProcessingLauncher)


def wind_up(trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
    """Tell all parts that the run ends here, as Lightning does where it catches exceptions itself."""
    trainer.state.status = TrainerStatus.INTERRUPTED
    for callback in list(callbacks_of(trainer)):
        callback.on_exception(trainer, pl_module, exception)
    datamodule = datamodule_of(trainer)
    if datamodule is not None:
        datamodule.on_exception(exception)
    trainer.strategy.on_exception(exception)
    for logger in trainer.loggers:
        logger.finalize("failed")


class Interrupt:
    """A handler of SIGINT, which torch sends to launched processes when the launching one has died.

    Args:
        on_orphaned: Called then. Otherwise, as after Ctrl+C, the process ends with status 130: torch takes a
            KeyboardInterrupt for a success.
    """

    def __init__(self, on_orphaned: Callable[[], None]) -> None:
        self._on_orphaned = on_orphaned
        self._process, self._parent = os.getpid(), os.getppid()

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Handle the signal."""
        if os.getpid() != self._process:  # forked from it, a loader's worker for one
            signal.default_int_handler(number, frame)
        end = time.monotonic() + _DYING
        while os.getppid() == self._parent:
            if time.monotonic() > end:
                raise SystemExit(128 + number)
            time.sleep(0.01)
        self._on_orphaned()


class _PassOn:
    """A handler that sends SIGTERM to the processes started from this one, which end it by ending."""

    def __call__(self, number: int, frame: FrameType | None) -> None:
        children = multiprocessing.active_children()
        if not children:  # not launched yet, or through: nothing to wait for
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        for child in children:
            child.terminate()


@contextmanager
def pass_on_sigterm(trainer: Trainer, seconds: float) -> Iterator[None]:
    """In the launching process, let a SIGTERM reach the launched ones, and wait until they have ended.

    Without it the launching process dies at once; the launched ones save nonetheless, but what waits for the
    job may take it for ended. Other trainers, and a process with a handler of its own, are left alone.

    Args:
        trainer: The trainer that will launch.
        seconds: After this long all of them are killed, above 0.

    Example:
        >>> with pass_on_sigterm(Trainer(accelerator="cpu", logger=False), seconds=60.0):
        ...     pass
    """
    alone = threading.current_thread() is not threading.main_thread() or not is_launched(trainer)
    if alone or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    watch = SignalWatch(
        {signal.SIGTERM: 128 + signal.SIGTERM},
        seconds,
        at_the_end=_kill_children,
        sentence="The processes of this run have not ended; they are killed",
    )
    signal.signal(signal.SIGTERM, _PassOn())
    watch.start()
    try:
        yield
    finally:
        watch.close()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _kill_children() -> None:
    for child in multiprocessing.active_children():
        child.kill()


def _begin_as_child() -> None:
    # Lightning would call it as the handler that it found in place.
    if isinstance(signal.getsignal(signal.SIGTERM), _PassOn):
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_as_child)
