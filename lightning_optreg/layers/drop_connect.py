"""DropConnect: a fully connected layer in which each example sees its own random part of the weights.

Wan, Zeiler, Zhang, LeCun, Fergus, "Regularization of neural networks using DropConnect", ICML 2013. Training
computes r = a((M * W) v) with a separate mask M for each example; at test u = (M * W) v is approximated by a
Gaussian with the same mean and variance over the masks, and a(u) is averaged over it.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lightning_optreg._checks import check_choice, check_range
from lightning_optreg.layers.noise import NoiseLayer

__all__ = ["DropConnect", "gaussian_mean", "gaussian_relu", "masked_linear", "masked_moments"]

# Masks of this many weights are made at a time, which takes no longer than all at once. Above `KEPT` weights
# altogether, they are made again for the backward pass rather than kept, in 5 bytes a weight and example: a
# training step then takes 1.7 times as long.
AT_A_TIME = 2**22
KEPT = 2**25
DRAWS_AT_A_TIME = 50  # at inference


def masked_linear(v: Tensor, weight: Tensor, bias: Tensor | None, p: float) -> Tensor:
    """Multiply by masked weights: u = (M * W) v + m * b, with separate masks M and m for each example.

    Args:
        v: Inputs (N, I).
        weight: W (O, I).
        bias: b (O,), or None.
        p: Probability that an entry of a mask is 0 rather than 1, in [0, 1].

    Returns:
        u (N, O).

    Example:
        >>> import torch
        >>> from lightning_optreg.layers.drop_connect import masked_linear
        >>> _ = torch.manual_seed(0)
        >>> masked_linear(torch.ones(3, 4), torch.ones(2, 4), None, 0.5)
        tensor([[1., 2.],
                [1., 1.],
                [2., 3.]])
    """
    examples = max(1, AT_A_TIME // weight.numel())
    parts = torch.split(v, examples)
    if torch.is_grad_enabled() and len(v) * weight.numel() > KEPT:
        return torch.cat(
            [checkpoint(_masked_part, part, weight, bias, p, use_reentrant=False) for part in parts]
        )
    return torch.cat([_masked_part(part, weight, bias, p) for part in parts])


def _masked_part(v: Tensor, weight: Tensor, bias: Tensor | None, p: float) -> Tensor:
    # Comparing uniform numbers: twice as fast as bernoulli_ on a CPU.
    masks = torch.rand(len(v), *weight.shape, device=v.device) >= p
    u = torch.einsum("noi,ni->no", masks * weight, v)
    if bias is None:
        return u
    return u + ((torch.rand(len(v), len(bias), device=v.device) >= p) * bias).to(u.dtype)


def masked_moments(v: Tensor, weight: Tensor, bias: Tensor | None, p: float) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of u = (M * W) v + m * b over the masks, exactly.

    mu = (1 - p) (W v + b) and s^2 = p (1 - p) (W^2 v^2 + b^2), with squares of each entry.

    Args:
        v: Inputs (N, I).
        weight: W (O, I).
        bias: b (O,), or None.
        p: Probability to drop a weight or a bias, in [0, 1].

    Returns:
        mu and s, both (N, O), in float32 or better.

    Example:
        >>> import torch
        >>> from lightning_optreg.layers.drop_connect import masked_moments
        >>> masked_moments(torch.tensor([[3.0, 4.0]]), torch.ones(1, 2), None, 0.5)
        (tensor([[3.5000]]), tensor([[2.5000]]))
    """
    mu = (1.0 - p) * F.linear(v, weight, bias)
    variance = p * (1.0 - p) * F.linear(v.square(), weight.square(), None if bias is None else bias.square())
    if mu.dtype != torch.float64:
        mu, variance = mu.float(), variance.float()
    # The root of 0 has no derivative; that of the smallest number does.
    return mu, variance.clamp_min(torch.finfo(variance.dtype).tiny).sqrt()


def gaussian_relu(mu: Tensor, s: Tensor) -> Tensor:
    """E[relu(u)] = mu Phi(mu / s) + s phi(mu / s) for u ~ N(mu, s^2), Phi and phi those of N(0, 1).

    Args:
        mu: Means.
        s: Standard deviations, above 0, of the same shape.

    Returns:
        Expectations of that shape.

    Example:
        >>> import torch
        >>> from lightning_optreg.layers.drop_connect import gaussian_relu
        >>> gaussian_relu(torch.tensor([-1.0, 0.0, 9.0]), torch.tensor([1.0, 1.0, 1.0]))
        tensor([0.0833, 0.3989, 9.0000])
    """
    t = mu / s
    phi = torch.exp(-0.5 * t.square()) / math.sqrt(2.0 * math.pi)
    expectation: Tensor = mu * torch.special.ndtr(t) + s * phi
    return expectation


def gaussian_mean(activation: nn.Module, mu: Tensor, s: Tensor, samples: int) -> Tensor:
    """E[a(u)] for u ~ N(mu, s^2), as the mean over draws.

    All draws go through a as rows of one batch (draws N, O), as the examples of a linear layer do: a may have
    parameters for each of the O outputs, as `PReLU(O)` and batch normalisation have.

    Args:
        activation: The function a.
        mu: Means (N, O).
        s: Standard deviations (N, O).
        samples: Number of draws of each u, at least 1.

    Returns:
        Means (N, O), with a standard error of std(a(u)) / samples^(1/2).

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from lightning_optreg.layers.drop_connect import gaussian_mean
        >>> _ = torch.manual_seed(0)
        >>> zero, one = torch.zeros(1, 1), torch.ones(1, 1)
        >>> print(f"{gaussian_mean(nn.ReLU(), zero, one, 100_000).item():.2f}")  # (2 pi)^(-1/2)
        0.40
    """
    total = torch.zeros_like(mu)
    for first in range(0, samples, DRAWS_AT_A_TIME):
        draws = min(DRAWS_AT_A_TIME, samples - first)
        z = torch.randn(draws, *mu.shape, dtype=mu.dtype, device=mu.device)
        a: Tensor = activation((mu + s * z).flatten(0, 1))
        total = total + a.reshape(draws, *mu.shape).sum(0)
    return total / samples


class DropConnect(NoiseLayer, nn.Linear):
    """A fully connected layer with an activation, which drops weights per example: r = a((M * W) v).

    The activation belongs to the layer because at test it is averaged over the random u = (M * W) v. u is a
    sum of many independent terms, hence about normal, N(mu, s^2) with mu = (1 - p) W v and s^2 = p (1 - p)
    W^2 v^2 (squares of each entry), and the result is

        inference="sampling":  the mean of a(u) over draws of each u, as in the paper
        inference="relu":      mu Phi(mu / s) + s phi(mu / s), its limit for many draws if a is a ReLU
        inference="mean":      a(mu), the approximation that dropout makes

    Biases are masked like weights, as in the paper. Nothing is divided by 1 - p in training. In training each
    example has its own mask, as the paper found necessary, which takes the time of as many weight matrices:
    for 64 examples, 512 inputs and 512 outputs, 70 times that of a linear layer. The memory kept for the
    backward pass is limited to 170 MB.

    The parameters are those of `torch.nn.Linear`, with its names and its initialisation.

    Args:
        in_features: Number of inputs, at least 1.
        out_features: Number of outputs, at least 1.
        p: Probability to drop a weight, in [0, 1). With 0 the layer is a linear one with activation and draws
            nothing. Default: 0.5, the paper's.
        bias: Whether there is a bias b. Default: True.
        activation: The function a, a module that maps (N, out_features) to the same shape, each row by
            itself in evaluation: `torch.nn.PReLU(out_features)`, a `Sequential` of batch normalisation and
            ReLU. None is `torch.nn.ReLU`. Default: None.
        inference: `sampling`, `relu` or `mean`, see above. Default: sampling, the paper's. It draws in
            evaluation too; a ReLU has `relu`, which is exact, draws nothing and costs two matrix products.
        samples: Number of draws of `sampling`, at least 1, each with N x `out_features` evaluations of a.
            Default: 1000.

    Shape:
        (*, in_features) -> (*, out_features); each row is an example.

    Raises:
        ValueError: If a number is out of range, the inference is unknown, or it is `relu` and the
            activation is not a `torch.nn.ReLU`.

    Example:
        >>> import torch
        >>> from lightning_optreg.layers import DropConnect
        >>> layer = DropConnect(800, 100, inference="relu")
        >>> layer(torch.randn(4, 800)).shape
        torch.Size([4, 100])
        >>> r = layer.eval()(torch.randn(4, 800))
        >>> bool((r > 0).all())  # a mean over masks is never quite zero
        True
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        p: float = 0.5,
        bias: bool = True,
        activation: nn.Module | None = None,
        inference: Literal["sampling", "relu", "mean"] = "sampling",
        samples: int = 1000,
    ) -> None:
        check_range("DropConnect", ">= 1", in_features=in_features, out_features=out_features)
        check_range("DropConnect", "[0, 1)", p=p)
        check_choice("DropConnect", ("sampling", "relu", "mean"), inference=inference)
        if inference == "relu" and not isinstance(activation, nn.ReLU | None):
            raise ValueError(
                f"DropConnect: inference must be 'sampling' or 'mean' with the activation"
                f" {type(activation).__name__}, got 'relu', which is the closed form for a ReLU"
            )
        check_range("DropConnect", ">= 1", samples=samples)
        super().__init__(in_features, out_features, bias)
        self.p = p
        self.activation = nn.ReLU() if activation is None else activation
        self.inference = inference
        self.samples = samples

    def forward(self, input: Tensor) -> Tensor:
        """Map (*, in_features) to activations (*, out_features)."""
        v = input.reshape(-1, self.in_features)
        if self.p == 0.0:
            r = self._activate(super().forward(v))
        else:
            r = self._draw(v) if self.noisy else self._infer(v)
        return r.reshape(*input.shape[:-1], self.out_features)

    def _activate(self, u: Tensor) -> Tensor:
        r: Tensor = self.activation(u)
        return r

    def _draw(self, v: Tensor) -> Tensor:
        return self._activate(masked_linear(v, self.weight, self.bias, self.p))

    def _infer(self, v: Tensor) -> Tensor:
        mu, s = masked_moments(v, self.weight, self.bias, self.p)
        if self.inference == "relu":
            r = gaussian_relu(mu, s)
        elif self.inference == "mean":
            r = self._activate(mu)
        else:
            r = gaussian_mean(self.activation, mu, s, self.samples)
        return r.to(v.dtype)

    def extra_repr(self) -> str:
        """The settings, for print(net)."""
        return f"{super().extra_repr()}, p={self.p}, inference={self.inference}, samples={self.samples}"
