"""Set the filters of whitening convolutions from training images, and stop the training of their biases.

Jordan, "94% on CIFAR-10 in 3.29 seconds on a single GPU", 2024 (arXiv:2404.00498), section 3.2.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from typing_extensions import override

from lightning_optreg._checks import check_places, check_range
from lightning_optreg.callbacks._let_go import LetsGo
from lightning_optreg.callbacks._network import makes_layers_later
from lightning_optreg.callbacks._of_a_kind import OfAKind
from lightning_optreg.data.batch import Share
from lightning_optreg.data.datamodule import ImageDataModule
from lightning_optreg.layers.whitened_conv import WhitenedConv2d
from lightning_optreg.trainer.queries import datamodule_of, place_in_step
from lightning_optreg.trainer.refusals import (
    refuse_asynchronous,
    refuse_own_weights,
    refuse_sharding,
    refuse_steps_elsewhere,
)
from lightning_optreg.trainer.roles import Asynchronous, BreaksPrivacy

__all__ = ["PatchWhitening"]

_CHUNK = 512  # images at once


class PatchWhitening(OfAKind, LetsGo, BreaksPrivacy):
    """Whiten patches: set the filters of every `WhitenedConv2d` from training images when a run begins.

    The filters of each such layer of a module become the eigenvectors of the covariance of the images'
    patches, each over sqrt(eigenvalue + eps), and their negatives. The layers must get the images themselves,
    as a network's first one does. After `bias_epochs` epochs their biases are not trained any more: they get
    no gradient, so optimizers leave them as they are, momentum and weight decay included; and the backward
    pass ends before the layer, which saves time (with `ddp`, which waits for gradients of all parameters, it
    does not end there).

    With a data module of this package the images are evenly spread over the training split, and as in
    evaluation: normalised, not augmented. Filters are then set before anything else happens. With other data
    they are those of the first training batch, as it is when it gets to this callback, with its augmentation;
    filters are set right before the first step. No loader is asked for more, and no random numbers are drawn.
    All processes get the filters of rank 0.

    A resumed run keeps the filters of its checkpoint, and layers that are whitened already stay so, such as
    those of a network whose weights were loaded before the fit.

    Args:
        count: Number of images from a data module of this package, at least 0. With 0 filters stay as they
            are. Default: 5000, the author's.
        bias_epochs: Epochs in which biases are trained, at least 0. None: all. Default: 3, the author's.
        images: Where in a batch of other data the images are: an index, or a key of a dictionary. Default: 0.

    Raises:
        ValueError: If a number is out of its range.
        TypeError: If images is neither an index nor a key.
        MisconfigurationException: Before the first step, if the module has no `WhitenedConv2d`, or one that
            does not take the images; if the strategy shards parameters or splits the network, has servers, or
            (with other data) workers that do not wait for each other.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[PatchWhitening(bias_epochs=3)], accelerator="cpu", logger=False)
    """

    only_one = "which sets the filters of all layers"
    breaks_privacy = "takes the covariance of training images without noise"

    def __init__(self, count: int = 5000, bias_epochs: int | None = 3, images: int | str = 0) -> None:
        check_range("PatchWhitening", ">= 0", count=count)
        if bias_epochs is not None:
            check_range("PatchWhitening", ">= 0", bias_epochs=bias_epochs)
        check_places("PatchWhitening", images=images)
        self.count, self.bias_epochs, self.images = count, bias_epochs, images
        self._biases: list[nn.Parameter] = []
        self._waits = False  # for the first batch

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the layers, if they exist already, before other callbacks change anything."""
        super().setup(trainer, pl_module, stage)
        if stage == "fit":
            _refuse_strategies(trainer)
            if not makes_layers_later(pl_module):
                _layers_of(pl_module)

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Set the filters if a data module of this package has the images."""
        layers = _layers_of(pl_module)
        biases = [bias for each in layers for name, bias in each.named_parameters() if name == "bias"]
        self._biases = [bias for bias in biases if bias.requires_grad]
        self._waits = False
        if self.count == 0 or trainer.ckpt_path is not None or all(each.patches > 0 for each in layers):
            return
        data = datamodule_of(trainer)
        if isinstance(data, ImageDataModule):
            self._whiten(trainer, pl_module, _Spread(trainer, data, self.count))
        else:
            refuse_asynchronous(
                trainer,
                "PatchWhitening",
                "so they have no common first batch; use a data module of lightning_optreg.data",
            )
            self._waits = True

    @override
    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Set the filters from the first batch of other data; stop the training of the biases in time."""
        if self._waits:
            self._waits = False
            self._whiten(trainer, pl_module, [self._images_in(batch)])
        # Also in the middle of an epoch, where a resumed run begins without on_train_epoch_start.
        frozen = self._is_over(trainer)
        # DDP waits for the gradients of all that required one when it was set up.
        wrapped = isinstance(trainer.strategy.model, DistributedDataParallel)
        for bias in self._biases:
            bias.requires_grad_(not frozen or wrapped)
            if frozen:
                bias.grad = None

    @override
    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Drop the gradients of biases that are not trained any more, before others see them."""
        if self._is_over(trainer):
            for bias in self._biases:
                bias.grad = None

    def _is_over(self, trainer: Trainer) -> bool:
        return self.bias_epochs is not None and trainer.current_epoch >= self.bias_epochs

    def _whiten(self, trainer: Trainer, pl_module: LightningModule, batches: Iterable[Tensor]) -> None:
        named = [
            (name, each)
            for name, each in pl_module.named_modules()
            if isinstance(each, WhitenedConv2d) and each.patches == 0
        ]
        channels = next(iter(batches)).shape[1]
        for name, layer in named:
            if layer.in_channels != channels:
                raise MisconfigurationException(
                    f"PatchWhitening: {name} takes {layer.in_channels} channels, but images have {channels}; "
                    "a WhitenedConv2d must get the images themselves"
                )
        _, processes = place_in_step(trainer)
        for _, layer in named:
            layer.whiten(batches)
            if processes > 1:
                mine = {name: value.cpu() for name, value in layer.state_dict().items()}
                layer.load_state_dict(trainer.strategy.broadcast(mine))

    def _images_in(self, batch: Any) -> Tensor:
        found = batch
        if isinstance(batch, Mapping) or (isinstance(batch, Sequence) and not isinstance(batch, str)):
            known = list(batch) if isinstance(batch, Mapping) else list(range(len(batch)))
            if self.images not in known:
                raise MisconfigurationException(
                    f"PatchWhitening: images={self.images!r} is not in a training batch, which has {known}"
                )
            found = batch[self.images]  # type: ignore[index]  # an index of a list, or a key of a dictionary
        if not isinstance(found, Tensor) or found.ndim != 4:
            shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise MisconfigurationException(
                f"PatchWhitening: images must be a tensor (N, C, H, W) in a training batch, got {shape}"
            )
        return found

    @override
    def let_go(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let biases be trained again."""
        for bias in self._biases:
            bias.requires_grad_(True)
        self._biases, self._waits = [], False


class _Spread:
    """Some training images of a data module, as in evaluation, evenly spread over the training split.

    Images are often stored class by class.
    """

    def __init__(self, trainer: Trainer, data: ImageDataModule, count: int) -> None:
        self.trainer, self.data, self.count = trainer, data, count

    def __iter__(self) -> Iterator[Tensor]:
        loader = self.data.train_dataloader()
        every = len(loader.indices)
        count = min(self.count, every)
        chosen = loader.indices[torch.arange(count, device=loader.indices.device) * every // count]
        bounds = [(start, min(start + _CHUNK, count)) for start in range(0, count, _CHUNK)]
        share = Share(
            loader.images, loader.labels, chosen.to(loader.images.device), 0, bounds, rank=0, world_size=1
        )
        for step in range(len(bounds)):
            batch = self.data.transfer_batch_to_device(share[step], self.trainer.strategy.root_device, 0)
            yield self.data.transform(batch, training=False)


def _layers_of(pl_module: LightningModule) -> list[WhitenedConv2d]:
    layers = [each for each in pl_module.modules() if isinstance(each, WhitenedConv2d)]
    if not layers:
        raise MisconfigurationException(
            f"PatchWhitening: {type(pl_module).__name__} has no WhitenedConv2d, whose filters it sets; "
            "use one as the network's first layer"
        )
    return layers


def _refuse_strategies(trainer: Trainer) -> None:
    name = "PatchWhitening"
    refuse_sharding(trainer, name, "so no process has whole filters; use ddp")
    refuse_steps_elsewhere(trainer, name, "so a bias that is not trained here would still move; use ddp")
    if isinstance(trainer.strategy, Asynchronous):
        refuse_own_weights(trainer, name, "so a bias that is not trained here would be pulled on; use ddp")
