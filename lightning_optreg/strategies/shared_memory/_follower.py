"""The other workers of `Hogwild`: where they rest, and when they end."""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Trainer

from lightning_optreg.strategies.shared_memory._board import Stopped
from lightning_optreg.strategies.shared_memory._mate import Mate, deaf
from lightning_optreg.strategies.shared_memory._memory import Memory
from lightning_optreg.strategies.workers import StepCount, has_plateau

__all__ = ["Follower"]


class Follower:
    """The part of a worker other than worker 0.

    Args:
        trainer: Its copy of the trainer.
        mate: Its place among the workers.
        state: Returns the worker's state, for a checkpoint.
    """

    def __init__(self, trainer: Trainer, mate: Mate, state: Callable[[], Any]) -> None:
        self.trainer, self.mate, self.board, self.rank = trainer, mate, mate.board, mate.rank
        self._save = state
        self.count: StepCount | None = None

    def begin(self, *, resumed: bool, placed: Callable[[Any, Memory], None] | None = None) -> None:
        """Wait until worker 0 lets training begin.

        Args:
            resumed: Whether the worker's state came from a checkpoint, with that of its generators.
            placed: Called with a plan and a memory that worker 0 sends first, if given.
        """
        deaf()  # callbacks may have set handlers
        board, epoch = self.board, self.trainer.current_epoch
        board.epochs[self.rank] = epoch
        self.mate.rest(lambda: bool(board.flag("started") and board.flag("epoch") >= epoch), self.state)
        if placed is not None:
            placed(*self.mate.receive())
        self.count = StepCount(self.trainer, board.steps[self.rank])
        if not resumed:
            seed = torch.initial_seed() + self.rank
            torch.manual_seed(seed)
            random.seed(seed)
            np.random.seed(seed % 2**32)
        self.begin_epoch()

    def begin_epoch(self) -> None:
        """Reserve a step."""
        self._show()
        self._read_rates()
        self._claim()

    def batch_done(self) -> None:
        """Count the steps of all."""
        self._show()
        self._read_rates()

    def after_batch(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Rest if worker 0 wants it, and reserve the next step."""
        if self.trainer.should_stop:
            self.board.wishes[self.rank] = 1
        self.mate.check()
        self.mate.rest(lambda: True, self.state)
        self._leave_if_ended()
        if not self.trainer.is_last_batch:
            self._claim()

    def end_epoch(self) -> None:
        """Wait until worker 0 begins the next epoch."""
        board, following = self.board, self.trainer.current_epoch + 1
        board.give_back(self.rank, self.mate.check)
        board.epochs[self.rank] = following
        self.mate.rest(lambda: board.flag("epoch") >= following or bool(board.flag("ended")), self.state)
        self._show()
        self._leave_if_ended()

    def finish(self) -> None:
        """Wait until worker 0's training has ended too, if this worker has nothing left to do before."""
        self.mate.finish(self.state)

    def state(self) -> Any:
        """Return the worker's state, with the steps that all have made by now."""
        self._show()
        return self._save()

    def _show(self) -> None:
        if self.count is None:
            return
        board = self.board
        board.steps[self.rank] = self.count.own_steps()
        board.claimed[self.rank] = max(board.claimed[self.rank], board.steps[self.rank])
        self.count.show(board.total())

    def _claim(self) -> None:
        most, board = self.trainer.max_steps, self.board
        if most == -1 or board.claim(self.rank, most, self.mate.check):
            return
        self.mate.rest(
            lambda: (
                board.claim(self.rank, most, self.mate.check)
                or board.total() >= most
                or bool(board.flag("ended"))
            ),
            self.state,
        )
        self._show()
        self._leave_if_ended()

    def _leave_if_ended(self) -> None:
        if self.board.flag("ended") and not self.trainer.fit_loop.done:
            raise Stopped

    def _read_rates(self) -> None:
        if has_plateau(self.trainer):
            groups = [group for optimizer in self.trainer.optimizers for group in optimizer.param_groups]
            for group, rate in zip(groups, self.board.rates, strict=False):
                if isinstance(group["lr"], torch.Tensor):
                    group["lr"].fill_(rate)
                else:
                    group["lr"] = rate

    # Worker 0's duties.
    def go_on(self) -> None:
        """Do nothing."""

    def stand_still(self, *, epoch_over: bool) -> None:
        """Do nothing."""

    def watch(self) -> None:
        """Do nothing."""
