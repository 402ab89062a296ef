"""Gaussian noise, of a given standard deviation or of one relative to that of the activations.

Wang, Yuan, Shi, Osher, "ResNets ensemble via the Feynman-Kac formalism to improve natural and robust
accuracies", 2019 (arXiv:1811.10745), add y + c std(y) N(0, I) after each residual block. Noise of a fixed
standard deviation at a network's input is older: Bishop, "Training with noise is equivalent to Tikhonov
regularization", 1995.
"""

import math
from typing import Any, Literal

import torch
from torch import Tensor

from lightning_optreg._checks import check_choice, check_range
from lightning_optreg.layers.noise import NoiseLayer

__all__ = ["GaussianNoise", "add_relative_noise", "gaussian_noise", "normal_like", "relative_std"]

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
    z = normal_like(x, generator)
    return x.addcmul(z, std) if isinstance(std, Tensor) else x.add(z, alpha=std)


def normal_like(x: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Draw z ~ N(0, I) with the shape, layout, dtype and device of x.

    Args:
        x: A tensor of any shape.
        generator: Of the device of x. None: the default one.

    Returns:
        The numbers. On a CPU they are drawn in the order of the memory, so that x and the same x in
        `channels_last` get the same numbers at different places.

    Example:
        >>> import torch
        >>> from lightning_optreg.layers.gaussian_noise import normal_like
        >>> normal_like(torch.zeros(2, 3, 4, 4).to(memory_format=torch.channels_last)).stride()
        (48, 1, 12, 3)
    """
    if x.device.type == "cpu" and not (x.is_contiguous() or torch.compiler.is_compiling()):
        # normal_ has a vectorised path for contiguous tensors only: 7 x as fast (scripts/bench/noise.py).
        order = x.dim_order()
        z = torch.randn([x.shape[dim] for dim in order], generator=generator, dtype=x.dtype)
        return z.permute([order.index(dim) for dim in range(x.dim())])
    if generator is None:
        return torch.randn_like(x)
    return torch.empty_like(x).normal_(generator=generator)


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
    # itself, this takes 0.6 times as long as that (scripts/bench/layers.py).
    deviations = x - x.mean(dims, keepdim=True)
    norm: Tensor = torch.linalg.vector_norm(deviations, dim=dims, keepdim=True)
    return norm / math.sqrt(x.shape[1:].numel() - 1)


def add_relative_noise(x: Tensor, z: Tensor, sigma: float, relative_to: RelativeTo) -> tuple[Tensor, Tensor]:
    """Add given noise, scaled by the standard deviation: y = x + sigma std(x) z.

    The gradient flows through std(x).

    Args:
        x: Activations (N, ...), with at least two numbers an image, or a batch.
        z: The noise, of the shape of x; z ~ N(0, I).
        sigma: A multiple of std(x), at least 0.
        relative_to: `image` or `batch`, see `relative_std`.

    Returns:
        y, of the shape of x, and std(x), (N, 1, ..., 1) or (1, ..., 1).

    Raises:
        ValueError: If there are fewer than two numbers to take the standard deviation over.

    Example:
        >>> import torch
        >>> from lightning_optreg.layers.gaussian_noise import add_relative_noise
        >>> add_relative_noise(torch.tensor([[1.0, 3.0]]), torch.tensor([[0.0, 1.0]]), 0.1, "image")[0]
        tensor([[1.0000, 3.1414]])
    """
    if torch.compiler.is_compiling():  # it takes no class with a jvp (torch 2.14), and joins passes itself
        return _add(x, z, sigma, relative_to)
    y, std = _AddRelativeNoise.apply(x, z, sigma, relative_to)
    return y, std


def _add(x: Tensor, z: Tensor, sigma: float, relative_to: RelativeTo) -> tuple[Tensor, Tensor]:
    std = relative_std(x, relative_to)
    return x.addcmul(z, sigma * std), std


class _AddRelativeNoise(torch.autograd.Function):
    """y = x + sigma s z with s = std(x), whose gradient needs few passes over the activations.

    With g the gradient of y and n the count of numbers behind s, ds/dx = (x - mean) / ((n - 1) s), so that of
    x is g + sigma <g, z> (x - mean) / ((n - 1) s). Autograd on the single operations finds the same in twice
    the passes. Everything is computed from the inputs, so it can be differentiated again.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, z: Tensor, sigma: float, relative_to: RelativeTo) -> tuple[Tensor, Tensor]:
        return _add(x, z, sigma, relative_to)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, float, RelativeTo], output: Any) -> None:
        x, z, ctx.sigma, relative_to = inputs
        ctx.dims = tuple(range(1 if relative_to == "image" else 0, x.dim()))
        ctx.save_for_backward(x, z, output[1])
        ctx.save_for_forward(x, z, output[1])

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor, grad_std: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        x, z, std = ctx.saved_tensors
        count = x.numel() // std.numel()
        slope = ctx.sigma * (grad_y * z).sum(ctx.dims, keepdim=True) + grad_std
        slope = (slope / ((count - 1) * std)).masked_fill(std == 0, 0.0)
        grad_x = grad_y.addcmul(x - x.mean(ctx.dims, keepdim=True), slope)
        grad_z = ctx.sigma * std * grad_y if ctx.needs_input_grad[1] else None
        return grad_x, grad_z, None, None

    @staticmethod
    def jvp(ctx: Any, dx: Tensor, dz: Tensor | None, *_: None) -> tuple[Tensor, Tensor]:
        x, z, std = ctx.saved_tensors
        count = x.numel() // std.numel()
        inner = ((x - x.mean(ctx.dims, keepdim=True)) * dx).sum(ctx.dims, keepdim=True)
        dstd = (inner / ((count - 1) * std)).masked_fill(std == 0, 0.0)
        dy = dx + ctx.sigma * dstd * z
        return (dy if dz is None else dy + ctx.sigma * std * dz), dstd


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
        if self.detach:
            return gaussian_noise(x, self.sigma * relative_std(x.detach(), self.relative_to))
        return add_relative_noise(x, normal_like(x), self.sigma, self.relative_to)[0]

    def extra_repr(self) -> str:
        """The settings, for print(net)."""
        return f"sigma={self.sigma}, relative_to={self.relative_to}, detach={self.detach}"
