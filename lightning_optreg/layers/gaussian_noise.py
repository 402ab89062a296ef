"""Gaussian noise, of a given standard deviation or of one relative to that of the activations.

Wang, Yuan, Shi, Osher, "ResNets ensemble via the Feynman-Kac formalism to improve natural and robust
accuracies", 2019 (arXiv:1811.10745), add y + c std(y) N(0, I) after each residual block. Noise of a fixed
standard deviation at a network's input is older: Bishop, "Training with noise is equivalent to Tikhonov
regularization", 1995.
"""

import math
from typing import Literal

import torch
from torch import Tensor

from lightning_optreg._checks import check_choice, check_range
from lightning_optreg.layers.noise import NoiseLayer

__all__ = ["GaussianNoise", "gaussian_noise", "relative_std"]

RelativeTo = Literal["image", "batch"]


def gaussian_noise(x: Tensor, std: float | Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Add noise: y = x + std z with z ~ N(0, I).

    Args:
        x: Activations of any shape.
        std: Standard deviation, at least 0, in units of x: a number or a tensor that broadcasts to x.
        generator: Of the device of x. None: the default one.

    Returns:
        Noisy activations of the same shape.

    Example:
        >>> import torch
        >>> from lightning_optreg.layers.gaussian_noise import gaussian_noise
        >>> gaussian_noise(torch.zeros(1, 2), 0.0)
        tensor([[0., 0.]])
    """
    z = torch.randn_like(x) if generator is None else torch.empty_like(x).normal_(generator=generator)
    return x.addcmul(z, std) if isinstance(std, Tensor) else x.add(z, alpha=std)


def relative_std(x: Tensor, relative_to: RelativeTo) -> Tensor:
    """The unbiased standard deviation of each image, or of the whole batch.

    Args:
        x: Activations (N, ...), with at least two numbers an image, or a batch.
        relative_to: `image` or `batch`.

    Returns:
        Standard deviations (N, 1, ..., 1), or one as (1, ..., 1).

    Raises:
        ValueError: If there are fewer than two numbers to take it over.

    Example:
        >>> import torch
        >>> from lightning_optreg.layers.gaussian_noise import relative_std
        >>> relative_std(torch.tensor([[1.0, 3.0], [0.0, 0.0]]), "image")
        tensor([[1.4142],
                [0.0000]])
    """
    first = 1 if relative_to == "image" else 0
    if not x.shape[first:].numel() >= 2:
        raise ValueError(
            f"GaussianNoise: relative_to={relative_to!r} needs at least two numbers to take the"
            f" standard deviation of, got activations of shape {tuple(x.shape)}"
        )
    dims = tuple(range(first, x.dim()))
    if relative_to == "batch":
        return x.std(dims, keepdim=True)
    # On a CPU, x.std over some of the dimensions takes 30 times as long. With the backward pass and the noise
    # itself, this takes 0.63 times as long as that (scripts/bench/layers.py).
    deviations = x - x.mean(dims, keepdim=True)
    norm: Tensor = torch.linalg.vector_norm(deviations, dim=dims, keepdim=True)
    return norm / math.sqrt(x.shape[1:].numel() - 1)


class GaussianNoise(NoiseLayer):
    """Add Gaussian noise in training: y = x + sigma z, or y = x + sigma std(x) z, with z ~ N(0, I).

    With `relative_to="image"` each image's noise follows the standard deviation of its own activations over
    (C, H, W). With `relative_to="batch"` there is one standard deviation over the whole tensor, as in the
    code of EnResNet's authors (github.com/BaoWangMath/EnResNet): what is computed for an image then depends
    on the other images of its batch.

    At test the layer is the identity, which is its mean. In the authors' code the noise stays on at test: set
    the attribute `sampling` for that.

    Args:
        sigma: Standard deviation of the noise, at least 0: in units of x, or as a multiple of std(x). With 0
            the layer is the identity and draws nothing. EnResNet: 0.1, relative.
        relative_to: None, `image` or `batch`. Default: None.
        detach: Whether std(x) is a constant for the gradient. The authors' code differentiates through it.
            Default: False.

    Shape:
        (N, ...) -> the same; any shape with `relative_to=None`.

    Raises:
        ValueError: If sigma is out of range or `relative_to` is unknown; in `forward`, if there are fewer
            than two numbers to take a standard deviation over.

    Example:
        >>> import torch
        >>> from lightning_optreg.layers import GaussianNoise
        >>> _ = torch.manual_seed(0)
        >>> x = 5.0 * torch.randn(4, 16, 32, 32)
        >>> noise = GaussianNoise(0.1, relative_to="image")
        >>> print(f"{(noise(x) - x).std():.2f}")
        0.50
        >>> torch.equal(noise.eval()(x), x)
        True
    """

    def __init__(self, sigma: float, *, relative_to: RelativeTo | None = None, detach: bool = False) -> None:
        super().__init__()
        check_range("GaussianNoise", "[0, inf)", sigma=sigma)
        check_choice("GaussianNoise", (None, "image", "batch"), relative_to=relative_to)
        self.sigma = sigma
        self.relative_to = relative_to
        self.detach = detach

    def forward(self, x: Tensor) -> Tensor:
        """Add noise, or at test nothing."""
        if self.sigma == 0.0 or not self.noisy:
            return x
        if self.relative_to is None:
            return gaussian_noise(x, self.sigma)
        std = relative_std(x.detach() if self.detach else x, self.relative_to)
        return gaussian_noise(x, self.sigma * std)

    def extra_repr(self) -> str:
        """The settings, for print(net)."""
        return f"sigma={self.sigma}, relative_to={self.relative_to}, detach={self.detach}"
