"""The other workers, as worker 0 sees them: it waits for them, asks them, and ends them."""

import os
import signal
import time
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from io import BytesIO
from multiprocessing.reduction import send_handle
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities import rank_zero_warn

from lightning_optreg.strategies.shared_memory._board import Board
from lightning_optreg.strategies.shared_memory._mate import POLL
from lightning_optreg.strategies.shared_memory._memory import Memory

__all__ = ["Crew", "kill_all"]

_ENDING = 30.0  # seconds that workers get to end by themselves
_LAST_WORDS = 2.0  # seconds to write where they stand


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
        self._kill = weakref.finalize(self, kill_all, os.getpid(), self.processes)

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
        late = [process.pid for process in _still_there(self.processes, _ENDING)]
        deaths = [self._death(rank) for rank, process in enumerate(self.processes, 1) if process.exitcode]
        if late:
            self.board.set_flag("stacks", 1)
            _still_there(self.processes, _LAST_WORDS)
        self._kill()
        for connection in self.connections:
            connection.close()
        if late:
            rank_zero_warn(
                f"{self.owner}: processes {late} did not end in {_ENDING:g} s and were killed; "
                "the standard error says where they stood"
            )
        if deaths and not self.failed:
            raise deaths[0]


def _still_there(processes: Sequence[Any], seconds: float) -> list[Any]:
    """Wait so long for processes to end, and return those that have not."""
    deadline = time.monotonic() + seconds
    while (late := [each for each in processes if each.exitcode is None]) and time.monotonic() < deadline:
        time.sleep(POLL)
    return late


def kill_all(owner: int, processes: list[Any]) -> None:
    if os.getpid() != owner:  # a copy in a forked process
        return
    for process in processes:
        if process.exitcode is None:
            process.kill()
        process.join()
