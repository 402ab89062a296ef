"""Stochastic depth: in training, residual branches are left out at random; at test, all count in part.

Huang, Sun, Liu, Sedra, Weinberger, "Deep networks with stochastic depth", 2016 (arXiv:1603.09382). A residual
block y = shortcut(x) + F(x) becomes y = shortcut(x) + b F(x) with b ~ Bernoulli(survival) in training, and
y = shortcut(x) + survival F(x) at test.
"""

from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lightning_optreg._checks import check_choice, check_range
from lightning_optreg.layers.noise import NoiseLayer

__all__ = [
    "StochasticDepth",
    "StochasticResidual",
    "random_branch",
    "stochastic_depth",
    "with_zero_gradients",
]

Mode = Literal["block", "sample"]


def stochastic_depth(branch: Tensor, survival: float, mode: Mode) -> Tensor:
    """Drop a branch F(x) that is computed already: b F(x) with b ~ Bernoulli(survival).

    Args:
        branch: F(x), (N, ...).
        survival: Probability that b = 1, in [0, 1].
        mode: `block`, one b for all of it; `sample`, one for each of the N.

    Returns:
        b F(x), (N, ...).

    Example:
        >>> import torch
        >>> from lightning_optreg.layers.stochastic_depth import stochastic_depth
        >>> _ = torch.manual_seed(0)
        >>> stochastic_depth(torch.ones(4, 2), 0.5, "sample")[:, 0]
        tensor([0., 0., 1., 0.])
    """
    shape = (len(branch), *[1] * (branch.dim() - 1)) if mode == "sample" else ()
    b = torch.empty(shape, dtype=branch.dtype, device=branch.device).bernoulli_(survival)
    return branch * b


def random_branch(
    branch: Callable[[Tensor], Tensor],
    x: Tensor,
    shortcut: Tensor,
    parameters: Iterable[Tensor],
    survival: float,
) -> Tensor:
    """Add a branch or leave it out: shortcut + b F(x) with one b; F is not computed if b = 0.

    If b = 0 the parameters of F get zero gradients rather than None. Under DDP each process waits for the
    gradients of all parameters, whatever it dropped; and where all processes drop a block, optimizers still
    apply momentum and weight decay, as the authors' code does.

    Args:
        branch: The function F.
        x: Its argument, (N, ...).
        shortcut: What F(x) is added to, of the shape of F(x).
        parameters: The parameters of F. Those that need no gradient are left alone.
        survival: Probability that b = 1, in [0, 1].

    Returns:
        The sum, in new memory.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from lightning_optreg.layers.stochastic_depth import random_branch
        >>> F, x = nn.Linear(3, 3), torch.ones(2, 3)
        >>> torch.equal(random_branch(F, x, x, F.parameters(), 0.0), x)
        True
        >>> torch.equal(random_branch(F, x, x, F.parameters(), 1.0), x + F(x))
        True
    """
    # On the CPU, which decides what to compute: for a number drawn on a GPU it would have to wait.
    if torch.rand((), device="cpu") < survival:
        return shortcut + branch(x)
    return with_zero_gradients(shortcut, parameters)


def with_zero_gradients(x: Tensor, parameters: Iterable[Tensor]) -> Tensor:
    """A copy of x through which all parameters get zero gradients.

    Args:
        x: Any tensor.
        parameters: Tensors; those that need no gradient are left alone.

    Returns:
        x, in new memory.

    Example:
        >>> import torch
        >>> from lightning_optreg.layers.stochastic_depth import with_zero_gradients
        >>> w = torch.ones(2, requires_grad=True)
        >>> with_zero_gradients(torch.ones(3), [w]).sum().backward()
        >>> w.grad
        tensor([0., 0.])
    """
    y: Tensor = _WithZeroGradients.apply(x, *(p for p in parameters if p.requires_grad))
    return y


class _WithZeroGradients(torch.autograd.Function):
    """The identity in x, with derivative 0 to all others."""

    @staticmethod
    def forward(x: Tensor, *parameters: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[1:])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return gradients[0], *(torch.zeros_like(parameter) for parameter in ctx.saved_tensors)


class StochasticDepth(NoiseLayer):
    """b F(x) in training with b ~ Bernoulli(survival), survival F(x) at test.

    As a layer it follows a branch: y = x + StochasticDepth(0.8)(F(x)), which computes F(x) and may then drop
    it. `add` computes F(x) only if it is kept; `StochasticResidual` is a whole block.

    As in the paper, and unlike in torchvision's `StochasticDepth`, nothing is divided by the survival
    probability in training. torchvision's modes `batch` and `row` are `block` and `sample` here.

    Args:
        survival: Probability in [0, 1] that b = 1. With 1 the branch is unchanged and nothing is drawn. The
            paper lets it fall linearly from 1 at the input to 0.5 in the last block.
        mode: `block`, one b for the whole mini-batch, as in the paper; `sample`, one for each image. Default:
            block.

    Shape:
        (N, ...) -> the same.

    Raises:
        ValueError: If the survival is out of range or the mode is unknown.

    Example:
        >>> import torch
        >>> from lightning_optreg.layers import StochasticDepth
        >>> depth = StochasticDepth(0.8).eval()
        >>> depth(torch.ones(2, 3))
        tensor([[0.8000, 0.8000, 0.8000],
                [0.8000, 0.8000, 0.8000]])
    """

    def __init__(self, survival: float, *, mode: Mode = "block") -> None:
        super().__init__()
        check_range("StochasticDepth", "[0, 1]", survival=survival)
        check_choice("StochasticDepth", ("block", "sample"), mode=mode)
        self.survival = survival
        self.mode: Mode = mode

    def forward(self, x: Tensor) -> Tensor:
        """Weigh a branch F(x), (N, ...)."""
        if self.survival == 1.0:
            return x
        return stochastic_depth(x, self.survival, self.mode) if self.noisy else x * self.survival

    def add(
        self,
        branch: Callable[[Tensor], Tensor],
        x: Tensor,
        shortcut: Tensor,
        parameters: Iterable[Tensor],
    ) -> Tensor:
        """Add a branch: shortcut + b F(x), without computing F(x) where `mode="block"` drops it.

        Args:
            branch: The function F.
            x: Its argument, (N, ...).
            shortcut: What F(x) is added to, of the shape of F(x).
            parameters: The parameters of F, which get zero gradients when it is dropped.

        Returns:
            The sum, in new memory.
        """
        if self.noisy and self.mode == "block" and self.survival < 1.0:
            return random_branch(branch, x, shortcut, parameters, self.survival)
        return shortcut + self.forward(branch(x))

    def extra_repr(self) -> str:
        """The settings, for print(net)."""
        return f"survival={self.survival}, mode={self.mode}"


class StochasticResidual(nn.Module):
    """A residual block of any branch: y = shortcut(x) + b F(x), survival F(x) in place of b F(x) at test.

    A dropped branch is not computed (`mode="block"`), so that training takes less time, and its parameters
    get zero gradients, so that several processes may drop different blocks.

    Args:
        branch: The module F.
        survival: See `StochasticDepth`.
        mode: See `StochasticDepth`. Default: block.
        shortcut: The module for the shortcut, with outputs of the shape of F's; None is the identity.
            Default: None.

    Shape:
        That of the branch: (N, ...) -> (N, ...).

    Raises:
        ValueError: If the survival is out of range or the mode is unknown.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from lightning_optreg.layers import StochasticResidual
        >>> F = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
        >>> block = StochasticResidual(F, survival=0.5).eval()
        >>> x = torch.randn(2, 8)
        >>> torch.equal(block(x), x + 0.5 * F(x))
        True
    """

    def __init__(
        self, branch: nn.Module, survival: float, *, mode: Mode = "block", shortcut: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.branch = branch
        self.shortcut = shortcut
        self.depth = StochasticDepth(survival, mode=mode)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, ...) to shortcut(x) + b F(x)."""
        shortcut = x if self.shortcut is None else self.shortcut(x)
        return self.depth.add(self.branch, x, shortcut, self.branch.parameters())
