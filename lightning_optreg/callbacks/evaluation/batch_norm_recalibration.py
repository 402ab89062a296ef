"""Recompute the statistics of batch normalisation from training data, for weights that were not trained so.

Averaged or manually changed weights have the running statistics of other weights (Izmailov et al. 2018,
"Averaging weights leads to wider optima and better generalization", arXiv:1803.05407, section 3.2).
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Any, Literal

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch import callbacks as lightning_callbacks
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from typing_extensions import override

from lightning_optreg._checks import check_places
from lightning_optreg.callbacks._network import find_network, makes_layers_later
from lightning_optreg.callbacks.steps.early_stopping import EarlyStopping
from lightning_optreg.layers.modes import evaluating
from lightning_optreg.randomness.kept_generators import kept_generators
from lightning_optreg.trainer.moved_batch import move_batch
from lightning_optreg.trainer.queries import callbacks_of, datamodule_of
from lightning_optreg.trainer.refusals import refuse_split_network
from lightning_optreg.trainer.roles import BreaksPrivacy

__all__ = ["BatchNormRecalibration", "batch_norms", "recalibrate"]


def batch_norms(network: nn.Module) -> list[Any]:
    """Find the layers with running statistics of a batch: torch's, this package's and similar ones.

    Example:
        >>> batch_norms(nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)))
        [BatchNorm1d(3, eps=1e-05, momentum=0.1, affine=True, bias=True, track_running_stats=True)]
    """
    return [
        module
        for module in network.modules()
        if isinstance(getattr(module, "running_mean", None), Tensor)
        and hasattr(module, "reset_running_stats")
    ]


@torch.no_grad()
def recalibrate(
    network: nn.Module,
    batches: Iterable[Tensor],
    mean_over_ranks: Callable[[Tensor], Tensor] = lambda statistic: statistic,
) -> int:
    """Replace running statistics by the means over batches of each batch's mean and (unbiased) variance.

    Only these layers are in training mode meanwhile; dropout is off, as in evaluation.

    Args:
        network: Any module.
        batches: Its inputs.
        mean_over_ranks: Returns the mean of a statistic over processes.

    Returns:
        Number of batches; with 0 the statistics stay unchanged.

    Example:
        >>> norm = nn.BatchNorm1d(1)
        >>> recalibrate(norm, [torch.tensor([[1.0], [3.0]]), torch.tensor([[5.0], [7.0]])])
        2
        >>> norm.running_mean, norm.running_var
        (tensor([4.]), tensor([2.]))
    """
    norms = batch_norms(network)
    momenta = [(norm, norm.momentum) for norm in norms]
    count = 0
    try:
        with evaluating(network):
            for batch in batches:
                if count == 0:
                    for norm in norms:
                        norm.reset_running_stats()
                        norm.momentum = None  # torch then averages evenly
                        norm.train()
                network(batch)
                count += 1
    finally:
        for norm, momentum in momenta:
            norm.momentum = momentum
    if count > 0:
        for norm in norms:
            for statistic in (norm.running_mean, norm.running_var):
                statistic.copy_(mean_over_ranks(statistic.clone()))
    return count


def _check_loader(loader: Any) -> None:
    if not isinstance(loader, Iterable) or isinstance(loader, (list, tuple, dict)):
        raise MisconfigurationException(
            f"BatchNormRecalibration: there must be one training loader, got {type(loader).__name__}"
        )


class BatchNormRecalibration(Callback, BreaksPrivacy):
    """Set the statistics of batch normalisation to those of the training data, for the current weights.

    Running statistics follow the weights of the last steps. They are wrong for weights from elsewhere: an
    average (`EMAWeightAveraging`, which averages the statistics as if they were weights), manually combined
    weights, a network with the noise of `NoisyEnsemble`. They become the means, over batches of training
    data, of the batches' means and unbiased variances: what torch's `update_bn` computes, but with dropout
    off; with DDP, over the batches of all processes. Lightning's `StochasticWeightAveraging` does this
    itself; snapshots of `SnapshotEnsemble` have their own statistics and don't need it.

    At the end of a fit it must come after callbacks that change the weights then. Checkpoints are written
    before; `trainer.save_checkpoint` after the fit saves the new statistics, and with `test` in the stages
    they are recomputed for the tested weights. The network is called with a batch's inputs, transferred (and
    at the end of a fit augmented) as in training. Lightning can't log there, so a line on the console has the
    number of layers and batches.

    Args:
        batches: Number of training batches, at least 1. None: an epoch.
        stages: When to recompute: `fit`, at its end; `validate`, `test`, `predict`, before each. Default:
            fit.
        images: Where in a batch the inputs are: an index, or a key of a dictionary. Default: 0.
        net: Name of the network in the LightningModule. None: see `find_network`.

    Raises:
        ValueError: If a value is out of its range.
        TypeError: If images is neither an index nor a key.
        MisconfigurationException: Before the first step, if the network is not found or has no batch
            normalisation, there are several training loaders, a batch has no such inputs or the network
            doesn't take them, a callback that changes the weights at the end comes after this one, or the
            strategy splits the network.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> from lightning.pytorch.callbacks import EMAWeightAveraging
        >>> callbacks = [EMAWeightAveraging(), BatchNormRecalibration(batches=100)]
        >>> trainer = Trainer(callbacks=callbacks, accelerator="cpu", logger=False)
    """

    breaks_privacy = "takes statistics of training images without noise"

    def __init__(
        self,
        batches: int | None = None,
        stages: Sequence[Literal["fit", "validate", "test", "predict"]] = ("fit",),
        images: int | str = 0,
        net: str | None = None,
    ) -> None:
        if batches is not None and not (isinstance(batches, int) and batches >= 1):
            raise ValueError(f"BatchNormRecalibration: batches must be a whole number >= 1, got {batches}")
        known = {"fit", "validate", "test", "predict"}
        if isinstance(stages, str) or not stages or not set(stages) <= known:
            raise ValueError(
                f"BatchNormRecalibration: stages must be some of fit, validate, test, predict, got {stages!r}"
            )
        check_places("BatchNormRecalibration", images=images)
        self.batches, self.stages, self.images, self.net = batches, tuple(stages), images, net
        self._is_due = self._tried = False

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the layers, if they exist already, and callbacks that change the weights at the end."""
        self._tried = False
        refuse_split_network(
            trainer, "BatchNormRecalibration", "so no process has all statistics; recalibrate in one process"
        )
        if not makes_layers_later(pl_module):
            self._find(pl_module)
        callbacks = callbacks_of(trainer)
        for later in callbacks[callbacks.index(self) + 1 :]:
            averages = isinstance(later, lightning_callbacks.WeightAveraging)
            if averages or (isinstance(later, EarlyStopping) and later.restore_best):
                raise MisconfigurationException(
                    f"BatchNormRecalibration: it must come after {type(later).__name__}, which changes the "
                    "weights at the end"
                )

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the layers, which the module may have created since."""
        self._find(pl_module)
        self._is_due = "fit" in self.stages

    def _find(self, pl_module: LightningModule) -> nn.Module:
        network = find_network(pl_module, self.net, "BatchNormRecalibration")
        if not batch_norms(network):
            raise MisconfigurationException(
                f"BatchNormRecalibration: {type(network).__name__} has no batch normalisation with running "
                "statistics"
            )
        return network

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse loaders that can't be iterated over at the end."""
        if "fit" in self.stages:
            _check_loader(trainer.train_dataloader)

    @override
    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Check before the first step that the network takes the inputs it will get at the end."""
        if "fit" in self.stages and not self._tried and batch is not None:  # None with dataloader_iter
            self._inputs(trainer, pl_module, batch)

    def _inputs(self, trainer: Trainer, pl_module: LightningModule, batch: Any) -> Tensor:
        """Return the network's inputs from a batch; with the first one, check that it takes them."""
        if isinstance(batch, Tensor):
            found = batch
        else:
            known = list(batch) if isinstance(batch, dict) else list(range(len(batch)))
            if self.images not in known:
                raise MisconfigurationException(
                    f"BatchNormRecalibration: images={self.images!r} is not in a training batch, which has "
                    f"{known}"
                )
            found = batch[self.images]
        if not self._tried:
            self._tried = True
            self._try(trainer, pl_module, found)
        return found

    def _try(self, trainer: Trainer, pl_module: LightningModule, inputs: Any) -> None:
        network = find_network(pl_module, self.net, "BatchNormRecalibration")
        generators = kept_generators(pl_module.device, module=pl_module)
        context = trainer.precision_plugin.val_step_context()
        try:
            with evaluating(network), generators, context, torch.no_grad():
                network(inputs)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, TypeError, ValueError) as error:
            raise MisconfigurationException(
                f"BatchNormRecalibration: {type(network).__name__} must take images={self.images!r} of a "
                f"training batch, got a {type(inputs).__name__}: {str(error).splitlines()[0]}"
            ) from error

    def _recalibrate(self, trainer: Trainer, pl_module: LightningModule, loader: Any) -> None:
        network = self._find(pl_module)
        _check_loader(loader)

        def inputs() -> Iterable[Tensor]:
            for batch in islice(loader, self.batches):
                yield self._inputs(trainer, pl_module, move_batch(trainer, pl_module, batch))

        data = datamodule_of(trainer)
        held = {"module": pl_module, "loader": loader, "data": data}

        def go_through() -> int:
            with kept_generators(pl_module.device, **held), trainer.precision_plugin.val_step_context():
                return recalibrate(network, inputs(), lambda s: trainer.strategy.reduce(s, reduce_op="mean"))

        count = go_through() or go_through()  # a loader resumed at its end is empty at first
        layers = len(batch_norms(network))
        rank_zero_info(f"BatchNormRecalibration: statistics of {layers} layers over {count} batches")

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Recompute the statistics for the final weights."""
        if "fit" in self.stages:
            self._recalibrate(trainer, pl_module, trainer.train_dataloader)
            self._is_due = False

    @override
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Do the same for a checkpoint of the last step, from which training does not start again."""
        if self._is_due and trainer.ckpt_path is not None and trainer.train_dataloader is not None:
            self._recalibrate(trainer, pl_module, trainer.train_dataloader)

    def _before(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage not in self.stages or trainer.training or trainer.sanity_checking:
            return
        datamodule = datamodule_of(trainer)
        if datamodule is not None:
            datamodule.setup("fit")
        owner = pl_module if datamodule is None else datamodule
        # Trainers evaluate in inference mode, whose tensors can't be buffers afterwards.
        with torch.inference_mode(False):
            self._recalibrate(trainer, pl_module, owner.train_dataloader())

    @override
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Recompute them before `trainer.validate`, but not before validations within a fit."""
        if trainer.state.fn == "validate":
            self._before(trainer, pl_module, "validate")

    @override
    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Recompute them before a test."""
        self._before(trainer, pl_module, "test")

    @override
    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Recompute them before a prediction."""
        self._before(trainer, pl_module, "predict")
