"""Evaluation in which a network's output is its average over several passes.

What `NoiseMarginalization`, `NoisyEnsemble`, `SnapshotEnsemble` and `TestTimeAugmentation` share. Each says
what its passes are; `Passes` makes those of all that average one network together, and puts the average in
the place of the network's output. So the module's own `validation_step`, `test_step` or `predict_step` works
on averages, whatever it computes.
"""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Literal

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from typing_extensions import override

from lightning_optreg.callbacks._network import find_network, makes_layers_later
from lightning_optreg.callbacks._of_a_kind import OfAKind
from lightning_optreg.callbacks.evaluation._averaged_passes import Average, Passes, average_outputs
from lightning_optreg.callbacks.evaluation.spread import describe_spread
from lightning_optreg.trainer.queries import callbacks_of

__all__ = ["Average", "AveragedForward", "Stage", "average_outputs"]

Stage = Literal["validate", "test", "predict"]


class AveragedForward(OfAKind):
    """Base of callbacks under which a network's output in evaluation is an average over passes.

    Several of them on one network make the passes of their product, in whatever order they stand, and the
    output is the mean over all of these. Random numbers of the passes come from states of the generators that
    are seeded for them. All generators, those of layers included, move on by what one pass without any of
    these callbacks draws: training goes on as if they weren't there, and every evaluation of the same weights
    gives the same.

    Args:
        stages: Where outputs are averaged.
        average: See `average_outputs`.
        net: See `find_network`.
        seed: Seed of evaluation, any integer; each process adds its rank.

    Raises:
        ValueError: If a value is out of its range.
        MisconfigurationException: Before the first step, if the network is not found, or if another one of
            these callbacks is there that this one cannot be combined with.
    """

    place: ClassVar[int] = 2
    """Of several on one network, those with lower numbers vary in outer loops: views, weights, noise."""

    def __init__(self, stages: Sequence[Stage], average: Average, net: str | None, seed: int) -> None:
        name = type(self).__name__
        if isinstance(stages, str) or not stages or not set(stages) <= {"validate", "test", "predict"}:
            raise ValueError(f"{name}: stages must be some of validate, test, predict, got {stages!r}")
        if average not in ("probabilities", "outputs"):
            raise ValueError(f"{name}: average must be 'probabilities' or 'outputs', got {average!r}")
        self.stages, self.average, self.net, self.seed = tuple(stages), average, net, seed
        self._network: nn.Module | None = None
        self._passes: Passes | None = None
        self._device, self._rank = torch.device("cpu"), 0
        self._log_name = ""
        self._quantities: list[tuple[dict[str, Tensor], int]] = []  # of the batch, to be logged at its end

    @abstractmethod
    def inputs(self, images: Tensor) -> Iterator[Tensor]:
        """What the network gets, pass by pass, in place of a batch of images (N, C, H, W); at least one."""

    def describe(self, outputs: Tensor) -> dict[str, Tensor]:
        """What to log of the outputs (S, N, ...) of all passes: means over images, by name.

        How much they differ by default. Where others vary the network too, these are averages over what they
        do.
        """
        return describe_spread(outputs, self.average)

    def begin(self, network: nn.Module) -> None:
        """Prepare for an evaluation; undone in `end`. Nothing by default."""

    def end(self) -> None:
        """Undo what `begin` did, also after an exception."""

    def switch(self, on: bool) -> None:
        """Make the network ready for passes, or what it is without them. Nothing by default."""

    def plain(self, images: Tensor) -> Tensor:
        """What the network would get without this callback: the images themselves by default."""
        return images

    def own_noise(self) -> Sequence[nn.Module]:
        """The layers that draw random numbers because they are switched on, and only then."""
        return ()

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find out which of its class this is, and look at the module, if it has its layers already."""
        super().setup(trainer, pl_module, stage)
        if not makes_layers_later(pl_module):
            self.look(trainer, pl_module)

    def look(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the network, and others that average it, before anything runs."""
        network = find_network(pl_module, self.net, type(self).__name__)
        for other in _averaging(trainer, self.stages):
            if other is not self:
                self._check(network, other, find_network(pl_module, other.net, type(other).__name__))

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at the module, if it had no layers before."""
        super().on_fit_start(trainer, pl_module)
        self._look_later(trainer, pl_module)

    def _look_later(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if makes_layers_later(pl_module):
            self.look(trainer, pl_module)

    @override
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at the module, if it had no layers before."""
        if trainer.state.fn != TrainerFn.FITTING:  # it was done when the fit began
            self._look_later(trainer, pl_module)

    @override
    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at the module, if it had no layers before."""
        self._look_later(trainer, pl_module)

    @override
    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at the module, if it had no layers before."""
        self._look_later(trainer, pl_module)

    def _check(self, network: nn.Module, other: "AveragedForward", theirs: nn.Module) -> None:
        name, its_name = type(self).__name__, type(other).__name__
        if network is not theirs:
            if any(module is theirs for module in network.modules()):
                raise MisconfigurationException(
                    f"{name}: it averages {type(network).__name__} and {its_name} a part of it, "
                    f"{type(theirs).__name__}, which is no average of both: give both the same net"
                )
        elif isinstance(other, type(self)):
            raise MisconfigurationException(
                f"{name}: two of them average the same network in the same stage: leave one out, or give "
                "them other stages"
            )
        elif self.average != other.average:
            raise MisconfigurationException(
                f"{name}: average is {self.average!r} and that of {its_name} {other.average!r}, but they "
                "average the same network together: give both the same"
            )

    def _start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        stage = _stage_of(trainer)
        if stage not in self.stages or self._passes is not None:  # begun with another one
            return
        network = find_network(pl_module, self.net, type(self).__name__)
        parts = [
            part
            for part in _averaging(trainer, [stage])
            if find_network(pl_module, part.net, type(part).__name__) is network
        ]
        passes = Passes(network, pl_module, parts, trainer.global_rank)
        for part in parts:  # before anything is done that an exception would have to undo
            part._passes, part._network = passes, network
            part._device, part._rank = pl_module.device, trainer.global_rank
        passes.start()

    def _finish(self) -> None:
        if self._passes is not None:
            self._passes.stop()  # the others' too
            self._passes = None

    def keep(self, outputs: Tensor) -> None:
        """Describe the outputs (S, N, ...) of a call of the network, to be logged at the batch's end."""
        self._quantities.append((self.describe(outputs), outputs.shape[1] if outputs.dim() > 1 else 1))

    def _batch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log what the batch's passes were like; several calls of the network in a step count as one."""
        if self._passes is None:
            return
        quantities, self._quantities = self._quantities, []
        if not quantities:
            raise MisconfigurationException(
                f"{type(self).__name__}: the {_stage_of(trainer)} step did not call the network "
                f"{self.net or type(self._network).__name__}: name the module that it calls by net=..."
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
        """Put the hooks in place, after others had the network for themselves at the start."""
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
        """Take the hooks away, before a checkpoint is written."""
        self._finish()

    on_test_epoch_end = on_predict_epoch_end = on_validation_epoch_end

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Take the hooks away and set the generators back, whatever happened."""
        self._finish()
        super().on_exception(trainer, pl_module, exception)


def _stage_of(trainer: Trainer) -> Stage:
    if trainer.predicting:
        return "predict"
    return "test" if trainer.testing else "validate"


def _averaging(trainer: Trainer, stages: Sequence[Stage]) -> list[AveragedForward]:
    """The callbacks of this kind that average in one of the stages."""
    callbacks = callbacks_of(trainer)
    return [c for c in callbacks if isinstance(c, AveragedForward) and not set(stages).isdisjoint(c.stages)]
