"""What Downpour and asynchronous elastic averaging share: servers and workers as processes of Ray."""

import time
from abc import abstractmethod
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from lightning.fabric.plugins import CheckpointIO
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from lightning.pytorch.plugins.environments import (  # type: ignore[attr-defined]  # not declared as public
    LightningEnvironment,
)
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor
from torch.optim import Optimizer
from typing_extensions import override

from lightning_optreg._checks import check_range
from lightning_optreg.parallel.dealing import deal
from lightning_optreg.parallel.delays import Delays
from lightning_optreg.parallel.packing import Packing
from lightning_optreg.parallel.shards import Shard
from lightning_optreg.strategies.servers._hooks import BeforeCheckpoints, ServerHooks
from lightning_optreg.strategies.servers._place import loaders_to, trainer_to
from lightning_optreg.strategies.servers._pushing import stepping
from lightning_optreg.strategies.servers._ray_cluster import ray_for
from lightning_optreg.strategies.servers._ray_crew import Crew, ServerDiedError
from lightning_optreg.strategies.servers._refusals import refuse_callbacks
from lightning_optreg.strategies.servers._talk import Talks
from lightning_optreg.strategies.workers import StepCount, length_for_all
from lightning_optreg.trainer.order_of_callbacks import put_before, put_first
from lightning_optreg.trainer.queries import (
    callbacks_of,
    has_made_all_steps,
    in_last_epoch,
    is_logging_step,
    told_to_stop,
)
from lightning_optreg.trainer.refusals import refuse_lazy_layers

__all__ = ["ServerStrategy"]


class ServerStrategy(Talks):
    """Base of strategies with parameter servers.

    A subclass says what a server is, what a worker does in a step, and what worker 0 takes home.
    """

    log_name: str
    """Middle of the names under which it logs."""
    key: str
    """Name of its entry in checkpoints."""

    def __init__(
        self,
        *,
        shards: int,
        workers: int | None,
        address: str | None,
        timeout: float,
        checkpoint_io: CheckpointIO | None,
    ) -> None:
        name = self.name = type(self).__name__
        check_range(name, ">= 1", shards=shards)
        check_range(name, "(0, inf]", timeout=timeout)
        if workers is not None:
            check_range(name, ">= 1", workers=workers)
        # Its own environment: under torchrun or SLURM it is Ray, not they, that starts the workers.
        super().__init__(cluster_environment=LightningEnvironment(), checkpoint_io=checkpoint_io)
        self.shards, self.address, self.timeout = shards, address, timeout
        self.given_workers = workers
        self._hooks = ServerHooks(self)
        self._before_checkpoints = BeforeCheckpoints(self)
        self._saved: dict[str, Any] | None = None
        self.record: dict[str, Any] | None = None
        """What checkpoints keep besides the usual entries; None before a fit."""
        self.clear()

    @override
    def clear(self) -> None:
        super().clear()
        self.positions: list[list[int]] = []
        self.packings: list[Packing] = []
        self.parameters: list[Tensor] = []
        self.begun = self.home = False
        self._crew: Crew | None = None
        self._stack = ExitStack()
        self._twin: Optimizer | None = None
        self._missed = range(0)

    # ---- what a subclass defines ---------------------------------------------------------------------------

    @abstractmethod
    def server(self) -> tuple[type[Shard], tuple[Any, ...]]:
        """Return the class of the servers, and the arguments to make one."""

    @abstractmethod
    def part(self, optimizer: Optimizer, positions: Sequence[int]) -> Any:
        """Return what a server begins with: some of the parameters."""

    @abstractmethod
    def begin(self, saved: dict[str, Any]) -> None:
        """Begin to train, when the servers have their parts.

        Args:
            saved: Worker 0's `record` from a checkpoint, or a part of one.
        """

    @abstractmethod
    def step(self, optimizer: Optimizer, closure: Any, **kwargs: Any) -> Any:
        """Make this worker's step."""

    @abstractmethod
    def flush(self, *, moved: bool = True) -> None:
        """Tell the servers all that they don't know yet.

        Args:
            moved: Whether the present batch counts as done.
        """

    @abstractmethod
    def validate_now(self) -> None:
        """Let worker 0's module have the parameters that are to be validated."""

    @abstractmethod
    def come_home(self) -> None:
        """Let worker 0's module and optimizer have what the servers have, for good."""

    # ---- a fit begins --------------------------------------------------------------------------------------

    def join(self, number: int, servers: list[Any]) -> None:
        """Be a worker other than worker 0; in a process of Ray."""
        import ray

        self.clear()
        self._ray, self.number, self.servers = ray, number, servers

    @override
    def setup_environment(self) -> None:
        super().setup_environment()
        module = self.lightning_module
        assert module is not None
        if module.trainer.state.fn == TrainerFn.FITTING:
            refuse_callbacks(self.name, module.trainer)
            put_first(module.trainer, self._hooks)
            put_before(module.trainer, self._before_checkpoints, Checkpoint)

    @override
    def setup(self, trainer: Trainer) -> None:
        fits = trainer.state.fn == TrainerFn.FITTING
        if fits:
            refuse_lazy_layers(trainer.lightning_module, self.name)
        if fits and self.number > 0:
            self._learn_place()
            if trainer.ckpt_path is None and self._place is not None and any(self._place):
                trainer_to(trainer, *self._place)
        super().setup(trainer)
        if not fits:
            return
        if len(self.optimizers) != 1:
            raise MisconfigurationException(
                f"{self.name}: needs one optimizer, the module has {len(self.optimizers)}: put all "
                "parameters into the groups of one"
            )
        self.check_optimizer(trainer, self.optimizers[0])
        self.parameters = [p for group in self.optimizers[0].param_groups for p in group["params"]]
        if not len(self.parameters) >= self.shards:
            raise MisconfigurationException(
                f"{self.name}: shards must be at most the number of parameter tensors, "
                f"{len(self.parameters)}, got {self.shards}"
            )
        self.positions = deal(self.parameters, self.shards)
        self.packings = [Packing([self.parameters[i] for i in positions]) for positions in self.positions]

    def check_optimizer(self, trainer: Trainer, optimizer: Optimizer) -> None:
        """Refuse an optimizer that can't work here."""

    @override
    def setup_optimizers(self, trainer: Trainer) -> None:
        with length_for_all(trainer, self.workers):
            super().setup_optimizers(trainer)
        if self.number > 0:
            self.lr_scheduler_configs = []  # the rates of worker 0 come with the servers' answers

    def _start_cluster(self) -> None:
        size = sum(packing.buffer.numel() for packing in self.packings)
        gpu = self.root_device.type == "cuda"
        others = [device.index for device in self.parallel_devices or [] if device.index is not None][1:]
        self._ray = self._stack.enter_context(
            ray_for(self.workers, self.address, gpus=others if gpu else [], payload=size)
        )
        cls, arguments = self.server()
        actor = self._ray.remote(num_cpus=0, max_restarts=0)(cls)
        self.servers = [actor.remote(*arguments) for _ in self.positions]
        if self.workers > 1:
            self._crew = Crew(self._ray, self.name, self.content, self.servers, self.workers, gpu=gpu)

    @override
    def on_train_start(self) -> None:
        module = self.lightning_module
        assert module is not None
        trainer, optimizer = module.trainer, self.optimizers[0]
        saved: dict[str, Any] = {}
        self._twin = stepping(optimizer, self._step)
        if self.number == 0:
            self._start_cluster()  # only now, when all refusals are over
            saved, self._saved = self._saved or self._first_ledger(trainer), None
            if saved["workers"] != self.workers:
                saved = {**saved, "ledger": {**saved["ledger"], "places": {}}}
            progress = trainer.fit_loop.epoch_loop.batch_progress.current
            # A second fit of a trainer begins an epoch, with the progress of the first one's last.
            place = (trainer.current_epoch, progress.ready if trainer.fit_loop.restarting else 0)
            for number in range(1, self.workers):
                saved["ledger"]["places"].setdefault(number, place)
            mine = {id(parameter) for parameter in self.parameters}
            kept = module.state_dict(keep_vars=True)
            extra = {
                name: value.detach().cpu()
                for name, value in kept.items()
                if isinstance(value, Tensor) and id(value) not in mine
            }
            self.ask_all(
                [
                    server.begin.remote(self.part(optimizer, positions), extra, saved)
                    for server, positions in zip(self.servers, self.positions, strict=True)
                ]
            )
            self._own = saved["ledger"]["steps"].get(0, 0)
        self.count = StepCount(trainer, self._own)
        if self.number > 0 and self._place is not None and any(self._place):
            loaders_to(trainer, *self._place)
        self.begun = True
        self.begin(saved)

    def _first_ledger(self, trainer: Trainer) -> dict[str, Any]:
        steps = {0: trainer.global_step} if trainer.global_step else {}
        ledger = {"steps": steps, "places": {}, "bytes": 0}
        return {"ledger": ledger, "updates": 0, "delays": [], "workers": self.workers}

    # ---- in training ---------------------------------------------------------------------------------------

    @override
    def optimizer_step(self, optimizer: Optimizer, closure: Any, model: Any = None, **kwargs: Any) -> Any:
        if self._twin is None or optimizer is not self.optimizers[0] or not self._known(optimizer):
            raise MisconfigurationException(
                f"{self.name}: the servers have the parameters of the optimizer that the run began with; "
                "neither it nor its parameters may change"
            )
        return super().optimizer_step(self._twin, closure, model, **kwargs)

    def _known(self, optimizer: Optimizer) -> bool:
        return sum(len(group["params"]) for group in optimizer.param_groups) == len(self.parameters)

    def _step(self, closure: Any = None, **kwargs: Any) -> Any:
        if self._crew is not None:
            self._crew.check()
        return self.step(self.optimizers[0], closure, **kwargs)

    def after_batch(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the steps of all workers, and log."""
        before = self.count.true()
        self.count.show(self._total)
        if self.number > 0:
            return
        self._missed = range(before, self.count.true())
        if any(is_logging_step(trainer, step) for step in range(before, self.count.true() + 1)):
            self._log(pl_module)

    def save_missed(self, trainer: Trainer, *hooked: Any) -> None:
        """Call `ModelCheckpoint`s also for steps in between, as the count leaps.

        Args:
            trainer: The trainer.
            hooked: The other arguments of `on_train_batch_end`.
        """
        missed, self._missed = self._missed, range(0)
        saving = [each for each in callbacks_of(trainer) if isinstance(each, ModelCheckpoint)]
        for step in missed if saving else ():
            for callback in saving:
                self.count.pose(step)
                callback.on_train_batch_end(trainer, *hooked)
        self.count.true()

    def _log(self, pl_module: LightningModule) -> None:
        updates, counts, total = self.ask(self.servers[0].statistics.remote())
        delays = Delays(counts)
        path = f"optreg/{self.log_name}"
        values = {"bytes": float(total), "updates": float(updates)}
        values |= {"delay_mean": delays.mean, "delay_max": float(delays.largest)}
        values |= {f"delay_share/{name}": share for name, share in delays.shares().items()}
        pl_module.log_dict({f"{path}/{name}": value for name, value in values.items()}, batch_size=1)

    def before_validation(self, trainer: Trainer) -> None:
        """Wait for the others if this is the end of the run, and show what is to be validated."""
        if not self.begun or self.home:
            return
        steps_done = has_made_all_steps(trainer)
        if steps_done or (trainer.is_last_batch and in_last_epoch(trainer)):
            self.flush()
            self._wait_for_others(stop=steps_done)
        self.validate_now()

    # ---- the end -------------------------------------------------------------------------------------------

    def end_epoch(self, trainer: Trainer) -> None:
        """Push what is left; worker 0 then waits for the others if it was the last epoch."""
        if self.home:
            return
        self.flush()
        steps_done = has_made_all_steps(trainer)
        over = not steps_done and (trainer.is_last_batch or not trainer.should_stop)
        if self.number == 0 and self.begun and over and in_last_epoch(trainer):
            self._wait_for_others(stop=False)  # later it could not be resumed

    def end(self, trainer: Trainer) -> None:
        """Worker 0 waits for the others, unless it ends the run early, and takes home the result."""
        if self.home or not self.begun:
            return
        self.flush(moved=False)
        if self.number > 0:
            return
        all_epochs = trainer.max_epochs not in (None, -1) and trainer.current_epoch >= trainer.max_epochs
        self._wait_for_others(stop=not all_epochs)
        self.come_home()
        self.home = True

    def _wait_for_others(self, *, stop: bool) -> None:
        module = self.lightning_module
        if self._crew is None or module is None:
            return
        trainer = module.trainer
        if stop:
            self.ask(self.servers[0].stop.remote())
        before, since = -1, time.monotonic()
        while not self._crew.done:
            if told_to_stop(trainer):
                if stop:
                    break
                raise SIGTERMException  # to be resumed with what is left of their shares
            self._crew.check(0.2)
            steps, _ = self.ask(self.servers[0].progress.remote())
            now = sum(steps.values())
            if now != before:
                before, since = now, time.monotonic()
            if time.monotonic() - since > self.timeout:
                raise RuntimeError(
                    f"{self.name}: waited {self.timeout:g} s for a step of the other workers, in vain; is "
                    "there room for them in the cluster?"
                )
            time.sleep(0.05)
        self._total = max(self._total, before)
        self.count.show(self._total)

    @override
    def come_home_early(self) -> None:
        if not self.begun or self.home or self.lost or self.number > 0:
            return
        try:
            self.come_home()
            self.home = True
        except ServerDiedError:
            pass  # `_lost` is set, and nothing will be saved

    @override
    def end_cluster(self) -> None:
        if self._crew is not None:
            self._crew.stop()
        for server in self.servers:
            self._ray.kill(server, no_restart=True)
        self._stack.close()
        lost = self.lost
        self.clear()
        self.lost = lost

    # ---- checkpoints ---------------------------------------------------------------------------------------

    @override
    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        checkpoint = super().load_checkpoint(checkpoint_path, weights_only)
        module = self.lightning_module
        if module is None or module.trainer.state.fn != TrainerFn.FITTING:
            return checkpoint
        if self.number == 0:
            self._saved = checkpoint.get(self.key)
            return checkpoint
        self._learn_place()
        trainer_to(module.trainer, *(self._place or (0, 0)))
        return {**checkpoint, "loops": {"fit_loop": module.trainer.fit_loop.state_dict()}}

    @override
    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        if self.lost:
            rank_zero_warn(
                f"{self.name}: {filepath} is not written, since a server died and its parameters with it"
            )
            return
        if self.record is not None and "optimizer_states" in checkpoint:
            checkpoint[self.key] = self.record
        super().save_checkpoint(checkpoint, filepath, storage_options)
