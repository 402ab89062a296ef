"""The Brier score of probabilities."""

from torch import Tensor
from torch.nn import functional as F

__all__ = ["brier_score"]


def brier_score(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Return the squared distance of predictions to the truth: sum over k of (p_k - 1[k = y])^2, in [0, 2].

    Brier 1950, "Verification of forecasts expressed in terms of probability".

    Args:
        probabilities: (N, K).
        labels: int64 (N,).

    Returns:
        (N,).

    Example:
        >>> import torch
        >>> brier_score(torch.tensor([[0.8, 0.2]]), torch.tensor([0]))
        tensor([0.0800])
    """
    return (probabilities - F.one_hot(labels, probabilities.shape[1])).square().sum(dim=1)
