"""Handle SIGTERM, and the signal of SLURM's requeue, in all processes at the same place in the loop.

Lightning 2.6 acts on both in the signal's handler, whatever a process is doing: a SIGTERM broadcasts there,
and a requeue saves a checkpoint there. Signals reach the processes milliseconds apart, so one process may
enter this collective operation while another is in one of its batch, and both wait forever.

Here a handler only takes a note. At the end of each training batch, validation and epoch the processes find
out by one small reduction on the CPU whether any of them has one, and call Lightning's handler together. From
then on Lightning stops as usual, in every process; processes that Lightning has forked or spawned stop by
themselves (`launched.py`).
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor
from typing_extensions import override

from lightning_optreg.callbacks._let_go import LetsGo
from lightning_optreg.callbacks.resume._loaders_resumed import collect_randomness
from lightning_optreg.callbacks.resume.progress.loop_progress import is_last_epoch, validation_is_due
from lightning_optreg.callbacks.resume.signals._signal_watch import SignalWatch
from lightning_optreg.callbacks.resume.signals.launched import Interrupt, is_launched, wind_up
from lightning_optreg.trainer.queries import callbacks_of
from lightning_optreg.trainer.roles import NotesSignals

__all__ = ["StopSignals", "exit_status"]

_Handler = Callable[[int, FrameType | None], Any] | int | None


class StopSignals(LetsGo, NotesSignals):
    """Lets all processes act on a signal at the same place; `ExactResume` puts it last among the callbacks.

    Args:
        seconds: With several processes, how long after a signal a process waits for an answer from the others
            before it ends itself, above 0.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.stopping = False  # whether all processes have agreed to stop
        self.randomness_before_validation: dict[str, Any] | None = None
        self._received: set[int] = set()
        self._theirs: dict[int, _Handler] = {}
        self._group: Any = None
        self._watch: SignalWatch | None = None
        self._undisturbed: Any = None
        self._buffers: list[Tensor] = []
        self._in_step = True

    def __reduce__(self) -> tuple[type["StopSignals"], tuple[float]]:
        return StopSignals, (
            self.seconds,
        )  # whoever copies a module copies its trainer; a watch is a process's

    @property
    @override
    def told_to_stop(self) -> bool:
        return signal.SIGTERM in self._received

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.stopping = False
        self._received.clear()
        self._theirs.clear()
        self._group = None
        alone = not (trainer.world_size > 1 and dist.is_available() and dist.is_initialized())
        if alone and not is_launched(trainer):
            return  # it waits for nobody: nothing to agree on, no time to limit
        if not alone:
            self._group = dist.new_group(backend="gloo")
        if threading.current_thread() is threading.main_thread():
            launcher = trainer.strategy.launcher
            statuses = {} if alone else {int(signal.SIGTERM): 128 + signal.SIGTERM}
            if not alone and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
                statuses[signal.SIGINT] = 128 + signal.SIGINT
            self._watch = SignalWatch(
                statuses,
                self.seconds,
                at_the_end=lambda: launcher.kill(signal.SIGKILL) if launcher is not None else None,
                sentence=f"ExactResume: process {trainer.global_rank} has no answer from the others and ends",
                on_orphaned=(lambda: self._received.add(signal.SIGTERM)) if _has_a_parent(trainer) else None,
            )
            self._watch.start()

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._act(trainer, pl_module)
        due = validation_is_due(trainer)
        self.randomness_before_validation = collect_randomness(trainer) if due else None

    def begin_validation(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note the state before the first callback changes anything for the validation."""
        if self.randomness_before_validation is None:
            # an unexpected validation, by the clock or before an early end
            self.randomness_before_validation = collect_randomness(trainer)
        self._undisturbed = _fingerprint(trainer, pl_module)
        self._buffers = _buffers(trainer, pl_module)
        lengths = torch.tensor([float(count) for count in trainer.num_val_batches])
        bounds = self._most(torch.cat([lengths, -lengths]))
        self._in_step = bool(torch.isfinite(lengths).all()) and torch.equal(
            bounds[: len(lengths)], -bounds[len(lengths) :]
        )

    @override
    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Interrupt a validation, if repeating it from its start gives the same result.

        It does not if a callback has changed the weights for it, or has already counted something: such a
        validation is finished first, as is one whose number of batches differs between processes.
        """
        if trainer.sanity_checking or not self._in_step or not self._agree()[0]:
            return
        disturbed = self._undisturbed != _fingerprint(trainer, pl_module) or not all(
            map(torch.equal, self._buffers, _buffers(trainer, pl_module))
        )
        if bool(self._most(torch.tensor([float(disturbed)]))):
            self._in_step = False
        else:
            self._stop(trainer, pl_module)

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._undisturbed, self._buffers = None, []
        if not trainer.sanity_checking:
            self._act(trainer, pl_module)

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._agree()[0] and not is_last_epoch(trainer):
            self._stop(trainer, pl_module)

    def restart(self) -> None:
        """Restart the countdown of the processes, for writing a checkpoint."""
        if self._watch is not None:
            self._watch.restart()

    @override
    def let_go(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._watch is not None:
            self._watch.close()
            self._watch = None

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().teardown(trainer, pl_module, stage)
        if self._group is not None:
            dist.destroy_process_group(self._group)
            self._group = None

    def take_over(self, trainer: Trainer) -> None:
        """Replace the handlers that Lightning has just registered by handlers that take a note.

        A signal between the two is handled by Lightning: several processes may then wait for each other until
        their time is over.
        """
        if threading.current_thread() is not threading.main_thread():
            return
        for number, handler in _lightnings_handlers().items():
            self._theirs[number] = handler
            signal.signal(number, _Note(self._received))
        if is_launched(trainer) and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, Interrupt(lambda: self._received.add(signal.SIGTERM)))
        if trainer.received_sigterm:
            self._received.add(signal.SIGTERM)

    def _act(self, trainer: Trainer, pl_module: LightningModule) -> None:
        stop, requeue = self._agree()
        if requeue:
            for number in self._theirs.keys() - {signal.SIGTERM}:
                self._received.discard(number)
                self._call_theirs(number)
        if stop:
            self._stop(trainer, pl_module)

    def _agree(self) -> tuple[bool, bool]:
        """Return whether any process was told to stop, and whether any was told to save for a requeue."""
        stop = signal.SIGTERM in self._received
        requeue = len(self._received) > stop
        if self._group is None:
            return stop, requeue
        told = self._most(torch.tensor([stop, requeue], dtype=torch.float))
        return bool(told[0]), bool(told[1])

    def _stop(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.stopping:
            return
        self.stopping = True
        self.restart()
        self._call_theirs(signal.SIGTERM)
        if is_launched(trainer):
            stop = SIGTERMException()
            stop.code = exit_status(trainer)
            wind_up(trainer, pl_module, stop)
            raise stop

    def _call_theirs(self, number: int) -> None:
        handler = self._theirs.get(number)
        if callable(handler):
            handler(number, None)

    def _most(self, values: Tensor) -> Tensor:
        """Return the largest of each value over all processes, which must call this at the same place."""
        if self._group is not None:
            try:
                dist.all_reduce(values, op=dist.ReduceOp.MAX, group=self._group)
            except RuntimeError as error:
                raise RuntimeError(
                    f"ExactResume: another process of this run has ended or does not answer ({error})"
                ) from error
        return values


class _Note:
    """A handler that takes a note, in the process it was created in."""

    def __init__(self, received: set[int]) -> None:
        self._received = received
        self._process = os.getpid()

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() == self._process:
            self._received.add(number)
        else:  # forked from it, such as a loader's worker: it ends as without the note
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)


def exit_status(trainer: Trainer) -> int:
    """Return a process's exit status after SIGTERM: 143, as in shells.

    A process that Lightning has started as a copy of the first one exits with 0: otherwise Lightning kills
    the first, whose status is the run's, within five seconds.
    """
    return 0 if _started_as_a_copy(trainer) else 128 + signal.SIGTERM


def _started_as_a_copy(trainer: Trainer) -> bool:
    environment = getattr(trainer.strategy, "cluster_environment", None)
    return (
        isinstance(environment, LightningEnvironment)
        and trainer.local_rank > 0
        and multiprocessing.parent_process() is None
    )


def _has_a_parent(trainer: Trainer) -> bool:
    """Return whether the process was started by another one of the run, or by a launcher that outlives it."""
    return trainer.local_rank > 0 or multiprocessing.parent_process() is not None


def _lightnings_handlers() -> dict[int, _Handler]:
    """Return Lightning's handlers: for SIGTERM and, with SLURM, for the signal of a requeue."""
    handlers = {int(number): signal.getsignal(number) for number in signal.valid_signals()}
    return {
        number: handler
        for number, handler in handlers.items()
        if type(handler).__module__.startswith("lightning.pytorch.")
    }


def _fingerprint(trainer: Trainer, pl_module: LightningModule) -> Any:
    """Return a value that changes if the weights or the state of a callback change."""
    states = [callback.state_dict() for callback in callbacks_of(trainer)]
    return [_plain(parameter) for parameter in pl_module.parameters()], _plain(states)


def _buffers(trainer: Trainer, pl_module: LightningModule) -> list[Tensor]:
    """Copy the buffers that a checkpoint would contain.

    By value, and only on rank 0: DDP overwrites the others with those of rank 0 in each forward pass, and
    checkpoints contain those of rank 0.
    """
    if not trainer.is_global_zero:
        return []
    return [buffer.detach().clone() for buffer in pl_module.buffers()]


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        # `_version` counts a tensor's changes in place; there is no public name for it (torch 2.14).
        return value.data_ptr(), value._version
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return repr(value)
