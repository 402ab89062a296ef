"""Soft labels, which give the scores no reason to grow without bound.

Szegedy, Vanhoucke, Ioffe, Shlens, Wojna 2016, "Rethinking the Inception architecture for computer vision"
(arXiv:1512.00567), section 7.
"""

from torch import Tensor
from typing_extensions import override

from lightning_optreg._checks import check_range
from lightning_optreg.callbacks.batches.changed_batch import ChangedBatch
from lightning_optreg.randomness.draws import Place

__all__ = ["LabelSmoothing", "smooth"]


def smooth(labels: Tensor, epsilon: float) -> Tensor:
    """Mix labels with the uniform distribution: y = (1 - epsilon) y + epsilon / K.

    Args:
        labels: Probabilities (N, K).
        epsilon: Weight of the uniform distribution, in [0, 1].

    Returns:
        (N, K).

    Example:
        >>> import torch
        >>> smooth(torch.tensor([[0.0, 1.0]]), 0.1)
        tensor([[0.0500, 0.9500]])
    """
    return labels * (1.0 - epsilon) + epsilon / labels.shape[1]


class LabelSmoothing(ChangedBatch):
    """Train on y = (1 - epsilon) y + epsilon / K instead of the labels.

    The loss is that of `CrossEntropyLoss(label_smoothing=epsilon)`, which is enough if you can choose the
    loss. This callback needs no change of the module: it works with any loss that takes probabilities as
    targets (such as `torch.nn.functional.cross_entropy`), does not affect validation and test losses, so they
    are comparable with those of other runs, and also smooths the labels of `MixUp` and `CutMix`, before or
    after them in the list. The batch is changed right before the module's `training_step`, with automatic and
    manual optimization. An accuracy that the module computes in training must also take probabilities (N, K),
    as in `ImageClassifier`.

    Args:
        epsilon: Weight of the uniform distribution, in [0, 1]. With 0 nothing happens. Default: 0.1, as in
            the paper.
        num_classes: Number of classes K, at least 2, if labels are classes. None: `num_classes` of the module
            or its datamodule.
        images: Where in a batch the inputs are: an index in a list, or a key of a dictionary. Default: 0.
        labels: Where the labels are. Default: 1.

    Raises:
        ValueError: If a number is out of its range.
        TypeError: If images or labels is neither an index nor a key.
        MisconfigurationException: Before the first step, if `training_step` takes a `dataloader_iter`; in the
            first step, if the batch has no such inputs or labels, K is not known, or a label is not in
            [0, K).

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[LabelSmoothing(0.1)], accelerator="cpu", logger=False)
    """

    def __init__(
        self,
        epsilon: float = 0.1,
        num_classes: int | None = None,
        images: int | str = 0,
        labels: int | str = 1,
    ) -> None:
        check_range("LabelSmoothing", "[0, 1]", epsilon=epsilon)
        super().__init__(num_classes, images, labels)
        self.epsilon = epsilon

    @property
    def active(self) -> bool:
        """Whether epsilon is above 0."""
        return self.epsilon > 0.0

    @property
    @override
    def is_noise(self) -> bool:
        """False: nothing is drawn."""
        return False

    @override
    def change(self, images: Tensor, labels: Tensor, place: Place) -> tuple[Tensor, Tensor]:
        """Smooth the labels."""
        probabilities = self.probabilities(labels, images.dtype)
        return images, smooth(probabilities, self.epsilon)
