"""What strategies share whose workers march together, each with weights of its own."""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from itertools import chain
from typing import Any, Literal

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.optim import Optimizer
from typing_extensions import override

from lightning_optreg.strategies.own_weights._after_failure import EndsAlone, reaches_all
from lightning_optreg.strategies.own_weights._common_weights import CommonWeights
from lightning_optreg.strategies.own_weights._flat import broadcast_tensors, copy_all, share_buffers
from lightning_optreg.strategies.own_weights._workers_state import collect_workers, worker_of
from lightning_optreg.trainer.order_of_callbacks import put_first
from lightning_optreg.trainer.refusals import refuse_lazy_layers

__all__ = ["WAIT", "Clock", "OwnWeightsStrategy"]

WAIT = timedelta(minutes=30)
"""How long a process waits for the others, as in torch."""

_WORKERS = "workers"  # key in a checkpoint


@dataclass
class Clock:
    """What belongs to the steps of one optimizer.

    Attributes:
        steps: t, its steps so far.
        joined: Names of the parameters that it trains, by the time at which they joined.
        parameters: These parameters, in this order.
        outer: The optimizer of the outer steps, if there are such.
    """

    steps: int = 0
    joined: list[list[str]] = field(default_factory=list)
    parameters: dict[nn.Parameter, None] = field(default_factory=dict)
    outer: Optimizer | None = None


class OwnWeightsStrategy(EndsAlone):
    """Workers in step with each other, each with weights of its own, and common weights for all else.

    The common weights are validated, saved, exported and left in the module at the end of a fit.

    Args:
        period: tau, optimizer steps from one exchange to the next, at least 1.
        process_group_backend: As in Lightning's DDPStrategy.
        timeout: How long a process waits for the others.
        start_method: As in Lightning's DDPStrategy.
    """

    log_name: str
    """Under which name of `optreg/` it logs."""

    def __init__(
        self,
        period: int,
        *,
        process_group_backend: str | None = None,
        timeout: timedelta | None = WAIT,
        start_method: Literal["popen", "spawn", "fork", "forkserver"] = "popen",
    ) -> None:
        name = type(self).__name__
        if isinstance(period, bool) or not (isinstance(period, int) and period >= 1):
            raise ValueError(f"{name}: period must be an integer >= 1, got {period}")
        super().__init__(
            process_group_backend=process_group_backend,
            timeout=timeout,
            start_method=start_method,
        )
        self.period = period
        self.bytes = 0
        """What this process has handed to all-reduces of weights in this run, bytes."""
        self.distance: Tensor | None = None
        """Distance of this worker's weights from the common ones at the last exchange, L2."""
        self._clocks: dict[int, Clock] = {}
        self._own: list[tuple[Tensor, Tensor]] | None = None  # while the module has the common weights
        self._fits = self._failed = False
        self._loaded: dict[str, Any] | None = None

    # ---- what a strategy has to say ------------------------------------------------------------------------

    @abstractmethod
    def make_step(
        self, clock: Clock, optimizer: Optimizer, trained: list[nn.Parameter], step: Callable[[], Any]
    ) -> Any:
        """Make the local step and, if it is time, what is exchanged around it.

        Args:
            clock: That of the optimizer.
            optimizer: The optimizer.
            trained: Its parameters that are not frozen; all have joined.
            step: Makes the local step.

        Returns:
            What the local step returns.
        """

    @abstractmethod
    def common(self, parameters: list[nn.Parameter]) -> list[Tensor]:
        """Return the common weights of parameters that have joined; all processes call it."""

    @property
    @abstractmethod
    def is_local(self) -> bool:
        """Whether every process knows the common weights without asking the others."""

    @abstractmethod
    def join(self, clock: Clock, parameters: list[nn.Parameter]) -> None:
        """Prepare for parameters that are equal in all processes and are trained from now on."""

    def check(self, trainer: Trainer) -> None:
        """Refuse settings that do not fit the run, before its first step."""

    # ---- a fit begins --------------------------------------------------------------------------------------

    @override
    def setup_environment(self) -> None:
        super().setup_environment()
        # Before other callbacks, so that they see the common weights in a validation and at the end.
        put_first(self.its_trainer, CommonWeights(self))

    @property
    def _named(self) -> dict[str, nn.Parameter]:
        assert self.lightning_module is not None
        return dict(self.lightning_module.named_parameters())

    @override
    def setup(self, trainer: Trainer) -> None:
        self._fits = self._failed = False
        self._own = None
        super().setup(trainer)

    @override
    def configure_ddp(self) -> None:
        """Begin with the weights of process 0, without a wrapper: gradients stay with their worker."""
        assert self.lightning_module is not None
        refuse_lazy_layers(self.lightning_module, type(self).__name__)
        broadcast_tensors(list(chain(self.lightning_module.parameters(), self.lightning_module.buffers())))
        self._fits = True
        self._begin()

    def _begin(self) -> None:
        """Start from the common weights in the module, or go on with those of a checkpoint."""
        self._clocks, self._own = {}, None
        self.bytes, self.distance = 0, None
        loaded, self._loaded = self._loaded, None
        if loaded is None:
            return
        self.bytes, self.distance = loaded["bytes"], loaded["distance"]
        named, buffers = self._named, self._buffers()
        for index, saved in loaded["clocks"].items():
            clock = self._clocks[index] = Clock(saved["steps"])
            for names in saved["joined"]:
                self._add(clock, [named[name] for name in names if name in named])
            if clock.outer is not None:
                clock.outer.load_state_dict(saved["outer"])
        with torch.no_grad():
            for here, saved in ((named, loaded["weights"]), (buffers, loaded["buffers"])):
                for name, value in saved.items():
                    if name in here:
                        here[name].copy_(value)

    def _add(self, clock: Clock, parameters: list[nn.Parameter]) -> None:
        names = {parameter: name for name, parameter in self._named.items()}
        unknown = sum(parameter not in names for parameter in parameters)
        if unknown:
            raise MisconfigurationException(
                f"{type(self).__name__}: the optimizers have {unknown} parameter(s) that are not the "
                "module's, so no checkpoint could keep them; make them parameters of the module"
            )
        clock.parameters |= dict.fromkeys(parameters)
        clock.joined.append([names[parameter] for parameter in parameters])
        self.join(clock, parameters)

    # ---- a step --------------------------------------------------------------------------------------------

    @override
    def optimizer_step(
        self,
        optimizer: Optimizer,
        closure: Callable[[], Any],
        model: LightningModule | nn.Module | None = None,
        **kwargs: Any,
    ) -> Any:
        clock = self._clocks.setdefault(self.optimizers.index(optimizer), Clock())
        every = (parameter for group in optimizer.param_groups for parameter in group["params"])
        trained = [parameter for parameter in every if parameter.requires_grad]
        joining = [parameter for parameter in trained if parameter not in clock.parameters]
        if joining:
            self._add(clock, joining)
        step = partial(super().optimizer_step, optimizer, closure, model, **kwargs)
        output = self.make_step(clock, optimizer, trained, step) if trained else step()
        clock.steps += 1
        return output

    # ---- common weights in the module ----------------------------------------------------------------------

    def put_common(self) -> None:
        """Put the common weights into the module, and keep this worker's own; all processes call it."""
        if not self._fits or self._own is not None:
            return
        parameters = list(dict.fromkeys(chain(*(clock.parameters for clock in self._clocks.values()))))
        buffers = list(self._buffers().values())
        with torch.inference_mode(False), torch.no_grad():
            own = [(tensor, tensor.detach().clone()) for tensor in (*parameters, *buffers)]
            if parameters:
                copy_all(parameters, self.common(parameters))
            share_buffers(buffers)
        self._own = own

    def put_own(self) -> None:
        """Put this worker's own weights back."""
        if self._own is not None:
            with torch.inference_mode(False), torch.no_grad():
                copy_all([tensor for tensor, _ in self._own], [own for _, own in self._own])
            self._own = None

    def end_in_failure(self, exception: BaseException) -> None:
        """Leave the common weights in the module if that needs no other process, which may be gone."""
        self._failed = True
        if self._fits and self._own is None and self.is_local:
            parameters = list(dict.fromkeys(chain(*(clock.parameters for clock in self._clocks.values()))))
            self._own = [(each, each.detach().clone()) for each in (*parameters, *self._buffers().values())]
            with torch.no_grad():
                copy_all(parameters, self.common(parameters))
        if self._fits and self.world_size > 1 and not reaches_all(exception):
            self.end_alone()

    def _buffers(self) -> dict[str, Tensor]:
        """The buffers that belong to the weights; others, such as caches, stay each worker's own."""
        assert self.lightning_module is not None
        kept = self.lightning_module.state_dict().keys()
        return {name: each for name, each in self.lightning_module.named_buffers() if name in kept}

    @override
    def on_validation_end(self) -> None:
        super().on_validation_end()
        if self.its_trainer.state.fn == TrainerFn.FITTING:
            self.put_own()

    @override
    def teardown(self) -> None:
        if not self._failed:
            self.put_common()  # a run that had nothing left to train has not done so
        super().teardown()
        if self._own is not None:  # for a checkpoint after the fit
            self._own = [(tensor, own.cpu()) for tensor, own in self._own]

    # ---- checkpoints ---------------------------------------------------------------------------------------

    @override
    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Return the common weights; all processes call it, but after an exception those in the module."""
        if not self._fits or self._own is not None or self.is_alone:
            return super().lightning_module_state_dict()
        with self._common_weights():
            state = super().lightning_module_state_dict()
            for name, value in state.items():
                state[name] = value.cpu().clone() if isinstance(value, Tensor) else value
        return state

    @contextmanager
    def _common_weights(self) -> Iterator[None]:
        self.put_common()
        try:
            yield
        finally:
            self.put_own()

    @override
    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any | None = None
    ) -> None:
        if self.is_alone:
            self.warn_of_no_checkpoint()
            return
        if self._fits and "optimizer_states" in checkpoint:  # not one of the weights only
            checkpoint[_WORKERS] = self._collect(checkpoint)
        super().save_checkpoint(checkpoint, filepath, storage_options)

    def _collect(self, checkpoint: Mapping[str, Any]) -> dict[str, Any]:
        own = {id(tensor): value for tensor, value in self._own or ()}
        trained = {name for clock in self._clocks.values() for names in clock.joined for name in names}
        weights = {name: each for name, each in self._named.items() if name in trained}
        others = {name: each for name, each in self._named.items() if name not in trained}
        mine = {
            "distance": self.distance,
            "weights": {name: own.get(id(each), each) for name, each in weights.items()},
            "buffers": {name: own.get(id(each), each) for name, each in self._buffers().items()},
            "checkpoint": {name: checkpoint[name] for name in self._parts_of_a_rank if name in checkpoint},
        }
        clocks = {
            index: {
                "steps": clock.steps,
                "joined": clock.joined,
                "outer": None if clock.outer is None else clock.outer.state_dict(),
            }
            for index, clock in self._clocks.items()
        }
        return {
            "strategy": type(self).__name__,
            "count": self.world_size,
            "clocks": clocks,
            "bytes": self.bytes,
            **collect_workers(self.its_trainer, mine, others),
        }

    @property
    def _parts_of_a_rank(self) -> Sequence[str]:
        return ("optimizer_states", "lr_schedulers", type(self.precision_plugin).__qualname__)

    @override
    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Load a checkpoint, with the states of optimizers, schedules and scaler of this worker."""
        checkpoint = super().load_checkpoint(checkpoint_path, weights_only)
        workers = checkpoint.pop(_WORKERS, None)
        self._loaded = None
        if workers is None or self.its_trainer.state.fn != TrainerFn.FITTING:
            return checkpoint
        name, count = type(self).__name__, self.world_size
        if (workers["strategy"], workers["count"]) != (name, count):
            rank_zero_warn(
                f"{name}: the checkpoint has the weights of {workers['count']} worker(s) of "
                f"{workers['strategy']}, this run has {count} of {name}; all start from the common weights, "
                "with the optimizer state of the first"
            )
            return checkpoint
        mine, others = worker_of(workers, self.global_rank)
        checkpoint.update(mine["checkpoint"])
        self._loaded = {
            **mine,
            "weights": {**mine["weights"], **others},
            "clocks": workers["clocks"],
            "bytes": workers["bytes"],
        }
        return checkpoint

    @override
    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        super().load_model_state_dict(checkpoint, strict)
        if self._fits:  # back to an earlier moment of this fit, as LearningRateFinder goes
            self._begin()
