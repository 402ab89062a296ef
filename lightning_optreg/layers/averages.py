"""The average of a network's outputs over several passes, of its scores or of its probabilities."""

from typing import Literal

import torch
from torch import Tensor

__all__ = ["Average", "average_outputs"]

Average = Literal["probabilities", "outputs"]


def average_outputs(outputs: Tensor, average: Average) -> Tensor:
    """Average the outputs of a network over several passes.

    Args:
        outputs: (S, N, K), of S passes; with `average="outputs"` (S, ...).
        average: `probabilities`: outputs are scores f, and the result is log(1/S sum over s of softmax(f_s)):
            scores whose softmax and cross entropy are those of the mean probability. `outputs`: the plain
            mean.

    Returns:
        (N, K), or (...).

    Raises:
        ValueError: If average is `probabilities` and outputs are not scores of at least two classes.

    Example:
        >>> scores = torch.tensor([[[0.9, 0.1]], [[0.5, 0.5]]]).log()
        >>> average_outputs(scores, "probabilities").softmax(-1)
        tensor([[0.7000, 0.3000]])
    """
    if average == "outputs":
        return outputs.mean(0)
    if outputs.dim() != 3 or outputs.shape[-1] < 2:
        raise ValueError(
            "average_outputs: outputs must be scores (S, N, K) of K >= 2 classes to average probabilities, "
            f"got {tuple(outputs.shape)}; set average='outputs'"
        )
    passes = torch.tensor(float(len(outputs)), device=outputs.device)
    return outputs.log_softmax(-1).logsumexp(0) - passes.log()
