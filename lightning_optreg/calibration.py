"""How far a classifier's confidence is from its accuracy."""

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import Metric
from typing_extensions import override

from lightning_optreg._checks import check_range

__all__ = ["CalibrationError", "calibration_gaps"]


def calibration_gaps(probabilities: Tensor, labels: Tensor, bins: int = 15) -> Tensor:
    """Sum confidence minus correctness over the predictions in each bin.

    The confidence of a prediction is its largest probability; bin k of B holds those in ((k - 1) / B, k / B].
    A confidence of 1 is in the last bin.

    Args:
        probabilities: (N, K), each row sums to 1.
        labels: int64 (N,).
        bins: B, at least 1.

    Returns:
        (B,), in the probabilities' dtype.

    Example:
        >>> calibration_gaps(torch.tensor([[0.75, 0.25], [0.0, 1.0]]), torch.tensor([1, 1]), bins=2)
        tensor([0.0000, 0.7500])
    """
    confidence, predicted = probabilities.max(dim=1)
    edges = torch.linspace(0.0, 1.0, bins + 1, dtype=confidence.dtype, device=confidence.device)
    place = (torch.bucketize(confidence, edges) - 1).clamp(0, bins - 1)
    gap = confidence - (predicted == labels).to(confidence.dtype)
    # Neither index_add, which adds in any order on a GPU, nor a matrix product, which may round to TF32.
    return (F.one_hot(place, bins) * gap[:, None]).sum(dim=0)


class CalibrationError(Metric):
    """Expected calibration error: sum over bins of n_b / N |confidence_b - accuracy_b|, in [0, 1].

    n_b of the N predictions are in bin b; confidence_b is their mean confidence and accuracy_b the fraction
    that is right. The bins of torchmetrics' `MulticlassCalibrationError` are closed at the other end, so it
    has an extra bin for confidences of exactly 1, which saturated networks have: 0.99 and 1.0 are not
    averaged.

    Args:
        bins: Number of bins of equal width on [0, 1], at least 1. Default: 15.

    Raises:
        ValueError: If `bins` is below 1.

    Shape:
        Probabilities (N, K) and labels (N,) -> ().

    Source:
        Naeini, Cooper and Hauskrecht 2015, "Obtaining well calibrated probabilities using Bayesian binning";
        Guo, Pleiss, Sun and Weinberger 2017, "On calibration of modern neural networks" (arXiv:1706.04599),
        equation 3.

    Example:
        >>> error = CalibrationError()
        >>> error.update(torch.tensor([[0.98, 0.02], [1.0, 0.0]]), torch.tensor([0, 1]))
        >>> error.compute()  # both in the last bin: 0.99 on average, and one of two is right
        tensor(0.4900)
    """

    full_state_update = False
    is_differentiable = False
    higher_is_better = False
    gaps: Tensor
    images: Tensor

    def __init__(self, bins: int = 15) -> None:
        super().__init__()
        check_range("CalibrationError", ">= 1", bins=bins)
        self.bins = bins
        self.add_state("gaps", torch.zeros(bins), dist_reduce_fx="sum")
        self.add_state("images", torch.tensor(0), dist_reduce_fx="sum")

    @override
    def update(self, probabilities: Tensor, labels: Tensor) -> None:
        """Add predictions (N, K) of images with labels (N,)."""
        self.gaps = self.gaps + calibration_gaps(probabilities, labels, self.bins).to(self.gaps.dtype)
        self.images = self.images + len(labels)

    @override
    def compute(self) -> Tensor:
        """Return the error over all predictions added so far."""
        return self.gaps.abs().sum() / self.images
