"""AlexNet's colour augmentation: shifts along the principal components of the training set's colours.

Light that is brighter, dimmer or of another colour shifts all pixels of a picture together, mostly along the
direction in which colours vary most (Krizhevsky et al. 2012, section 4.1).
"""

from typing import Literal

from torch import Tensor

from lightning_optreg._checks import check_range
from lightning_optreg.data.statistics import Statistics
from lightning_optreg.data.transforms.base import ColorShift
from lightning_optreg.randomness.draws import Draws

__all__ = ["PCAColorJitter"]


class PCAColorJitter(ColorShift):
    r"""Add a multiple of each principal component of the training pixels' colours, drawn once per image.

    With eigenvalues lambda_j and eigenvectors p_j of the covariance of the training pixels on [0, 1], every
    pixel of an image is shifted by

        sum_j alpha_j lambda_j p_j          (form `eigenvalue`: the paper)
        sum_j alpha_j sqrt(lambda_j) p_j    (form `std`: the author's cuda-convnet)
        alpha_j ~ N(0, std^2), independent for each image and component.

    The two differ by more than a factor. On CIFAR-10 the shift along p_1 has a standard deviation of 4.4 of
    255 in the first form and 10.6 in the second. cuda-convnet also divides the result by 1 + std, which is
    left out here. Pixels may leave [0, 1]. With one channel it is a random change of brightness.

    It needs `fit` with the statistics of the training images before the first batch; a datamodule calls it.

    Args:
        std: Standard deviation of alpha, at least 0. Default: 0.1, as in the paper.
        form: `eigenvalue` or `std`, as above.

    Raises:
        ValueError: If an argument is out of its range, or the images and the statistics have different
            numbers of channels.
        RuntimeError: If it is used before `fit`.

    Shape:
        (N, C, H, W) floating-point -> the same.

    Source:
        Krizhevsky et al. 2012, "ImageNet classification with deep convolutional neural networks",
        section 4.1; github.com/akrizhevsky/cuda-convnet2, convdata.py.

    Example:
        >>> import torch
        >>> from lightning_optreg.randomness.draws import Draws, Place
        >>> from lightning_optreg.data.statistics import compute_statistics
        >>> images = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1)
        >>> jitter = PCAColorJitter(std=0.1)
        >>> jitter.fit(compute_statistics(images))  # lambda = 0.25, p = 1
        >>> draws = Draws(0, Place(epoch=0, step=0, start=0, total=2), 2, torch.device("cpu"))
        >>> jitter(images / 255, draws).shape
        torch.Size([2, 1, 1, 1])
    """

    basis: Tensor | None

    def __init__(self, std: float = 0.1, form: Literal["eigenvalue", "std"] = "eigenvalue") -> None:
        super().__init__()
        check_range("PCAColorJitter", "[0, inf)", std=std)
        if form not in ("eigenvalue", "std"):
            raise ValueError(f"PCAColorJitter: form must be eigenvalue or std, got {form!r}")
        self.std = std
        self.form = form
        self.register_buffer("basis", None, persistent=False)  # (C, C), row j: std lambda_j p_j

    def fit(self, statistics: Statistics) -> None:
        """Read eigenvalues and eigenvectors."""
        spread = statistics.eigenvalues if self.form == "eigenvalue" else statistics.eigenvalues.sqrt()
        self.basis = (self.std * spread * statistics.eigenvectors).T.contiguous()

    @property
    def waits_for_fit(self) -> bool:
        """Whether it has no eigenvectors yet, and needs them."""
        return self.std > 0.0 and self.basis is None

    def shift(self, draws: Draws) -> Tensor | None:
        """Draw the shift of each image and channel, (N, C)."""
        if self.std == 0.0:
            return None
        if self.basis is None:
            raise RuntimeError(
                "PCAColorJitter: it has no statistics of the training images: call fit(compute_statistics("
                "images)) before the first batch, or list it in a data module's augment"
            )
        alpha = draws.normal(len(self.basis), 1)  # (N, C, 1)
        # Not a matrix product, which may round differently for another batch size or in lower precision.
        return (alpha * self.basis).sum(1)

    def extra_repr(self) -> str:
        """Show the settings."""
        return f"std={self.std}, form={self.form!r}"
