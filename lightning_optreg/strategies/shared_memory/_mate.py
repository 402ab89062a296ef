"""A worker's own place among the workers, in its process."""

import signal
from collections.abc import Callable
from io import BytesIO
from multiprocessing.reduction import recv_handle
from typing import Any

import torch

from lightning_optreg.strategies.shared_memory._board import NO_MORE, Board, Stopped
from lightning_optreg.strategies.shared_memory._memory import Memory

__all__ = ["POLL", "Mate", "deaf"]

POLL = 0.0005  # seconds between two looks


class Mate:
    """A worker's own place among the workers, in its process.

    Args:
        rank: Its number, at least 1.
        board: The shared counters.
        connection: Its pipe to worker 0.
    """

    def __init__(self, rank: int, board: Board, connection: Any) -> None:
        self.rank, self.board, self.connection = rank, board, connection
        self._received: list[tuple[Any, Memory]] = []

    def check(self) -> None:
        """Leave the run if worker 0 has said so."""
        if self.board.flag("stopped"):
            raise Stopped

    def rest(self, over: Callable[[], bool], state: Callable[[], Any]) -> None:
        """Wait, at a place from which the worker can be resumed; answer worker 0's requests for its state.

        Args:
            over: Whether the reason to wait is gone; a pause goes on nevertheless.
            state: Returns the worker's state.
        """
        while self.board.paused or not over():
            self.check()
            self.board.rests[self.rank] = self.board.flag("pauses")
            if self.connection.poll(POLL):
                content = self.connection.recv()
                if content != "state":
                    self._take(content)
                    continue
                file = BytesIO()  # tensors would be sent as shared memory, of a process that ends
                torch.save(state(), file)
                self.connection.send(("state", file.getvalue()))

    def finish(self, state: Callable[[], Any] = dict) -> None:
        """Wait until worker 0's training has ended.

        Args:
            state: As of `rest`; by default there is none.
        """
        self.board.epochs[self.rank] = NO_MORE
        self.rest(lambda: bool(self.board.flag("ended")), state)

    def receive(self) -> tuple[Any, Memory]:
        """Wait for a memory that worker 0 sends, and what it says about it."""
        while not self._received:
            self.check()
            if self.connection.poll(0.05):
                self._take(self.connection.recv())
        return self._received.pop(0)

    def _take(self, content: tuple[Any, int]) -> None:
        about, size = content
        memory = Memory(size, recv_handle(self.connection))
        memory.close_handle()
        self._received.append((about, memory))


def deaf() -> None:
    """Ignore the signals by which a run is stopped: worker 0 gets them too, and tells the others."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
