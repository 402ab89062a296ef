"""Checks of a classifier's first batch, for mistakes that would fail deep inside or give wrong numbers.

They run once, before the first step, so they cost nothing afterwards.
"""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["checked_loss", "checked_scores"]


def checked_scores(
    net: Callable[[Tensor], Any], x: Tensor, labels: Tensor, num_classes: int, *, soft: bool = False
) -> Any:
    """Apply a network and check that its scores fit the labels.

    Args:
        net: Maps images to scores (N, K), or in training to a tuple of scores, those of auxiliary heads last.
        x: Images (N, C, H, W).
        labels: Labels, int64 (N,), in [0, K).
        num_classes: Number of classes K.
        soft: Whether labels may also be probabilities (N, K).

    Returns:
        The network's output.

    Raises:
        ValueError: If the network does not take the images, or shapes, dtypes or labels are wrong.

    Example:
        >>> checked_scores(nn.Flatten(), torch.ones(2, 3, 1, 1), torch.tensor([0, 2]), num_classes=3)
        tensor([[1., 1., 1.],
                [1., 1., 1.]])
    """
    try:
        outputs = net(x)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, TypeError, ValueError) as error:
        raise ValueError(
            f"ImageClassifier: the network does not take images of shape {tuple(x.shape)}: {error}"
        ) from error
    heads = [head for head in (outputs if isinstance(outputs, tuple) else (outputs,)) if head is not None]
    if not heads or not all(isinstance(head, Tensor) for head in heads):
        raise ValueError(
            "ImageClassifier: the network must return scores, or in training a tuple of scores, those of "
            f"its auxiliary heads last, got {type(outputs).__name__}"
        )
    for scores in heads:
        if scores.ndim != 2 or scores.shape[1] != num_classes:
            raise ValueError(
                f"ImageClassifier: the network's scores must have shape (N, {num_classes}) for "
                f"num_classes={num_classes}, got {tuple(scores.shape)}"
            )
        if soft and labels.is_floating_point() and labels.shape == scores.shape:
            sums = labels.float().sum(1)
            if not torch.allclose(sums, torch.ones_like(sums), atol=0.02):
                raise ValueError("ImageClassifier: labels that are probabilities must sum to 1")
        elif labels.shape != scores.shape[:1] or labels.dtype != torch.int64:
            raise ValueError(
                f"ImageClassifier: labels must be int64 of shape ({len(scores)},), one per image, "
                f"got {str(labels.dtype).removeprefix('torch.')} of shape {tuple(labels.shape)}"
            )
    if labels.is_floating_point():
        return outputs
    low, high = int(labels.min()), int(labels.max())
    if not 0 <= low <= high < num_classes:
        raise ValueError(f"ImageClassifier: labels must be in [0, {num_classes}), got {low} to {high}")
    return outputs


def checked_loss(loss: nn.Module, scores: Tensor, labels: Tensor) -> Tensor:
    """Apply a loss and check that it accepts scores and labels, and returns one number.

    Args:
        loss: Maps scores (N, K) and labels (N,) to their mean loss.
        scores: (N, K).
        labels: int64 (N,).

    Returns:
        The loss.

    Raises:
        ValueError: If it does not accept them, or returns more than one number.

    Example:
        >>> checked_loss(nn.CrossEntropyLoss(), torch.zeros(2, 4), torch.tensor([0, 3])).exp().round()
        tensor(4.)
    """
    name, shapes = type(loss).__name__, f"{tuple(scores.shape)} and labels {tuple(labels.shape)}"
    try:
        with warnings.catch_warnings():  # torch's regression losses compare the wrong values, and warn
            warnings.filterwarnings("error", "Using a target size", UserWarning)
            value: Tensor = loss(scores, labels)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, TypeError, ValueError, UserWarning) as error:
        raise ValueError(f"ImageClassifier: {name} does not take scores {shapes}: {error}") from error
    if value.ndim != 0:
        raise ValueError(
            f"ImageClassifier: the loss must be one number, {name} returns shape {tuple(value.shape)}; "
            "its reduction must be mean"
        )
    return value
