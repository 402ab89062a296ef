"""Local response normalisation across neighbouring channels, as in AlexNet.

Krizhevsky, Sutskever, Hinton, "ImageNet classification with deep convolutional networks", 2012, section 3.3.
"""

import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["LocalResponseNorm"]


class LocalResponseNorm(nn.Module):
    """b_i = a_i / (k + alpha sum over the n channels j around i of a_j^2)^beta, at each pixel.

    The sum runs over channels i - n/2 to i + n/2 (rounded down), as far as they exist. torch's layer divides
    alpha by n: the paper's alpha = 1e-4 with n = 5 is torch's 5e-4. With an even n one more channel before i
    than after it is in the sum, as in torch; the paper's formula is for an odd one.

    Args:
        size: Number n of channels in the sum, at least 1. Default: 5, the paper's.
        alpha: Weight of the sum, at least 0; with 0 and k = 1 the layer is the identity. Default: 1e-4, the
            paper's.
        beta: Exponent, at least 0. Default: 0.75, the paper's.
        k: What is added to the sum, above 0. Default: 2, the paper's (1 in torch).

    Shape:
        (N, C, ...) -> the same.

    Raises:
        ValueError: If a number is out of its range.

    Example:
        >>> import torch
        >>> from lightning_optreg.layers import LocalResponseNorm
        >>> a = torch.tensor([1.0, 2.0, 3.0]).reshape(1, 3, 1, 1)
        >>> LocalResponseNorm(size=3, alpha=1.0, beta=1.0, k=1.0)(a).flatten()
        tensor([0.1667, 0.1333, 0.2143])
    """

    def __init__(self, size: int = 5, alpha: float = 1e-4, beta: float = 0.75, k: float = 2.0) -> None:
        super().__init__()
        if not size >= 1:
            raise ValueError(f"LocalResponseNorm: size must be >= 1, got {size}")
        if not 0.0 <= alpha < float("inf"):
            raise ValueError(f"LocalResponseNorm: alpha must be in [0, inf), got {alpha}")
        if not 0.0 <= beta < float("inf"):
            raise ValueError(f"LocalResponseNorm: beta must be in [0, inf), got {beta}")
        if not 0.0 < k < float("inf"):
            raise ValueError(f"LocalResponseNorm: k must be in (0, inf), got {k}")
        self.size = size
        self.alpha = alpha
        self.beta = beta
        self.k = k

    def forward(self, x: Tensor) -> Tensor:
        """Normalise activations (N, C, ...)."""
        return F.local_response_norm(x, self.size, self.alpha * self.size, self.beta, self.k)

    def extra_repr(self) -> str:
        """The settings, for print(net)."""
        return f"size={self.size}, alpha={self.alpha}, beta={self.beta}, k={self.k}"
