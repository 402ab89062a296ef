"""Losses on scores: the multiclass SVM's hinge loss and the squared error on one-hot targets.

Cross-entropy, with label smoothing if wanted, is `torch.nn.CrossEntropyLoss`. All of them take scores (N, K)
and labels (N,). Sources: Weston and Watkins, "Multi-class support vector machines", 1998, for the hinge loss;
the lecture's worked example for its form.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_optreg._checks import check_choice, check_range

__all__ = ["MulticlassHingeLoss", "ScoreLoss", "SquaredLoss", "multiclass_hinge", "squared_error"]


def multiclass_hinge(scores: Tensor, labels: Tensor, delta: float = 1.0, power: int = 1) -> Tensor:
    """L_i = sum over j != y_i of max(0, s_j - s_{y_i} + delta)^power, per example.

    Args:
        scores: Scores s (N, K).
        labels: Classes y (N,), int64 in [0, K).
        delta: Margin, in units of the scores. Default: 1.
        power: Exponent of each term, 1 or 2. Default: 1.

    Returns:
        Losses (N,).

    Example:
        >>> import torch
        >>> from lightning_optreg.losses import multiclass_hinge
        >>> multiclass_hinge(torch.tensor([[3.2, 5.1, -1.7]]), torch.tensor([0]))
        tensor([2.9000])
    """
    # torch's multi_margin_loss is this divided by K. It isn't used because it has no second derivative, no
    # forward-mode derivative (Newton's method and curvature want them) and no bfloat16 kernel. Forward and
    # backward take 55 us against its 21 at 128 x 10, 430 against 690 at 128 x 1000 (one thread).
    # relu rather than clamp: at the kink its slope is 0, as torch's is.
    labels = labels.unsqueeze(1)  # (N, 1)
    margins = F.relu(scores - scores.gather(1, labels) + delta)  # (N, K)
    if power == 2:
        margins = margins.square()
    return margins.scatter(1, labels, 0.0).sum(1)  # the term j = y_i is left out


def squared_error(scores: Tensor, labels: Tensor) -> Tensor:
    """L_i = ||s_i - e_{y_i}||^2 = sum over j of (s_j - [j = y_i])^2, per example.

    Args:
        scores: Scores s (N, K).
        labels: Classes y (N,), int64 in [0, K).

    Returns:
        Losses (N,).

    Example:
        >>> import torch
        >>> from lightning_optreg.losses import squared_error
        >>> squared_error(torch.tensor([[0.5, 2.0, 0.0]]), torch.tensor([1]))
        tensor([1.2500])
    """
    # (N, K). Not F.one_hot: it looks at the values, which vmap (gradients per example) cannot.
    targets = torch.zeros_like(scores).scatter(1, labels.unsqueeze(1), 1.0)
    return F.mse_loss(scores, targets, reduction="none").sum(1)


class ScoreLoss(nn.Module):
    """Base of the losses here: a loss per example, computed in float32 or better, then reduced.

    A subclass defines `per_example`. Once its module is imported, configurations find it by its bare name,
    even where another module has a class of that name (torchmetrics has a `MulticlassHingeLoss`).

    Args:
        reduction: `mean` or `sum` over the examples, or `none`.

    Raises:
        ValueError: If the reduction is unknown.

    Example:
        >>> class ErrorRate(ScoreLoss):
        ...     def per_example(self, scores, labels):
        ...         return (scores.argmax(1) != labels).float()
        >>> ErrorRate()(torch.eye(3), torch.tensor([0, 1, 1]))
        tensor(0.3333)
    """

    def __init__(self, reduction: Literal["mean", "sum", "none"] = "mean") -> None:
        super().__init__()
        check_choice(type(self).__name__, ("mean", "sum", "none"), reduction=reduction)
        self.reduction = reduction

    def per_example(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Losses (N,) of scores (N, K)."""
        raise NotImplementedError

    def forward(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Map scores (N, K) and labels (N,) to a scalar, or to (N,) if the reduction is none."""
        # Under autocast scores are bfloat16, in which a sum over classes loses digits.
        losses = self.per_example(scores.to(torch.promote_types(scores.dtype, torch.float32)), labels)
        if self.reduction == "mean":
            return losses.mean()
        return losses.sum() if self.reduction == "sum" else losses


class MulticlassHingeLoss(ScoreLoss):
    """The multiclass SVM loss L_i = sum over j != y_i of max(0, s_j - s_{y_i} + delta)^power.

    It is K times torch's `MultiMarginLoss`, which divides by the number of classes K.

    Args:
        delta: Margin by which the true class's score must lead, in units of the scores, at least 0 and
            finite. Default: 1.
        power: 1 for the hinge loss, 2 for the squared hinge loss. Default: 1.
        reduction: Over the examples: `mean`, `sum` or `none`. Default: mean.

    Shape:
        scores (N, K), labels (N,) int64 in [0, K) -> scalar, or (N,) if reduction is none.

    Raises:
        ValueError: If a number is out of range or an option is unknown.

    Example:
        The lecture's three images (cat, car, frog):

        >>> import torch
        >>> from lightning_optreg.losses import MulticlassHingeLoss
        >>> scores = torch.tensor([[3.2, 5.1, -1.7], [1.3, 4.9, 2.0], [2.2, 2.5, -3.1]])
        >>> labels = torch.tensor([0, 1, 2])
        >>> MulticlassHingeLoss(reduction="none")(scores, labels)
        tensor([ 2.9000,  0.0000, 12.9000])
        >>> MulticlassHingeLoss()(scores, labels)
        tensor(5.2667)
    """

    def __init__(
        self,
        delta: float = 1.0,
        power: Literal[1, 2] = 1,
        reduction: Literal["mean", "sum", "none"] = "mean",
    ) -> None:
        super().__init__(reduction)
        check_range("MulticlassHingeLoss", "[0, inf)", delta=delta)
        check_choice("MulticlassHingeLoss", (1, 2), power=power)
        self.delta = delta
        self.power = power

    def per_example(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Losses (N,) of scores (N, K)."""
        return multiclass_hinge(scores, labels, self.delta, self.power)

    def extra_repr(self) -> str:
        """The settings, for `print(loss)`."""
        return f"delta={self.delta}, power={self.power}, reduction={self.reduction!r}"


class SquaredLoss(ScoreLoss):
    """The squared error on one-hot targets, L_i = ||s_i - e_{y_i}||^2: least squares as a classifier.

    The squares are summed over the classes, without a factor 1/2, and averaged over the examples (torch's
    `MSELoss` would divide by K as well).

    Args:
        reduction: Over the examples: `mean`, `sum` or `none`. Default: mean.

    Shape:
        scores (N, K), labels (N,) int64 in [0, K) -> scalar, or (N,) if reduction is none.

    Raises:
        ValueError: If the reduction is unknown.

    Example:
        >>> import torch
        >>> from lightning_optreg.losses import SquaredLoss
        >>> SquaredLoss()(torch.tensor([[1.0, 0.0], [0.0, 0.0]]), torch.tensor([0, 1]))
        tensor(0.5000)
    """

    def __init__(self, reduction: Literal["mean", "sum", "none"] = "mean") -> None:
        super().__init__(reduction)

    def per_example(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Losses (N,) of scores (N, K)."""
        return squared_error(scores, labels)

    def extra_repr(self) -> str:
        """The settings, for `print(loss)`."""
        return f"reduction={self.reduction!r}"
