"""Average a network's predictions over several views of each image: crops, mirror images, sizes.

Krizhevsky, Sutskever, Hinton, "ImageNet classification with deep convolutional neural networks", 2012,
section 4.1, average the probabilities of ten crops; fb.resnet.torch adds up their scores instead.
"""

from collections.abc import Iterator, Sequence

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from typing_extensions import override

from lightning_optreg.callbacks.averaged_forward import Average, AveragedForward, Stage, average_outputs
from lightning_optreg.data.views import TenCrop, Views

__all__ = ["TestTimeAugmentation"]


class TestTimeAugmentation(AveragedForward):
    """Shows the network several views of each image in evaluation and averages its predictions.

    p(k | x) = 1/V sum over v of softmax(f(T_v(x)))_k over V views T_v. The module's own step sees log p in
    place of the scores, so its loss, accuracy and probabilities are those of the average. Training is not
    touched, to the last bit and random number.

    In validation and test it logs `optreg/test_time_augmentation/agreement`: the share of views whose
    prediction is that of the average, 1 if the network does not mind the augmentation. Evaluation takes V
    times as long.

    It works on any LightningModule whose step calls the network as a module with the images (N, C, H, W) as
    its first argument. Networks with fully connected layers need views of the size they were made for.

    Args:
        views: The views: `TenCrop`, `Flips`, `MultiScale`, `RandomViews` of any transforms, or your own
            `Views`. None: `TenCrop(padding=4)`, for small images. Default: None.
        average: `probabilities`, as AlexNet's authors; `outputs`, the mean of the scores, as fb.resnet.torch,
            which also serves networks that give probabilities. Default: probabilities.
        stages: Where: some of `validate`, `test`, `predict`. Default: test and predict.
        net: Name of the network in the LightningModule. None: see `find_network`: `net`, `model` or the only
            child with parameters. Default: None.
        seed: Seed of random views, any integer. Default: 0.

    Raises:
        TypeError: If `views` is something else.
        ValueError: If a value is out of its range.
        MisconfigurationException: Before the first step, if the network is not found, or if the datamodule
            subtracts a mean image, which belongs to places in the image; in the first evaluated batch, if the
            step does not call the network or it returns no tensor.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> from lightning_optreg.data import Flips
        >>> trainer = Trainer(callbacks=[TestTimeAugmentation(Flips())], accelerator="cpu", logger=False)
    """

    __test__ = False  # no test case, whatever pytest thinks of the name

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
        self._rank = 0

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the network before anything runs, and refuse a mean image."""
        super().setup(trainer, pl_module, stage)
        self._rank = trainer.global_rank
        pipeline = getattr(trainer.datamodule, "pipeline", None)  # type: ignore[attr-defined]  # a connector sets it
        if pipeline is not None and pipeline.normalize.mode == "mean_image":
            raise MisconfigurationException(
                "TestTimeAugmentation: views move pixels, and mean_image has subtracted a mean that belongs "
                "to their places: normalize must be mean or mean_std"
            )

    @override
    def begin(self, network: nn.Module) -> None:
        """Begin the random views."""
        self.views.begin(self.seed + self._rank)

    @override
    def inputs(self, images: Tensor) -> Iterator[Tensor]:
        """The views."""
        return self.views(images)

    @override
    def describe(self, outputs: Tensor) -> dict[str, Tensor]:
        """The share of views that agree with the average."""
        if outputs.dim() < 3:  # no scores of classes
            return {"std": outputs.detach().float().std(0, correction=0).mean()}
        decision = average_outputs(outputs, self.average).argmax(-1)
        return {"agreement": (outputs.argmax(-1) == decision).to(torch.float32).mean()}
