"""Average a network's predictions over several views of each image: crops, mirror images, sizes.

Krizhevsky, Sutskever, Hinton, "ImageNet classification with deep convolutional neural networks", 2012,
section 4.1, average the probabilities of ten crops; fb.resnet.torch adds up their scores instead.
"""

from collections.abc import Iterator, Sequence
from typing import ClassVar

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from typing_extensions import override

from lightning_optreg.callbacks.evaluation.averaged_forward import AveragedForward, Stage
from lightning_optreg.data.datamodule import ImageDataModule
from lightning_optreg.data.views import TenCrop, Views
from lightning_optreg.layers.averages import Average, average_outputs
from lightning_optreg.trainer.queries import datamodule_of

__all__ = ["TestTimeAugmentation"]


class TestTimeAugmentation(AveragedForward):
    """Show the network several views of each image in evaluation and average its predictions.

    p(k | x) = 1/V sum over v of softmax(f(T_v(x)))_k over V views T_v. The module's own step gets log p
    instead of the scores, so its loss, accuracy and probabilities are those of the average. Training is not
    affected, down to the last bit and random number.

    Views are made from whole images: if a datamodule of this package crops images in evaluation (such as from
    256 pixels by `RandomCrop(224)` in its `augment`), the step's batch has the uncropped images, and the
    network gets the views. Views that keep the images' size, such as `Flips`, are cropped afterwards. With
    other datamodules views are made from the images that the step gets. With a mean image views are made from
    mean-subtracted images.

    In validation and test it logs `optreg/test_time_augmentation/agreement`: the share of views whose
    prediction is that of the average, 1 if the network is invariant to the augmentation; for outputs other
    than scores (N, K), `std`, their standard deviation over the views. Evaluation takes V times as long.

    With `SnapshotEnsemble`, `NoiseMarginalization` and `NoisyEnsemble` on the same network the mean is over
    all combinations, and each logs quantities of its own passes, averaged over those of the others.

    It works with any LightningModule whose step calls the network as a module with the images (N, C, H, W) as
    its first argument. Networks with fully connected layers need views of their input size.

    Args:
        views: The views: `TenCrop`, `Flips`, `MultiScale`, `RandomViews` of any transforms, or your own
            `Views`. None: `TenCrop(padding=4)`, for small images. Default: None.
        average: `probabilities`, as in AlexNet's paper; `outputs`, the mean of the scores, as in
            fb.resnet.torch, also for regression and networks that return probabilities. Default:
            probabilities.
        stages: Some of `validate`, `test`, `predict`. Default: test and predict.
        net: Name of the network in the LightningModule. None: see `find_network`: `net`, `model` or the only
            child with parameters. Default: None.
        seed: Seed of random views, any integer. Default: 0.

    Raises:
        TypeError: If `views` is not `Views`.
        ValueError: If a value is out of its range.
        MisconfigurationException: Before the first step, if the network is not found, or another callback
            can't be combined with this one; in the first evaluated batch, if the step does not call the
            network, or its output is not a tensor, or not scores when probabilities are averaged.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> from lightning_optreg.data import Flips
        >>> trainer = Trainer(callbacks=[TestTimeAugmentation(Flips())], accelerator="cpu", logger=False)
    """

    __test__ = False  # not a test case, despite its name
    place: ClassVar[int] = 0

    def __init__(
        self,
        views: Views | None = None,
        average: Average = "probabilities",
        stages: Sequence[Stage] = ("test", "predict"),
        net: str | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(stages, average, net, seed)
        if views is not None and not isinstance(views, Views):
            raise TypeError(f"TestTimeAugmentation: views must be Views, got {type(views).__name__}")
        self.views = TenCrop(padding=4) if views is None else views
        self._log_name = "test_time_augmentation"
        self._data: ImageDataModule | None = None  # if it crops images in evaluation

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the network before anything runs, and whether the datamodule crops images."""
        super().setup(trainer, pl_module, stage)
        data = datamodule_of(trainer)
        self._data = data if isinstance(data, ImageDataModule) and data.crops else None

    @override
    def begin(self, network: nn.Module) -> None:
        """Seed the random views, and request whole images."""
        self.views.begin(self.seed + self._rank)
        if self._data is not None:
            self._data.uncropped = True

    @override
    def end(self) -> None:
        """Let images be cropped again."""
        if self._data is not None:
            self._data.uncropped = False

    @override
    def inputs(self, images: Tensor) -> Iterator[Tensor]:
        """Yield the views."""
        return self.views(images) if self._data is None else self._data.views_of(images, self.views)

    @override
    def plain(self, images: Tensor) -> Tensor:
        """Return the images as evaluation crops them."""
        return images if self._data is None else next(self._data.views_of(images, _itself))

    @override
    def describe(self, outputs: Tensor) -> dict[str, Tensor]:
        """Return the share of views that agree with the average."""
        if outputs.dim() != 3 or outputs.shape[-1] == 1:  # not scores of classes
            return {"std": outputs.detach().float().std(0, correction=0).mean()}
        decision = average_outputs(outputs, self.average).argmax(-1)
        return {"agreement": (outputs.argmax(-1) == decision).to(torch.float32).mean()}


def _itself(images: Tensor) -> Iterator[Tensor]:
    yield images
