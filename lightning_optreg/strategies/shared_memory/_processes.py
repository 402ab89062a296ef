"""Worker processes on one machine, beside the user's own process, which is worker 0."""

import multiprocessing
import os
import signal
import threading
import time
import traceback
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from io import BytesIO
from multiprocessing.reduction import send_handle
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_only, rank_zero_warn

from lightning_optreg.strategies.shared_memory._board import Board, Stopped
from lightning_optreg.strategies.shared_memory._mate import POLL, Mate, deaf
from lightning_optreg.strategies.shared_memory._memory import Memory

__all__ = ["Crew", "Launcher", "usable_start_method"]

_ENDING = 30.0  # seconds that workers get to end by themselves


class Crew:
    """The other workers, as worker 0 sees them.

    Args:
        owner: Name of the strategy, for messages.
        board: The shared counters.
        processes: Their processes, of workers 1, 2, ...
        connections: Pipes to them.
        timeout: Seconds without any progress of a worker that worker 0 waits for, after which the run ends.
    """

    def __init__(
        self,
        owner: str,
        board: Board,
        processes: Sequence[Any],
        connections: Sequence[Any],
        timeout: float,
    ) -> None:
        self.owner, self.board, self.timeout = owner, board, timeout
        self.processes, self.connections = list(processes), list(connections)
        self.failed = False
        # Processes wait for their children when they end, so these must not be left over by any way out.
        self._kill = weakref.finalize(self, _kill_all, os.getpid(), self.processes)

    def check(self) -> None:
        """Raise an error if a worker has died.

        Raises:
            RuntimeError: With the worker's number and process, and its traceback or the signal.
            MisconfigurationException: If it has refused a setting.
        """
        for rank, process in enumerate(self.processes, 1):
            if process.exitcode is not None:
                self.failed = True
                raise self._death(rank)

    def _death(self, rank: int) -> Exception:
        process, connection = self.processes[rank - 1], self.connections[rank - 1]
        who = f"{self.owner}: worker {rank} (process {process.pid})"
        with suppress(EOFError, OSError):
            while connection.poll():
                kind, content = connection.recv()
                if kind == "refusal":
                    return MisconfigurationException(content)
                if kind == "error":
                    return RuntimeError(f"{who} has failed:\n\n{content}")
        code = process.exitcode
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
        return RuntimeError(f"{who} {how}, so the run ends: resume it from its last checkpoint")

    def wait(self, over: Callable[[], bool], what: str) -> None:
        """Wait until something is so; it is watched that the workers live and make progress.

        Args:
            over: Whether it is so.
            what: What is waited for, for the error.

        Raises:
            RuntimeError: If a worker has died, or none has made progress for `timeout` seconds.
        """
        seen, since = None, time.monotonic()
        while not over():
            self.check()
            board = self.board
            progress = (*board.steps, *board.epochs, *board.rests)
            if progress != seen:
                seen, since = progress, time.monotonic()
            elif time.monotonic() - since > self.timeout:
                self.failed = True
                raise RuntimeError(
                    f"{self.owner}: no worker has made progress for {self.timeout:.0f} s while worker 0 "
                    f"waited for {what}; set a longer timeout if a batch takes longer"
                )
            time.sleep(POLL)

    def pause(self) -> None:
        """Let the others rest at the end of their batches."""
        board = self.board
        self.ask_to_pause()
        number = board.flag("pauses")
        self.wait(lambda: min(board.rests[1:]) >= number, "the others to finish a batch")

    def ask_to_pause(self) -> None:
        """Let the others rest at the end of their batches, without waiting for it."""
        board = self.board
        if not board.paused:
            board.set_flag("pauses", board.flag("pauses") + 1)

    def resume(self) -> None:
        """Let the others go on."""
        self.board.set_flag("resumed", self.board.flag("pauses"))

    def send(self, about: Any, memory: Memory) -> None:
        """Send a memory to all others, and something about it; closes its handle here."""
        for process, connection in zip(self.processes, self.connections, strict=True):
            self.check()
            connection.send((about, memory.size))
            send_handle(connection, memory.handle, process.pid)
        memory.close_handle()

    def states(self) -> list[Any]:
        """Return the states of all others, which must rest."""
        states = []
        for connection in self.connections:
            connection.send("state")
        for connection in self.connections:
            self.wait(connection.poll, "the state of a worker")
            kind, content = connection.recv()
            if kind != "state":
                self.failed = True
                raise RuntimeError(f"{self.owner}: a worker has failed:\n\n{content}")
            states.append(torch.load(BytesIO(content), weights_only=True))  # as a checkpoint will hold it
        return states

    def end(self) -> None:
        """End all others; afterwards none of their processes is left.

        Raises:
            RuntimeError: If a worker has failed after training.
        """
        if not self.board.flag("ended"):
            self.board.set_flag("stopped", 1)
        deadline = time.monotonic() + _ENDING
        while any(process.exitcode is None for process in self.processes) and time.monotonic() < deadline:
            time.sleep(POLL)
        late = [process.pid for process in self.processes if process.exitcode is None]
        deaths = [self._death(rank) for rank, process in enumerate(self.processes, 1) if process.exitcode]
        self._kill()
        for connection in self.connections:
            connection.close()
        if late:
            rank_zero_warn(f"{self.owner}: processes {late} did not end in {_ENDING:.0f} s and were killed")
        if deaths and not self.failed:
            raise deaths[0]


class Launcher:
    """Starts the other workers and runs a function in all of them, worker 0's in this process.

    Lightning's Trainer calls it. Only a fit has other workers.

    Args:
        owner: Name of the strategy.
        workers: Number of workers, at least 1.
        start_method: "fork", "spawn" or None; see `usable_start_method`.
        timeout: As of `Crew`.
        joined: The strategy's method that is called in worker 0 with its `Crew`, in others with their `Mate`.
    """

    is_interactive_compatible = True

    def __init__(
        self, owner: str, workers: int, start_method: str | None, timeout: float, joined: Callable[..., None]
    ):
        self.owner, self.workers, self.timeout = owner, workers, timeout
        self.start_method, self.joined = start_method, joined

    def launch(self, function: Callable[..., Any], *args: Any, trainer: Trainer, **kwargs: Any) -> Any:
        """Run a function of the trainer in all workers, and return what worker 0's returns."""
        if self.workers == 1 or trainer.state.fn != TrainerFn.FITTING:
            return function(*args, **kwargs)
        method = usable_start_method(self.owner, self.start_method)
        threads = torch.get_num_threads()
        torch.set_num_threads(max(1, threads // self.workers))
        crew = self._start(method, function, args, kwargs, trainer)
        try:
            self.joined(trainer, crew)
            return function(*args, **kwargs)
        except BaseException:
            crew.ask_to_pause()  # while callbacks save what there is
            raise
        finally:
            torch.set_num_threads(threads)

    def _start(
        self, method: str, function: Callable[..., Any], args: Any, kwargs: Any, trainer: Trainer
    ) -> Crew:
        context: Any = multiprocessing.get_context(method)
        board = Board(self.workers, context)
        processes: list[Any] = []
        ours: list[Any] = []
        try:
            for rank in range(1, self.workers):
                mine, theirs = context.Pipe()
                others = [*ours, mine] if method == "fork" else []
                process = context.Process(
                    target=_work,
                    args=(os.getpid(), Mate(rank, board, theirs), others, self.joined, trainer, function),
                    kwargs={"args": args, "kwargs": kwargs},
                    name=f"{self.owner}-{rank}",
                )
                process.start()
                theirs.close()
                processes.append(process)
                ours.append(mine)
        except BaseException:
            _kill_all(os.getpid(), processes)
            raise
        return Crew(self.owner, board, processes, ours, self.timeout)

    def kill(self, signum: int) -> None:
        """Lightning calls it with a signal that worker 0 got, which decides for all: nothing to pass on."""


def usable_start_method(owner: str, given: str | None) -> str:
    """Return how to start processes now: not everything works in a process forked after it has started.

    CUDA does not, nor does torch.distributed, which an earlier fit by another strategy has started: a
    collective call would wait for threads that a fork does not copy.

    Args:
        owner: Name of the strategy, for the error.
        given: "fork" or "spawn". None: "fork" where there is one and neither has started, else "spawn".

    Raises:
        MisconfigurationException: If "fork" is given and one of them has started.
    """
    started = _started()
    if given == "fork" and started is not None:
        raise MisconfigurationException(
            f"{owner}: {started} has started in this process, and does not work in processes forked from it: "
            'set start_method to "spawn", or leave it out'
        )
    return given or ("fork" if hasattr(os, "fork") and started is None else "spawn")


def _started() -> str | None:
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return "CUDA"
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return "torch.distributed"
    return None


def _work(
    parent: int,
    mate: Mate,
    others: list[Any],
    joined: Callable[..., None],
    trainer: Trainer,
    function: Callable[..., Any],
    *,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> None:
    for connection in others:  # copies of worker 0's ends
        connection.close()
    deaf()
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    # OpenMP's threads do not survive a fork.
    torch.set_num_threads(1)
    rank_zero_only.rank = mate.rank  # type: ignore[attr-defined]  # as Lightning's strategies do
    try:
        joined(trainer, mate)
        function(*args, **kwargs)
        mate.finish()
    except Stopped:
        pass
    except MisconfigurationException as refusal:  # the same as in worker 0, or one that comes before it
        with suppress(OSError):
            mate.connection.send(("refusal", str(refusal)))
        raise SystemExit(1) from None
    except BaseException:
        with suppress(OSError):
            mate.connection.send(("error", traceback.format_exc()))
        raise SystemExit(1) from None


def _end_with(parent: int) -> None:
    """End this process at once when its parent has ended, wherever it is."""
    while os.getppid() == parent:
        time.sleep(0.2)
    os.kill(os.getpid(), signal.SIGKILL)


def _kill_all(owner: int, processes: list[Any]) -> None:
    if os.getpid() != owner:  # a copy in a forked process
        return
    for process in processes:
        if process.exitcode is None:
            process.kill()
        process.join()
