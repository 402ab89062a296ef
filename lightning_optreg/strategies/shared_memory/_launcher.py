"""Worker processes on one machine, beside the user's own process, which is worker 0."""

import faulthandler
import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_only

from lightning_optreg.strategies.shared_memory._board import Board, Stopped
from lightning_optreg.strategies.shared_memory._crew import Crew, kill_all
from lightning_optreg.strategies.shared_memory._mate import Mate, deaf

__all__ = ["Launcher", "usable_start_method"]


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
            kill_all(os.getpid(), processes)
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
    threading.Thread(target=_watch, args=(parent, mate.board), daemon=True).start()
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


def _watch(parent: int, board: Board) -> None:
    """End this process at once when its parent has ended, wherever it is; say where, if asked."""
    told = False
    while os.getppid() == parent:
        if board.flag("stacks") and not told:
            # By a signal it would not always work: Lightning resets all handlers when it has trained.
            faulthandler.dump_traceback(file=2)  # sys.stderr need not be a file
            told = True
        time.sleep(0.2)
    os.kill(os.getpid(), signal.SIGKILL)
