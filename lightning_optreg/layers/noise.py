"""The base of all layers that draw random numbers: when they draw."""

from torch import nn

__all__ = ["NoiseLayer"]


class NoiseLayer(nn.Module):
    """A layer y = f(x, z) with a random z in training, and usually something like E_z[f(x, z)] at test.

    A subclass asks `self.noisy` where it would ask `self.training`. It draws from torch's default generators,
    which `ExactResume` saves and restores. Where its settings make it the identity it draws nothing.

    Attributes:
        sampling: Whether the layer draws in evaluation too, as an average of f(x, z) over several draws
            requires. Not in the state dict. Default: False.

    Example:
        >>> import torch
        >>> from lightning_optreg.layers import NoiseLayer
        >>> class Flip(NoiseLayer):
        ...     def forward(self, x):
        ...         return -x if self.noisy and torch.rand(()) < 0.5 else x
        >>> flip = Flip().eval()
        >>> flip.noisy
        False
        >>> flip.sampling = True
        >>> flip.noisy
        True
    """

    sampling: bool = False

    @property
    def noisy(self) -> bool:
        """Whether the layer draws in the next forward pass: in training, or with `sampling`."""
        return self.training or self.sampling
