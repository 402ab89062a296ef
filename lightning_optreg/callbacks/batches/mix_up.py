"""Train on mixtures of two images, in all pixels (mixup) or in a rectangle (CutMix).

Zhang, Cisse, Dauphin, Lopez-Paz 2018, "mixup: Beyond empirical risk minimization" (arXiv:1710.09412); Yun,
Han, Oh, Chun, Choe, Yoo 2019, "CutMix: Regularization strategy to train strong classifiers with localizable
features" (arXiv:1905.04899). The mixing is torchvision's.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torchvision.transforms import v2
from typing_extensions import override

from lightning_optreg._checks import check_range
from lightning_optreg.callbacks._let_go import LetsGo
from lightning_optreg.callbacks.batches.changed_batch import ChangedBatch
from lightning_optreg.randomness.draws import Place
from lightning_optreg.randomness.processes import row_before
from lightning_optreg.trainer.queries import is_logging_step
from lightning_optreg.trainer.roles import BreaksPrivacy

__all__ = ["CutMix", "MixUp"]


class _Mixture(ChangedBatch, LetsGo, BreaksPrivacy):
    """Mixes each image of a batch, and its label, with its neighbour's."""

    mixing: ClassVar[type[v2.MixUp | v2.CutMix]]
    """The transform of torchvision's that does it."""

    def __init__(
        self,
        alpha: float = 1.0,
        p: float = 1.0,
        num_classes: int | None = None,
        images: int | str = 0,
        labels: int | str = 1,
        seed: int | None = None,
    ) -> None:
        name = type(self).__name__
        check_range(name, "[0, inf)", alpha=alpha)
        check_range(name, "[0, 1]", p=p)
        super().__init__(num_classes, images, labels, seed)
        self.alpha, self.p = alpha, p
        self._transform = self.mixing(alpha=alpha) if alpha > 0.0 else None
        self._share = 1.0
        self._before: Callable[[Tensor], Tensor] = _last

    @property
    def active(self) -> bool:
        """Whether alpha or p is above 0."""
        return self.alpha > 0.0 and self.p > 0.0

    @property
    @override
    def breaks_privacy(self) -> str:
        """It mixes examples."""
        return "mixes images, so that a gradient depends on two of them" if self.active else ""

    def mix(self, images: Tensor, labels: Tensor, place: Place) -> tuple[Tensor, Tensor]:
        """Mix images (N, C, H, W) and labels (N, K) with the transform of torchvision."""
        transform: Any = self._transform
        # It draws from the CPU's global generator, whose state is restored.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self.seed_of(place))
            self._share = 1.0
            if torch.rand(()) >= self.p:
                return images, labels
            drawn = transform.make_params([images])
        self._share = drawn.get("lam_adjusted", drawn.get("lam"))
        alone = place.total == len(images)
        if not alone:  # the image before the first is on another process
            images, labels = (torch.cat((self._before(rows), rows)) for rows in (images, labels))
        drawn |= {"labels": labels, "batch_size": len(images)}
        images, labels = transform.transform(images, drawn), transform.transform(labels, drawn)
        return (images, labels) if alone else (images[1:], labels[1:])

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prepare the exchange with the other processes."""
        super().on_fit_start(trainer, pl_module)
        self._before = partial(row_before, trainer=trainer)

    @override
    def let_go(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the trainer."""
        self._before = _last

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log lambda every `log_every_n_steps` steps."""
        if self.active and is_logging_step(trainer):
            name = "mix_up" if isinstance(self, MixUp) else "cut_mix"
            pl_module.log(f"{self._log_path(name)}/lambda", self._share, batch_size=len(batch[self.images]))


def _last(rows: Tensor) -> Tensor:
    return rows[-1:]


class MixUp(_Mixture):
    """Train on x = lambda x_i + (1 - lambda) x_j, y = lambda y_i + (1 - lambda) y_j with lambda ~ Beta(a, a).

    Lambda is drawn once per batch, and x_j is the image before x_i in the batch, as in torchvision's `MixUp`,
    which is used here; batches must be shuffled. Lambda is a function of the seed, the epoch and the batch,
    so a resumed run draws the same as an uninterrupted one, and all processes of DDP draw the same. They mix
    over the global batch: each process gets the last image of the one before, so images must have the same
    shape everywhere, and two processes with batches of n train on the same mixtures as one with 2n. The batch
    is changed on the device right before the module's `training_step`, with automatic and manual
    optimization. Inputs may have any shape (N, ...); labels may be classes or probabilities (or regression
    targets (N, K)). The module gets probabilities (N, K), which `torch.nn.functional.cross_entropy` accepts.
    An accuracy that the module computes in training must accept them too; that of `ImageClassifier` counts
    the larger part of a mixture. Logs `optreg/mix_up/lambda`.

    Args:
        alpha: a, at least 0; near 0 hardly anything is mixed, with 1 all values of lambda are equally likely.
            The paper uses 1 for CIFAR-10 and 0.2 for ImageNet. With 0 nothing happens. Default: 1.
        p: Probability in [0, 1] that a batch is mixed. Default: 1.
        num_classes: Number of classes K, at least 2. None: `num_classes` of the module or its datamodule.
        images: Where in a batch the inputs are: an index in a list, or a key of a dictionary. Default: 0.
        labels: Where the labels are. Default: 1.
        seed: Seed of the random numbers. None: the number given to `seed_everything`, else 0.

    Raises:
        ValueError: If a number is out of its range.
        TypeError: If images or labels is neither an index nor a key, or seed is not an integer.
        MisconfigurationException: Before the first step, with a callback that turns noise off, or if
            `training_step` takes a `dataloader_iter`; in the first step, if the batch has no such inputs or
            labels, K is not known, or a label is not in [0, K).

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[MixUp(alpha=0.2)], accelerator="cpu", logger=False)
    """

    mixing = v2.MixUp

    def change(self, images: Tensor, labels: Tensor, place: Place) -> tuple[Tensor, Tensor]:
        """Mix inputs (N, ...) and labels."""
        _require_float("MixUp", images)
        probabilities = self.probabilities(labels, images.dtype)
        # torchvision requires images, but any numbers can be mixed
        flat = images.reshape(len(images), 1, 1, -1)
        mixed, targets = self.mix(flat, probabilities, place)
        return mixed.view(images.shape), targets


class CutMix(_Mixture):
    """Train on images with a rectangle from another image, and on labels mixed in proportion to the areas.

    A rectangle with 1 - lambda of the area, lambda ~ Beta(a, a), is replaced in all images of the batch by
    the same part of the previous image. It is cut off at the image's edge, and y = lambda y_i + (1 - lambda)
    y_j with lambda computed from the remaining area. For everything else see `MixUp`: it uses torchvision's
    `CutMix`, and the two may be combined, each with p below 1. Logs `optreg/cut_mix/lambda`.

    Args:
        alpha: a, at least 0; the paper uses 1. With 0 nothing happens. Default: 1.
        p: Probability in [0, 1] that a batch is mixed; the authors use 0.5 for CIFAR-100 and 1 for ImageNet.
            Default: 1.
        num_classes: Number of classes K, at least 2. None: `num_classes` of the module or its datamodule.
        images: Where in a batch the images (N, C, H, W) are: an index in a list, or a key of a dictionary.
            Default: 0.
        labels: Where the labels are. Default: 1.
        seed: Seed of the random numbers. None: the number given to `seed_everything`, else 0.

    Raises:
        ValueError: If a number is out of its range.
        TypeError: If images or labels is neither an index nor a key, or seed is not an integer.
        MisconfigurationException: Before the first step, with a callback that turns noise off, or if
            `training_step` takes a `dataloader_iter`; in the first step, if the batch has no such inputs or
            labels, K is not known, or a label is not in [0, K).

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[CutMix(p=0.5)], accelerator="cpu", logger=False)
    """

    mixing = v2.CutMix

    def change(self, images: Tensor, labels: Tensor, place: Place) -> tuple[Tensor, Tensor]:
        """Mix images (N, C, H, W) and labels."""
        _require_float("CutMix", images)
        if images.ndim != 4:
            raise MisconfigurationException(
                f"CutMix: images must be (N, C, H, W) in a training batch, got {tuple(images.shape)}"
            )
        probabilities = self.probabilities(labels, images.dtype)
        return self.mix(images, probabilities, place)


def _require_float(owner: str, images: Tensor) -> None:
    if not images.is_floating_point():
        raise MisconfigurationException(
            f"{owner}: images must be floating-point in a training batch, got {images.dtype}"
        )
