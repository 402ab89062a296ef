"""Hogwild!: worker processes that train one set of weights in shared memory, without locks.

Niu, Recht, Re and Wright 2011, "Hogwild!: A Lock-Free Approach to Parallelizing Stochastic Gradient Descent"
(NIPS 2011; arXiv:1106.5730).
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

from lightning.fabric.plugins import CheckpointIO
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.plugins import Precision
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import Tensor, nn
from torch.optim import Optimizer
from typing_extensions import override

from lightning_optreg._checks import check_choice, check_range
from lightning_optreg.strategies.shared_memory._crew import Crew
from lightning_optreg.strategies.shared_memory._delays import Delays
from lightning_optreg.strategies.shared_memory._follower import Follower
from lightning_optreg.strategies.shared_memory._hooks import AfterAll, BeforeAll, InOthers
from lightning_optreg.strategies.shared_memory._launcher import Launcher
from lightning_optreg.strategies.shared_memory._lead import Lead
from lightning_optreg.strategies.shared_memory._mate import Mate
from lightning_optreg.strategies.shared_memory._memory import Memory, move_in, move_out, plan_for
from lightning_optreg.strategies.shared_memory._one_machine import OneMachine
from lightning_optreg.strategies.shared_memory._refusals import (
    refuse_callbacks,
    refuse_optimizers,
)
from lightning_optreg.strategies.shared_memory._state import place_state, shareable_state
from lightning_optreg.strategies.workers import length_for_all, silence
from lightning_optreg.trainer.order_of_callbacks import put_first, put_last, take_out
from lightning_optreg.trainer.refusals import refuse_lazy_layers

__all__ = ["Hogwild"]

_KEY = "Hogwild"  # in checkpoints


class Hogwild(OneMachine):
    """Train one set of weights by several processes of this machine at once, without locks.

    `trainer.devices` says how many workers there are. Worker 0 is the user's own process, the others are
    started from it. Each repeats, without waiting for the others:

    1. read the weights x, while others change them;
    2. compute the gradient g of its own batch at what it has read;
    3. make an optimizer step in place; with SGD: x_v = x_v - gamma g_v, for v in the rows that g has.

    With sparse gradients, as of `nn.Embedding(sparse=True)`, a step writes only the rows that its batch
    touches, so workers rarely meet: the paper shows a nearly linear speed-up then. Steps with dense gradients
    may overwrite parts of each other; this still learns, with less to gain. As in the paper, all workers meet
    at the end of an epoch, before schedules of interval "epoch" go on. With one worker this is ordinary
    training, to the last bit.

    The workers share all parameters and buffers, such as those of batch norm. What else is kept while
    training is each worker's own:

    - The optimizer's state (the paper's SGD has none). With `shared_state` the workers share that of worker
      0's first step.
    - The data: each has its share of every epoch. Loaders of this package deal it out; for a DataLoader of a
      dataset with a length Lightning adds a DistributedSampler.
    - Metrics: those logged in training are of worker 0's share.

    `trainer.global_step` counts the steps of all, in each worker. So `max_steps` is exactly the number that
    all of them make together, and schedules of interval "step" are as long as the steps of all. With several
    optimizers a batch's steps are not split, so `max_steps` may be passed by as many as one batch makes.
    Within `configure_optimizers`, `trainer.estimated_stepping_batches` is the number of all; elsewhere it is
    that of worker 0's own steps. (With manual optimization a module steps its schedules itself, once for each
    of its own steps.)

    `ModelCheckpoint(every_n_train_steps=n)` saves for each n, as soon as worker 0 has ended its batch; the
    checkpoint's own `global_step` also counts the few steps that the others have made by then. Loggers and
    `log_every_n_steps` count worker 0's own steps only, so with W workers their steps are about 1 / W of
    those in checkpoints.

    Worker 0 alone validates, saves, logs, shows progress and stops the run; meanwhile the others rest at the
    end of a batch, so that a validated or saved state is one moment's. They have no loggers, checkpoints,
    progress bars, early stopping or weight averages; other callbacks run in each. A `ReduceLROnPlateau` in
    worker 0 gives its rates to all. `AdaDelay` gets as delay the number of steps that others have made since
    the worker read the weights; `AdaptiveRevision` the sum of gradients at that time, and needs
    `shared_state`.

    A checkpoint also holds the state of each other worker (its optimizer, progress, loader and callbacks),
    under "Hogwild". A run that is resumed with the same number of workers goes on where each was; with
    another number only at the end of an epoch, with the state of worker 0. Checkpoints saved after the fit
    hold only worker 0's.

    If a worker fails or is killed, the run ends at worker 0's next batch, with an error that has the worker's
    traceback or its signal. If worker 0 is killed the others end within a second. Ctrl+C and SIGTERM reach
    worker 0, which tells the others; at the end of an epoch it does not wait for their shares then.

    Where it differs from the paper: its components are single numbers with atomic addition, and its examples
    are drawn with replacement; here a step adds to whole rows or tensors, and each example is used once in
    an epoch.

    Args:
        shared_state: Whether workers share the optimizer's state too, without locks. Then the others begin
            after worker 0's first step. Default: False.
        start_method: "fork", or "spawn", which needs a module and loaders that can be pickled, and takes
            seconds. None: "fork" where there is one, but "spawn" if CUDA or, by an earlier fit of another
            strategy, torch.distributed has started in this process, as they do not work in forked ones.
            Forked workers compute in one thread; worker 0 in its share of the threads.
        timeout: Seconds that worker 0 waits for the others, with no batch or epoch done by any, before it
            ends the run; above 0. Must be longer than a batch takes. Default: 600.
        checkpoint_io: Lightning's plugin that writes checkpoints.
        precision_plugin: Lightning's plugin for the precision.

    Raises:
        TypeError: If `shared_state` is not a bool.
        ValueError: If `start_method` or `timeout` is not allowed, or a parameter is not dense.
        MisconfigurationException: If the accelerator is not the CPU, or there are several nodes; with several
            workers, before training, with lazy layers, if the loader can't be dealt out, or for LBFGS, Newton
            and BFGS, ModelPruning, StochasticWeightAveraging, BatchSizeFinder and LearningRateFinder, for
            `shared_state` if the optimizer keeps plain numbers, and for "fork" if CUDA or torch.distributed
            has started.
        RuntimeError: If a worker has failed, was killed or makes no progress.

    Example:
        >>> trainer = Trainer(strategy=Hogwild(), accelerator="cpu", devices=2, logger=False)
        >>> trainer.strategy.workers
        2
    """

    def __init__(
        self,
        *,
        shared_state: bool = False,
        start_method: Literal["fork", "spawn"] | None = None,
        timeout: float = 600.0,
        checkpoint_io: CheckpointIO | None = None,
        precision_plugin: Precision | None = None,
    ) -> None:
        if not isinstance(shared_state, bool):
            raise TypeError(f"Hogwild: shared_state must be True or False, got {shared_state!r}")
        if start_method is not None:
            check_choice("Hogwild", ("fork", "spawn"), start_method=start_method)
        check_range("Hogwild", "(0, inf)", timeout=timeout)
        super().__init__(checkpoint_io=checkpoint_io, precision_plugin=precision_plugin)
        self.shared_state = shared_state
        self.start_method = start_method
        self.timeout = timeout
        self._role: Lead | Follower | None = None
        self._delays: Delays | None = None
        self._tensors: list[Tensor] = []  # in shared memory
        self._hooks: list[Any] = []
        self._saved: dict[str, Any] | None = None  # of the workers, in the checkpoint that is resumed
        self._loader_states: list[Any] = []
        self._dump: dict[str, Any] = {}

    @property
    @override
    def launcher(self) -> Launcher:  # type: ignore[override]  # Lightning's base class is private
        """What starts the other workers."""
        return Launcher("Hogwild", self.workers, self.start_method, self.timeout, self._join)

    # ---- setup ---------------------------------------------------------------------------------------------

    def _join(self, trainer: Trainer, place: Crew | Mate) -> None:
        self._place = place
        self._saved = None
        if isinstance(place, Mate):
            self._rank = place.rank
            self._role = Follower(trainer, place, self._state)
        else:
            self._role = Lead(trainer, place)

    @override
    def setup_environment(self) -> None:
        super().setup_environment()
        if self._role is None:
            return
        trainer = self._role.trainer
        refuse_callbacks(trainer)
        if isinstance(self._role, Lead):
            last: Callback = AfterAll(self._role)
        else:
            silence(trainer)
            last = InOthers(self._role)
        self._hooks = [BeforeAll(self._role), last]
        put_first(trainer, self._hooks[0])
        put_last(trainer, last)

    @override
    def setup(self, trainer: Trainer) -> None:
        super().setup(trainer)
        if self._role is None:
            return
        assert self.lightning_module is not None
        refuse_lazy_layers(self.lightning_module, "Hogwild")
        self._tensors = [*self.lightning_module.parameters(), *self.lightning_module.buffers()]
        if isinstance(self._place, Crew):
            plan = plan_for(self._tensors)
            memory = Memory(plan.size)
            move_in(self._tensors, plan, memory, copy=True)
            self._place.send(plan, memory)
        elif isinstance(self._place, Mate):
            plan, memory = self._place.receive()
            move_in(self._tensors, plan, memory, copy=False)

    @override
    def setup_optimizers(self, trainer: Trainer) -> None:
        role = self._role
        if role is None:
            super().setup_optimizers(trainer)
            return
        if self._loader_states:  # the loader is set up before Lightning restores it
            trainer.fit_loop.on_load_checkpoint({"combined_loader": self._loader_states})
        with length_for_all(trainer, self.workers):
            super().setup_optimizers(trainer)
        refuse_optimizers(trainer, self.optimizers, shared_state=self.shared_state)
        if isinstance(role, Follower):
            for config in self.lr_scheduler_configs:
                if config.reduce_on_plateau:  # it gets worker 0's rates
                    config.frequency = 2**62
        updates = role.board.updates
        self._delays = Delays(self.optimizers, lambda: sum(updates))

    # ---- training ------------------------------------------------------------------------------------------

    @override
    def on_train_start(self) -> None:
        super().on_train_start()
        role = self._role
        if role is None:
            return
        self._check_memory()
        if isinstance(role, Follower):
            placed = partial(place_state, self.optimizers) if self.shared_state else None
            role.begin(resumed=self._saved is not None, placed=placed)
            return
        steps = (self._saved or {}).get("steps", [])
        if len(steps) != self.workers:
            steps = [role.trainer.global_step] + [0] * (self.workers - 1)
        role.begin(steps)
        if self.shared_state and not any(optimizer.state for optimizer in self.optimizers):
            role.after_first_step = self._share_state
            return
        if self.shared_state:
            self._share_state()
        role.let_begin()

    def _share_state(self) -> None:
        assert isinstance(self._place, Crew)
        tensors, plan = shareable_state("Hogwild", self.optimizers)
        memory = Memory(plan[1].size)
        move_in(tensors, plan[1], memory, copy=True)
        self._tensors += tensors
        self._place.send(plan, memory)

    def _check_memory(self) -> None:
        assert self.lightning_module is not None
        now = [*self.lightning_module.parameters(), *self.lightning_module.buffers()]
        known = {tensor.data_ptr() for tensor in self._tensors}
        if any(tensor.numel() and tensor.data_ptr() not in known for tensor in now):
            raise MisconfigurationException(
                "Hogwild: a parameter or buffer was replaced after the module's setup, so the workers don't "
                "share it: make all of them in __init__, setup or configure_model"
            )

    @override
    def training_step(self, *args: Any, **kwargs: Any) -> STEP_OUTPUT:
        if self._delays is not None:
            self._delays.note_reads()
        return super().training_step(*args, **kwargs)

    @override
    def optimizer_step(
        self,
        optimizer: Optimizer,
        closure: Callable[[], Any],
        model: LightningModule | nn.Module | None = None,
        **kwargs: Any,
    ) -> Any:
        result = super().optimizer_step(optimizer, closure, model, **kwargs)
        if self._role is not None:
            self._role.board.updates[self._rank] += 1
        return result

    @override
    def on_train_end(self) -> None:
        super().on_train_end()
        if self._role is not None:
            self._role.finish()

    @override
    def teardown(self) -> None:
        role, place, self._role, self._place = self._role, self._place, None, None
        try:
            if isinstance(place, Crew):
                place.end()
        finally:
            if role is not None:
                for hook in self._hooks:
                    take_out(role.trainer, hook)
            if self._delays is not None:
                self._delays.remove()
            if isinstance(place, Crew):
                move_out(self._tensors)
            self._hooks, self._tensors, self._delays, self._saved = [], [], None, None
            super().teardown()

    # ---- checkpoints ---------------------------------------------------------------------------------------

    @override
    def lightning_module_state_dict(self) -> dict[str, Any]:
        if isinstance(self._role, Lead) and self._role.active:
            self._role.hold()
        return super().lightning_module_state_dict()

    @override
    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any | None = None
    ) -> None:
        role = self._role
        if isinstance(role, Follower):
            self._dump = {key: value for key, value in checkpoint.items() if key != "state_dict"}
            return
        if isinstance(role, Lead) and role.active:
            role.hold()
            checkpoint["global_step"] = role.trainer.global_step
            if "optimizer_states" in checkpoint:
                checkpoint[_KEY] = role.shares()
        super().save_checkpoint(checkpoint, filepath, storage_options)
        if isinstance(role, Lead):
            role.saved()

    def _state(self) -> dict[str, Any]:
        """Return this worker's own checkpoint, without the weights."""
        assert self._role is not None
        self._role.trainer.save_checkpoint("")
        dump, self._dump = self._dump, {}
        return dump

    @override
    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        checkpoint = super().load_checkpoint(checkpoint_path, weights_only)
        saved = checkpoint.pop(_KEY, None)
        module = self.lightning_module
        if module is None or module.trainer.state.fn != TrainerFn.FITTING:
            return checkpoint
        if saved is not None and saved["workers"] != self.workers and not saved["met"]:
            raise MisconfigurationException(
                f"Hogwild: the checkpoint was saved by {saved['workers']} workers in the middle of an epoch, "
                f"each in its own share of the batches: set devices to {saved['workers']}, got {self.workers}"
            )
        if saved is not None and saved["workers"] == self.workers:
            self._saved = saved
            if self._rank:
                checkpoint |= saved["others"][self._rank - 1]
        loops = checkpoint.get("loops", {}).get("fit_loop", {})
        self._loader_states = loops.get("state_dict", {}).get("combined_loader", [])
        return checkpoint
