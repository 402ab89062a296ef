"""Hogwild!: worker processes that train one set of weights in shared memory, without locks.

Niu, Recht, Re and Wright 2011, "Hogwild!: A Lock-Free Approach to Parallelizing Stochastic Gradient Descent"
(NIPS 2011; arXiv:1106.5730).
"""

import os
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from lightning.fabric.plugins import CheckpointIO
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.accelerators import Accelerator, CPUAccelerator
from lightning.pytorch.callbacks import (
    BatchSizeFinder,
    LearningRateFinder,
    ModelPruning,
    StochasticWeightAveraging,
)
from lightning.pytorch.plugins import Precision
from lightning.pytorch.strategies import ParallelStrategy
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import Tensor, nn
from torch.optim import LBFGS, Optimizer
from torch.utils.data import DataLoader, DistributedSampler
from typing_extensions import override

from lightning_optreg._checks import check_choice, check_range
from lightning_optreg.optimizers import BFGS, AdaptiveRevision, Newton
from lightning_optreg.strategies._board import MOST_GROUPS
from lightning_optreg.strategies._delays import Delays
from lightning_optreg.strategies._hogwild_hooks import AfterAll, BeforeAll, InOthers
from lightning_optreg.strategies._hogwild_lead import Lead
from lightning_optreg.strategies._hogwild_mate import Follower
from lightning_optreg.strategies._processes import Crew, Launcher, Mate
from lightning_optreg.strategies._shared_memory import Memory, move_in, move_out, plan_for
from lightning_optreg.strategies._shared_state import place_state, shareable_state
from lightning_optreg.strategies._worker import has_plateau, length_for_all, silence
from lightning_optreg.trainer.order_of_callbacks import put_first, put_last, take_out
from lightning_optreg.trainer.queries import callbacks_of
from lightning_optreg.trainer.roles import Asynchronous

__all__ = ["Hogwild"]

_KEY = "Hogwild"  # in checkpoints


class Hogwild(ParallelStrategy, Asynchronous):
    """TODO.

    Args:
        shared_state: TODO
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
        self.start_method = start_method or ("fork" if hasattr(os, "fork") else "spawn")
        self.timeout = timeout
        self._rank = 0
        self._role: Lead | Follower | None = None
        self._place: Crew | Mate | None = None
        self._delays: Delays | None = None
        self._tensors: list[Tensor] = []  # in shared memory
        self._hooks: list[Any] = []
        self._saved: dict[str, Any] | None = None  # of the workers, in the checkpoint that is resumed
        self._loader_states: list[Any] = []
        self._dump: dict[str, Any] = {}

    # ---- what Lightning asks -------------------------------------------------------------------------------

    @property
    def workers(self) -> int:
        """Number of workers, `devices` of the trainer."""
        return len(self.parallel_devices or [torch.device("cpu")])

    @property
    @override
    def launcher(self) -> Launcher:  # type: ignore[override]  # Lightning's base class is private
        """What starts the other workers."""
        return Launcher("Hogwild", self.workers, self.start_method, self.timeout, self._join)

    @property
    @override
    def accelerator(self) -> Accelerator | None:
        """The CPU."""
        return ParallelStrategy.accelerator.__get__(self)  # type: ignore[attr-defined,no-any-return]

    @accelerator.setter
    def accelerator(self, accelerator: Accelerator | None) -> None:
        if accelerator is not None and not isinstance(accelerator, CPUAccelerator):
            raise MisconfigurationException(
                f"Hogwild: its workers share main memory and {type(accelerator).__name__} has its own: set "
                "accelerator to cpu"
            )
        ParallelStrategy.accelerator.__set__(self, accelerator)  # type: ignore[attr-defined]

    @property
    def num_nodes(self) -> int:
        """One: the workers share the memory of one machine."""
        return 1

    @num_nodes.setter
    def num_nodes(self, num_nodes: int) -> None:
        if num_nodes != 1:
            raise MisconfigurationException(
                f"Hogwild: the workers share the memory of one machine: set num_nodes to 1, got {num_nodes}"
            )

    @property
    @override
    def root_device(self) -> torch.device:
        return torch.device("cpu")

    @property
    @override
    def global_rank(self) -> int:
        return self._rank

    @property
    @override
    def local_rank(self) -> int:
        return self._rank

    @property
    @override
    def node_rank(self) -> int:
        return 0

    @property
    @override
    def world_size(self) -> int:
        return self.workers if self._place is not None else 1

    @property
    def is_distributed(self) -> bool:
        """Whether loaders made now are dealt out: those for training are; worker 0 validates alone."""
        module = self.lightning_module
        return self._place is not None and module is not None and module.trainer.training

    @property
    @override
    def distributed_sampler_kwargs(self) -> dict[str, Any]:
        if self.is_distributed:
            return {"num_replicas": self.workers, "rank": self._rank}
        return {"num_replicas": 1, "rank": 0}

    @override
    def model_to_device(self) -> None:
        """Do nothing: it is in main memory."""

    @override
    def reduce(self, tensor: Any, *args: Any, **kwargs: Any) -> Any:
        """Return the worker's own: the others are elsewhere."""
        return tensor

    @override
    def all_gather(self, tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return the worker's own."""
        return tensor

    @override
    def reduce_boolean_decision(self, decision: bool, all: bool = True) -> bool:
        """Return the worker's own."""
        return decision

    @override
    def broadcast(self, obj: Any, src: int = 0) -> Any:
        """Return the worker's own."""
        return obj

    @override
    def barrier(self, name: str | None = None) -> None:
        """Wait until worker 0 has prepared the data, before they are set up; otherwise for nobody."""
        if name != "pre_setup":
            return
        if isinstance(self._place, Crew):
            self._place.board.set_flag("prepared", 1)
        elif isinstance(self._place, Mate):
            board = self._place.board
            self._place.rest(lambda: bool(board.flag("prepared")), dict)

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
        environment = self.cluster_environment
        if environment is not None and environment.world_size() > 1:
            raise MisconfigurationException(
                f"Hogwild: it starts its workers itself, but {type(environment).__name__} has started "
                f"{environment.world_size()} processes: start one"
            )
        super().setup_environment()
        if self._role is None:
            return
        trainer = self._role.trainer
        _refuse_callbacks(trainer)
        if isinstance(self._role, Lead):
            self._hooks = [BeforeAll(self._role), AfterAll(self._role)]
            put_first(trainer, self._hooks[0])
        else:
            silence(trainer)
            self._hooks = [InOthers(self._role)]
        put_last(trainer, self._hooks[-1])

    @override
    def setup(self, trainer: Trainer) -> None:
        super().setup(trainer)
        if self._role is None:
            return
        assert self.lightning_module is not None
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
        _refuse_optimizers(self.optimizers, shared_state=self.shared_state)
        if has_plateau(trainer):
            groups = sum(len(optimizer.param_groups) for optimizer in self.optimizers)
            if groups > MOST_GROUPS:
                raise MisconfigurationException(
                    f"Hogwild: with a schedule that follows a metric there can be {MOST_GROUPS} parameter "
                    f"groups, got {groups}"
                )
            if isinstance(role, Follower):  # it gets worker 0's rates
                for config in self.lr_scheduler_configs:
                    if config.reduce_on_plateau:
                        config.frequency = 2**62
        updates = role.board.updates
        self._delays = Delays(self.optimizers, lambda: sum(updates))

    @override
    def process_dataloader(self, dataloader: object) -> object:
        if self.is_distributed:
            dealt = (
                isinstance(dataloader, DataLoader) and isinstance(dataloader.sampler, DistributedSampler)
            ) or (_attribute(dataloader, "world_size"), _attribute(dataloader, "rank")) == (
                self.workers,
                self._rank,
            )
            if not dealt:
                raise MisconfigurationException(
                    f"Hogwild: the batches of a {type(dataloader).__name__} can't be dealt out to "
                    f"{self.workers} workers: use a DataLoader of a dataset with a length, a loader of this "
                    "package, or one with attributes rank and world_size of the trainer"
                )
        return dataloader

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
                f"Hogwild: the checkpoint was saved by {saved['workers']} workers in the middle of an epoch, so "
                f"each goes on with its own share: set devices to {saved['workers']}, got {self.workers}"
            )
        if saved is not None and saved["workers"] == self.workers:
            self._saved = saved
            if self._rank:
                checkpoint |= saved["others"][self._rank - 1]
        loops = checkpoint.get("loops", {}).get("fit_loop", {})
        self._loader_states = loops.get("state_dict", {}).get("combined_loader", [])
        return checkpoint


def _attribute(loader: object, name: str) -> Any:
    return getattr(loader, name, getattr(getattr(loader, "dataset", None), name, None))


def _refuse_callbacks(trainer: Trainer) -> None:
    reasons = {
        BatchSizeFinder: "it tries sizes in worker 0 only: run it with one device",
        LearningRateFinder: "it tries rates in worker 0 only: run it with one device",
        ModelPruning: "each worker would prune the shared weights by itself: prune after training",
        StochasticWeightAveraging: "each worker would average the shared weights: use WeightAveraging, which "
        "averages them in worker 0",
    }
    for callback in callbacks_of(trainer):
        for kind, reason in reasons.items():
            if isinstance(callback, kind):
                raise MisconfigurationException(
                    f"Hogwild: {type(callback).__name__} doesn't work with it; {reason}"
                )


def _refuse_optimizers(optimizers: list[Optimizer], *, shared_state: bool) -> None:
    for optimizer in optimizers:
        name = type(optimizer).__name__
        if isinstance(optimizer, (LBFGS, BFGS, Newton)):
            raise MisconfigurationException(
                f"Hogwild: {name} compares losses and gradients at points of its own, which the other workers "
                "move: use a first-order optimizer"
            )
        if isinstance(optimizer, AdaptiveRevision) and not shared_state:
            raise MisconfigurationException(
                f"Hogwild: {name} needs the sum of all workers' gradients: set shared_state to true"
            )
