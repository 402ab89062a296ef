"""Evaluation with a network's output averaged over several passes.

The base of `NoiseMarginalization`, `NoisyEnsemble`, `SnapshotEnsemble` and `TestTimeAugmentation`. Each
defines its passes; `Passes` runs those of all callbacks that average one network, and replaces the network's
output by the average. So the module's own `validation_step`, `test_step` or `predict_step` works on averages,
whatever it computes.
"""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, ClassVar, Literal

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from typing_extensions import override

from lightning_optreg.callbacks._network import find_network, makes_layers_later
from lightning_optreg.callbacks._of_a_kind import OfAKind
from lightning_optreg.callbacks.evaluation._averaged_passes import Passes
from lightning_optreg.callbacks.evaluation.spread import describe_spread
from lightning_optreg.layers.averages import Average
from lightning_optreg.trainer.queries import callbacks_of

__all__ = ["AveragedForward", "Stage"]

Stage = Literal["validate", "test", "predict"]


class AveragedForward(OfAKind):
    """Base of callbacks that average a network's output over passes in evaluation.

    Several of them on one network run all combinations of their passes, whatever their order, and the output
    is the mean over all of these. Random numbers of the passes come from separately seeded states of the
    generators. All generators, including those of layers, advance as in one pass without these callbacks, so
    training continues as if they weren't there, and every evaluation of the same weights gives the same
    result.

    Args:
        stages: Stages in which outputs are averaged.
        average: See `average_outputs`.
        net: See `find_network`.
        seed: Seed of evaluation, any integer; each process adds its rank.

    Raises:
        ValueError: If a value is out of its range.
        MisconfigurationException: Before the first step, if the network is not found, or if there is another
            of these callbacks that can't be combined with this one.
    """

    place: ClassVar[int] = 2
    """Of several on one network, those with lower numbers are the outer loops: views, weights, noise."""

    def __init__(self, stages: Sequence[Stage], average: Average, net: str | None, seed: int) -> None:
        name = type(self).__name__
        known = ("validate", "test", "predict")
        listed = isinstance(stages, (list, tuple, set, frozenset)) and len(stages) > 0
        if not (listed and all(stage in known for stage in stages)):
            raise ValueError(f"{name}: stages must be some of validate, test, predict, got {stages!r}")
        if average not in ("probabilities", "outputs"):
            raise ValueError(f"{name}: average must be 'probabilities' or 'outputs', got {average!r}")
        self.stages, self.average, self.net, self.seed = tuple(stages), average, net, seed
        self._network: nn.Module | None = None
        self._passes: Passes | None = None
        self._device, self._rank = torch.device("cpu"), 0
        self._log_name = ""
        self._quantities: list[tuple[dict[str, Tensor], int]] = []  # of the batch, logged at its end

    @abstractmethod
    def inputs(self, images: Tensor) -> Iterator[Tensor]:
        """Yield the network's inputs, one per pass, for a batch of images (N, C, H, W); at least one."""

    def describe(self, outputs: Tensor) -> dict[str, Tensor]:
        """Return quantities to log of the outputs (S, N, ...) of all passes: means over images, by name.

        By default how much they differ. If other callbacks vary the network too, the outputs are averaged
        over their passes.
        """
        return describe_spread(outputs, self.average)

    def begin(self, network: nn.Module) -> None:
        """Prepare an evaluation; undone in `end`. Does nothing by default."""

    def end(self) -> None:
        """Undo `begin`, also after an exception."""

    def switch(self, on: bool) -> None:
        """Prepare the network for passes, or restore it. Does nothing by default."""

    def plain(self, images: Tensor) -> Tensor:
        """Return the network's input without this callback: the images themselves by default."""
        return images

    def own_noise(self) -> Sequence[nn.Module]:
        """Return the layers that draw random numbers only because they are switched on."""
        return ()

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Count callbacks of this class, and inspect the module, if it already has its layers."""
        super().setup(trainer, pl_module, stage)
        if not makes_layers_later(pl_module):
            self.look(trainer, pl_module)

    def look(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the network, and other callbacks that average it, before anything runs."""
        network = find_network(pl_module, self.net, type(self).__name__)
        for other in _averaging(trainer, self.stages):
            if other is not self:
                self._check(network, other, find_network(pl_module, other.net, type(other).__name__))

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Inspect the module, if it had no layers before."""
        super().on_fit_start(trainer, pl_module)
        self._look_later(trainer, pl_module)

    def _look_later(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if makes_layers_later(pl_module):
            self.look(trainer, pl_module)

    @override
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Inspect the module, if it had no layers before."""
        if trainer.state.fn != TrainerFn.FITTING:  # already done at the start of the fit
            self._look_later(trainer, pl_module)

    @override
    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Inspect the module, if it had no layers before."""
        self._look_later(trainer, pl_module)

    @override
    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Inspect the module, if it had no layers before."""
        self._look_later(trainer, pl_module)

    def _check(self, network: nn.Module, other: "AveragedForward", theirs: nn.Module) -> None:
        name, its_name = type(self).__name__, type(other).__name__
        if network is not theirs:
            if any(module is theirs for module in network.modules()):
                raise MisconfigurationException(
                    f"{name}: it averages {type(network).__name__}, but {its_name} averages its part "
                    f"{type(theirs).__name__}; set the same net for both"
                )
        elif isinstance(other, type(self)):
            raise MisconfigurationException(
                f"{name}: two of them average the same network in the same stage; remove one, or set "
                "different stages"
            )
        elif self.average != other.average:
            raise MisconfigurationException(
                f"{name}: average is {self.average!r}, but that of {its_name} is {other.average!r} for the "
                "same network; set the same average for both"
            )

    def _start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        stage = _stage_of(trainer)
        if stage not in self.stages or self._passes is not None:  # started by another one
            return
        network = find_network(pl_module, self.net, type(self).__name__)
        parts = [
            part
            for part in _averaging(trainer, [stage])
            if find_network(pl_module, part.net, type(part).__name__) is network
        ]
        passes = Passes(network, pl_module, parts, trainer.global_rank)
        for part in parts:  # before anything that would have to be undone after an exception
            part._passes, part._network = passes, network
            part._device, part._rank = pl_module.device, trainer.global_rank
        passes.start()

    def _finish(self) -> None:
        if self._passes is not None:
            self._passes.stop()  # for the others too
            self._passes = None

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Call the network without a trace: later passes draw and describe what they would without."""
        count, draws = len(self._quantities), self.draws_so_far()
        with nullcontext() if self._passes is None else self._passes.aside():
            yield
        del self._quantities[count:]
        self.draw_on(draws)

    def draws_so_far(self) -> Any:
        """Return the state of random numbers of its own, beside those of the passes; none by default."""

    def draw_on(self, state: Any) -> None:
        """Restore it."""

    def keep(self, outputs: Tensor) -> None:
        """Describe the outputs (S, N, ...) of a call of the network, for logging at the batch's end."""
        self._quantities.append((self.describe(outputs), outputs.shape[1] if outputs.dim() > 1 else 1))

    def _batch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the quantities of the batch's passes; of several calls of the network in a step the last."""
        if self._passes is None:
            return
        quantities, self._quantities = self._quantities, []
        if not quantities:
            raise MisconfigurationException(
                f"{type(self).__name__}: the {_stage_of(trainer)} step did not call the network "
                f"{self.net or type(self._network).__name__}; pass net=<name of the module that it calls>"
            )
        if trainer.sanity_checking or trainer.predicting:
            return
        values, images = quantities[-1]
        for name, value in values.items():
            pl_module.log(
                f"{self._log_path(self._log_name)}/{name}",
                value,
                on_step=False,
                on_epoch=True,
                batch_size=images,
                sync_dist=True,
            )

    @override
    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Register the hooks, after other callbacks have used the plain network at the start."""
        self._start(trainer, pl_module)

    on_test_epoch_start = on_predict_epoch_start = on_validation_epoch_start

    @override
    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Log the batch's spread, but in a sanity check and in prediction, where nothing is logged."""
        self._batch_end(trainer, pl_module)

    on_test_batch_end = on_predict_batch_end = on_validation_batch_end

    @override
    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remove the hooks, before a checkpoint is written."""
        self._finish()

    on_test_epoch_end = on_predict_epoch_end = on_validation_epoch_end

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Remove the hooks and restore the generators, whatever happened."""
        self._finish()
        super().on_exception(trainer, pl_module, exception)


def _stage_of(trainer: Trainer) -> Stage:
    if trainer.predicting:
        return "predict"
    return "test" if trainer.testing else "validate"


def _averaging(trainer: Trainer, stages: Sequence[Stage]) -> list[AveragedForward]:
    """Return the callbacks of this kind that average in one of the stages."""
    callbacks = callbacks_of(trainer)
    return [c for c in callbacks if isinstance(c, AveragedForward) and not set(stages).isdisjoint(c.stages)]
