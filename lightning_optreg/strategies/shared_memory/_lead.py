"""Worker 0 of `Hogwild`: it counts, waits for the others, and lets them rest while it validates or saves."""

from collections.abc import Callable
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException

from lightning_optreg.strategies.shared_memory._crew import Crew
from lightning_optreg.strategies.workers import StepCount, has_plateau
from lightning_optreg.trainer.queries import callbacks_of, in_last_epoch, told_to_stop

__all__ = ["Lead"]


class Lead:
    """The part of worker 0.

    Args:
        trainer: The user's trainer.
        crew: The other workers.
    """

    rank = 0

    def __init__(self, trainer: Trainer, crew: Crew) -> None:
        self.trainer, self.crew, self.board = trainer, crew, crew.board
        self.count: StepCount | None = None
        self.after_first_step: Callable[[], None] | None = None
        self._rest = False  # whether the others rest
        self._met = False  # whether all have done their shares of this epoch
        self._seen = self._hooked = self._began = 0
        self._posed: int | None = None  # the step that callbacks see, while they act on a batch
        self._batch: tuple[Any, Any, int] | None = None

    @property
    def active(self) -> bool:
        """Whether the others train, or rest and can be asked for their states."""
        flag = self.board.flag
        return self.count is not None and not flag("ended") and not self.crew.failed

    # ---- begin and end -------------------------------------------------------------------------------------

    def begin(self, steps: list[int]) -> None:
        """Begin to train; the others wait until `let_begin`.

        Args:
            steps: Steps of each worker in the run that is resumed.
        """
        for own in (self.board.steps, self.board.claimed, self.board.updates):
            own[:] = steps
        self.count = StepCount(self.trainer, steps[0])
        self._seen = self._hooked = self._began = self.trainer.global_step
        self._write_rates()
        self.board.set_flag("epoch", self.trainer.current_epoch)
        self._claim()
        self.crew.wait(lambda: min(self.board.epochs[1:]) >= 0, "the others to start")

    def let_begin(self) -> None:
        """Let the others begin."""
        self.board.set_flag("started", 1)

    def finish(self) -> None:
        """Tell the others that training has ended."""
        self.board.set_flag("ended", 1)
        self.crew.resume()

    # ---- hooks ---------------------------------------------------------------------------------------------

    def go_on(self) -> None:
        """Let the others go on."""
        if not self.active:
            return
        self._write_rates()
        if self._rest or self._met:
            self._rest = self._met = False
            self.board.set_flag("epoch", self.trainer.current_epoch)
            self.crew.resume()

    def begin_epoch(self) -> None:
        """Reserve a step before the others can, then let them begin."""
        self._batch = None
        self._claim()
        self.go_on()

    def batch_done(self) -> None:
        """Count the steps of all."""
        self.crew.check()
        self._hooked = self._posed = self._show()

    def after_batch(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Save what is due, wait at the end of an epoch, and reserve the next step."""
        self._batch = (outputs, batch, batch_idx)
        if self.after_first_step is not None and self.trainer.global_step > self._began:
            self.after_first_step()
            self.after_first_step = None
            self.let_begin()
        self._save_missed()
        if any(self.board.wishes):
            self.trainer.should_stop = True
        if self.trainer.is_last_batch:
            self.stand_still(epoch_over=True)
        else:
            self._claim()

    def stand_still(self, *, epoch_over: bool) -> None:
        """Wait until no other worker trains.

        Args:
            epoch_over: Whether all must have done their shares of the epoch; otherwise they finish a batch.

        Raises:
            SIGTERMException: If a signal ends the run in the last epoch, before all have done their shares.
        """
        if not self.active or self._met:
            return
        if not epoch_over:
            self.hold()
            return
        self.board.give_back(0, self.crew.check)
        self._let_run()
        self.crew.wait(
            lambda: self._all_done() or told_to_stop(self.trainer),
            "the others to do their shares of the epoch",
        )
        self._met = self._all_done()  # else a signal ends the run, in the middle of the others' epoch
        self._catch_up()
        if not self._met and in_last_epoch(self.trainer):
            # Here, where the epoch can still be resumed: after the last one Lightning resumes nothing.
            raise SIGTERMException

    def watch(self) -> None:
        """Raise an error if a worker has died."""
        self.crew.check()

    def end_epoch(self) -> None:
        """Do nothing: worker 0 waits earlier."""

    # ---- for checkpoints -----------------------------------------------------------------------------------

    def hold(self) -> None:
        """Let the others rest until worker 0's next batch, and count their steps."""
        if not (self._rest or self._met):
            self._rest = True
            self.crew.pause()
        self._show()

    def saved(self) -> None:
        """Show the step again that `ModelCheckpoint` saves for, which it then notes as saved."""
        if self._posed is not None and self.count is not None:
            self.count.pose(self._posed)

    def shares(self) -> dict[str, Any]:
        """Return what a checkpoint needs of the others, which rest."""
        return {
            "workers": self.board.workers,
            "steps": list(self.board.steps),
            "met": self._met,
            "others": self.crew.states(),
        }

    # ---- inside --------------------------------------------------------------------------------------------

    def _show(self) -> int:
        assert self.count is not None
        board = self.board
        board.steps[0] = self.count.own_steps()
        board.claimed[0] = max(board.claimed[0], board.steps[0])
        self.count.show(board.total())
        return self.trainer.global_step

    def _let_run(self) -> None:
        self._rest = False
        self.crew.resume()

    def _all_done(self) -> bool:
        if self.board.total() > self._seen:
            self._catch_up()
        return all(done > self.trainer.current_epoch for done in self.board.epochs[1:])

    def _catch_up(self) -> None:
        """Count and save what is due while worker 0 waits."""
        self._show()
        self._save_missed()
        if self._rest:
            self._let_run()

    def _save_missed(self) -> None:
        """Call `ModelCheckpoint`s also for steps that this worker has not seen, as the count leaps."""
        assert self.count is not None
        saving = [each for each in callbacks_of(self.trainer) if isinstance(each, ModelCheckpoint)]
        if self._batch is None or not saving:
            self._seen, self._posed = self.count.true(), None
            return
        step = self._seen + 1
        while step <= self.count.true():
            for callback in saving if step != self._hooked else ():
                self._posed = step
                self.count.pose(step)
                callback.on_train_batch_end(self.trainer, self.trainer.lightning_module, *self._batch)
            step += 1
        self._seen, self._posed = step - 1, None

    def _claim(self) -> None:
        """Reserve the next step; if none is left, wait until the others have made theirs."""
        most, board = self.trainer.max_steps, self.board
        if most == -1 or board.claim(0, most, self.crew.check):
            return
        self._let_run()
        self.crew.wait(
            lambda: board.claim(0, most, self.crew.check) or board.total() >= most, "the others' last steps"
        )
        self._catch_up()

    def _write_rates(self) -> None:
        if has_plateau(self.trainer):
            groups = [group for optimizer in self.trainer.optimizers for group in optimizer.param_groups]
            self.board.rates[: len(groups)] = [float(group["lr"]) for group in groups]
