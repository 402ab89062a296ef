"""Batch normalisation written out in the lecture's equations.

Ioffe, Szegedy, "Batch normalization: accelerating deep network training by reducing internal covariate
shift", 2015 (arXiv:1502.03167), algorithms 1 and 2.
"""

import torch
from torch import Tensor, nn

from lightning_optreg._checks import check_range

__all__ = ["BatchNorm", "batch_norm", "batch_statistics"]


def batch_statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean mu = 1/m sum x and variance sigma^2 = 1/m sum (x - mu)^2 of each channel.

    Args:
        x: Activations (N, C, ...); m is the number of values of a channel, N H W for images.

    Returns:
        mu and sigma^2, both (C,).

    Example:
        >>> import torch
        >>> from lightning_optreg.layers.batch_norm import batch_statistics
        >>> batch_statistics(torch.tensor([[1.0, 5.0], [3.0, 5.0]]))
        (tensor([2., 5.]), tensor([1., 0.]))
    """
    values = x.transpose(0, 1).flatten(1)  # (N, C, ...) -> (C, m)
    mu = values.mean(1)
    return mu, (values - mu[:, None]).square().mean(1)


def batch_norm(x: Tensor, mu: Tensor, sigma2: Tensor, gamma: Tensor, beta: Tensor, eps: float) -> Tensor:
    """Normalise, scale and shift: y = gamma x_hat + beta with x_hat = (x - mu) / sqrt(sigma^2 + eps).

    Args:
        x: Activations (N, C, ...).
        mu: Means (C,).
        sigma2: Variances (C,).
        gamma: Scales (C,).
        beta: Shifts (C,).
        eps: Added to the variance, above 0.

    Returns:
        Activations of the same shape.

    Example:
        >>> import torch
        >>> from lightning_optreg.layers.batch_norm import batch_norm
        >>> one = torch.ones(1)
        >>> batch_norm(torch.tensor([[3.0]]), one, 3 * one, 2 * one, 0.5 * one, 1.0)
        tensor([[2.5000]])
    """
    mu, sigma2, gamma, beta = (
        statistic.reshape(-1, *[1] * (x.dim() - 2)) for statistic in (mu, sigma2, gamma, beta)
    )  # (C,) -> (C, 1, ..., 1)
    x_hat = (x - mu) / (sigma2 + eps).sqrt()
    return gamma * x_hat + beta


class BatchNorm(nn.Module):
    """Batch normalisation, step by step: mu, sigma^2, x_hat, y = gamma x_hat + beta, running averages.

    It computes what `torch.nn.BatchNorm1d`, `2d` and `3d` compute and has their parameters under their names,
    so that weights load from one into the other. It is meant for reading and checking; torch's is 2.5
    times as fast on a CPU.

    At test the running averages take the place of mu and sigma^2. Each training step moves them by
    r <- (1 - momentum) r + momentum (batch's), with the unbiased variance m / (m - 1) sigma^2, as in the
    paper's algorithm 2 (which averages over batches at the end of training) and in torch.

    Args:
        num_features: Number of channels C, at least 1.
        eps: Added to the variance, above 0. Default: 1e-5, torch's.
        momentum: Weight of the newest batch in the running averages, in [0, 1]. Default: 0.1, torch's.

    Shape:
        (N, C, ...) -> the same. In training a channel needs at least two values.

    Raises:
        ValueError: If a number is out of range; in `forward`, if the shape is wrong or, in training, a
            channel has only one value.

    Example:
        >>> import torch
        >>> from lightning_optreg.layers import BatchNorm
        >>> y = BatchNorm(3)(5 + 2 * torch.randn(8, 3, 16, 16))
        >>> print(f"{abs(y.mean()):.3f} {y.std():.3f}")
        0.000 1.000
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, num_features: int, *, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        check_range("BatchNorm", ">= 1", num_features=num_features)
        check_range("BatchNorm", "(0, inf)", eps=eps)
        check_range("BatchNorm", "[0, 1]", momentum=momentum)
        self.num_features = num_features
        self.eps = eps
        self.momentum = momentum
        self.weight = nn.Parameter(torch.ones(num_features))  # gamma
        self.bias = nn.Parameter(torch.zeros(num_features))  # beta
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))
        self.register_buffer("num_batches_tracked", torch.tensor(0))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise activations (N, C, ...)."""
        if x.dim() < 2 or x.shape[1] != self.num_features:
            raise ValueError(
                f"BatchNorm: expected activations (N, {self.num_features}, ...), got shape {tuple(x.shape)}"
            )
        # Sums over a batch need float32 where the activations are in half precision.
        values = x if x.dtype == torch.float64 else x.float()
        if self.training:
            mu, sigma2 = batch_statistics(values)
            self._update_running_averages(mu.detach(), sigma2.detach(), m=x.numel() // self.num_features)
        else:
            mu, sigma2 = self.running_mean, self.running_var
        return batch_norm(values, mu, sigma2, self.weight, self.bias, self.eps).to(x.dtype)

    def _update_running_averages(self, mu: Tensor, sigma2: Tensor, *, m: int) -> None:
        if not m >= 2:
            raise ValueError(f"BatchNorm: in training a channel needs at least two values, got {m}")
        self.running_mean.mul_(1.0 - self.momentum).add_(mu, alpha=self.momentum)
        self.running_var.mul_(1.0 - self.momentum).add_(sigma2 * (m / (m - 1)), alpha=self.momentum)
        self.num_batches_tracked.add_(1)

    def extra_repr(self) -> str:
        """The settings, for print(net)."""
        return f"{self.num_features}, eps={self.eps}, momentum={self.momentum}"
