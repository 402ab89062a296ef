"""Evaluation in which a network's output is its average over several passes.

What `NoiseMarginalization` and `TestTimeAugmentation` share. Hooks on the network, in place during evaluation
only, give it the first of several inputs and replace its output by the average over all of them. So the
module's own `validation_step`, `test_step` or `predict_step` works on averages, whatever it computes.
"""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from typing_extensions import override

from lightning_optreg.callbacks.of_a_kind import OfAKind
from lightning_optreg.callbacks.random_state import collect_random_state, restore_random_state

__all__ = ["Average", "AveragedForward", "Stage", "average_outputs", "find_network"]

Average = Literal["probabilities", "outputs"]
Stage = Literal["validate", "test", "predict"]


def average_outputs(outputs: Tensor, average: Average) -> Tensor:
    """Average what a network gave in several passes.

    Args:
        outputs: (S, N, K), of S passes; with `average="outputs"` (S, ...).
        average: `probabilities`: outputs are scores f, and the result is log(1/S sum over s of softmax(f_s)),
            scores whose softmax is the mean probability and whose cross entropy is that of the mean
            probability. `outputs`: the plain mean.

    Returns:
        (N, K), or (...).

    Example:
        >>> scores = torch.tensor([[[0.9, 0.1]], [[0.5, 0.5]]]).log()
        >>> average_outputs(scores, "probabilities").softmax(-1)
        tensor([[0.7000, 0.3000]])
    """
    if average == "outputs":
        return outputs.mean(0)
    passes = torch.tensor(float(len(outputs)), device=outputs.device)
    return outputs.log_softmax(-1).logsumexp(0) - passes.log()


def find_network(module: nn.Module, name: str | None, part: str) -> nn.Module:
    """Find the network within a LightningModule.

    Args:
        module: The LightningModule.
        name: The network's name in it, such as `net` or `model.backbone`. None: `net` or `model`, or the only
            child that has parameters, or the LightningModule itself if it has a `forward` of its own.
        part: Name of the class that asks, for the error.

    Returns:
        The network.

    Raises:
        MisconfigurationException: If there is no such module, or None does not tell.

    Example:
        >>> find_network(nn.Sequential(nn.Linear(2, 3), nn.ReLU()), None, "NoiseMarginalization")
        Linear(in_features=2, out_features=3, bias=True)
    """
    children = dict(module.named_children())
    if name is not None:
        found: nn.Module | None = dict(module.named_modules()).get(name)
        if found is None or name == "":
            raise MisconfigurationException(
                f"{part}: net={name!r} is no module of {type(module).__name__}, whose children are "
                f"{', '.join(children) or 'none'}"
            )
        return found
    named: nn.Module | None = children.get("net", children.get("model"))
    if named is not None:
        return named
    learned: list[nn.Module] = [c for c in children.values() if any(True for _ in c.parameters())]
    if len(learned) == 1:
        return learned[0]
    if type(module).forward is LightningModule.forward:
        raise MisconfigurationException(
            f"{part}: {type(module).__name__} has no `net` or `model` and {len(learned)} children with "
            f"parameters: say by net=... which is the network, out of {', '.join(children) or 'none'}"
        )
    return module


class AveragedForward(OfAKind):
    """Base of callbacks under which a network's output in evaluation is an average over passes.

    Random numbers drawn in evaluation come from generators seeded for it, and afterwards all generators stand
    where they stood before: training goes on as if the callback weren't there, and every evaluation of the
    same weights gives the same.

    Args:
        stages: Where outputs are averaged.
        average: See `average_outputs`.
        net: See `find_network`.
        seed: Seed of evaluation, any integer; each process adds its rank.
    """

    def __init__(self, stages: Sequence[Stage], average: Average, net: str | None, seed: int) -> None:
        name = type(self).__name__
        if isinstance(stages, str) or not stages or not set(stages) <= {"validate", "test", "predict"}:
            raise ValueError(f"{name}: stages must be some of validate, test, predict, got {stages!r}")
        if average not in ("probabilities", "outputs"):
            raise ValueError(f"{name}: average must be 'probabilities' or 'outputs', got {average!r}")
        self.stages, self.average, self.net, self.seed = tuple(stages), average, net, seed
        self._handles: list[RemovableHandle] = []
        self._network: nn.Module | None = None
        self._rest: Iterator[Tensor] = iter(())
        self._random_state: dict[str, Any] | None = None
        self._device, self._rank = torch.device("cpu"), 0
        self._log_name = ""
        self._quantities: list[tuple[dict[str, Tensor], int]] = []  # of the batch, to be logged at its end

    @abstractmethod
    def inputs(self, images: Tensor) -> Iterator[Tensor]:
        """What the network gets, pass by pass, in place of a batch of images (N, C, H, W); at least one."""

    @abstractmethod
    def describe(self, outputs: Tensor) -> dict[str, Tensor]:
        """What to log of the outputs (S, N, ...) of all passes: means over images, by name."""

    def begin(self, network: nn.Module) -> None:
        """Prepare the network for evaluation; undone in `end`. Nothing by default."""

    def end(self) -> None:
        """Undo what `begin` did, also after an exception."""

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the network before anything runs."""
        super().setup(trainer, pl_module, stage)
        find_network(pl_module, self.net, type(self).__name__)

    def _start(self, trainer: Trainer, pl_module: LightningModule, stage: Stage) -> None:
        if stage not in self.stages:
            return
        self._network = network = find_network(pl_module, self.net, type(self).__name__)
        self._device, self._rank = pl_module.device, trainer.global_rank
        self._random_state = collect_random_state(self._device)
        torch.manual_seed(self.seed + trainer.global_rank)
        self._handles = [
            # A compiled network may call them. (torch 2.14 gives `disable` no types.)
            network.register_forward_pre_hook(torch.compiler.disable(self._first)),  # type: ignore[no-untyped-call]
            network.register_forward_hook(torch.compiler.disable(self._average)),  # type: ignore[no-untyped-call]
        ]
        self.begin(network)

    def _finish(self) -> None:
        if self._random_state is None:
            return
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self.end()
        restore_random_state(self._random_state, self._device)
        self._random_state = None

    def _first(self, network: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        if not args or not isinstance(args[0], Tensor):
            raise MisconfigurationException(
                f"{type(self).__name__}: the network must get the images as its first argument, not by name"
            )
        self._rest = self.inputs(args[0])
        return next(self._rest), *args[1:]

    def _average(self, network: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if not isinstance(output, Tensor):
            raise MisconfigurationException(
                f"{type(self).__name__}: the network's output must be a tensor, got {type(output).__name__}"
            )
        # `forward` itself: these hooks shall not be called again.
        outputs = torch.stack([output, *(network.forward(images, *args[1:]) for images in self._rest)])
        self._quantities.append((self.describe(outputs), outputs.shape[1] if outputs.dim() > 1 else 1))
        return average_outputs(outputs, self.average)

    def _batch_end(self, pl_module: LightningModule, stage: Stage, *, log: bool) -> None:
        """Log what the batch's passes were like; several calls of the network in a step count as one."""
        if self._random_state is None:
            return
        quantities, self._quantities = self._quantities, []
        if not quantities:
            raise MisconfigurationException(
                f"{type(self).__name__}: the {stage} step did not call the network "
                f"{self.net or type(self._network).__name__}: name the module that it calls by net=..."
            )
        if not log:
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
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the hooks in place, after the module was set to evaluation."""
        self._start(trainer, pl_module, "validate")

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
        """Log the batch's spread."""
        self._batch_end(pl_module, "validate", log=not trainer.sanity_checking)

    @override
    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the hooks away and set the generators back, before a checkpoint is written."""
        self._finish()

    @override
    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the hooks in place."""
        self._start(trainer, pl_module, "test")

    @override
    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Log the batch's spread."""
        self._batch_end(pl_module, "test", log=True)

    @override
    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the hooks away and set the generators back."""
        self._finish()

    @override
    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the hooks in place."""
        self._start(trainer, pl_module, "predict")

    @override
    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Forget the batch's spread: nothing is logged in prediction."""
        self._batch_end(pl_module, "predict", log=False)

    @override
    def on_predict_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the hooks away and set the generators back."""
        self._finish()

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Take the hooks away and set the generators back, whatever happened."""
        self._finish()
