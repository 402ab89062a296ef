"""Between a network's inputs and the pixels that they were made from.

An attack changes pixels on [0, 1], and the network normalises them. What a network gets is x = (p - mean) /
std, so a change d of the pixels is one of d / std of the input.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["PixelSpace"]


class PixelSpace:
    """Maps inputs x = (p - mean) / std to pixels p on [0, 1], and changes of pixels to those of inputs.

    Pixels have at least 32 bits, and inputs keep their dtype.

    Args:
        mean: Mean of each channel for pixels on [0, 1], or of each pixel (C, H, W). None: 0, so that inputs
            are pixels.
        std: Standard deviation of each channel, > 0. None: 1.
        bounded: Whether changed pixels stay on [0, 1]. Default: True.

    Raises:
        ValueError: If a standard deviation is not above 0.

    Example:
        >>> space = PixelSpace(mean=[0.5], std=[0.25])
        >>> inputs = torch.tensor([-2.0, 0.0, 2.0]).view(3, 1, 1, 1)
        >>> space.pixels(inputs).flatten()
        tensor([0.0000, 0.5000, 1.0000])
        >>> space.moved(inputs, torch.full_like(inputs, 0.1)).flatten()
        tensor([-1.6000,  0.4000,  2.4000])
    """

    def __init__(
        self,
        mean: Sequence[float] | Tensor | None = None,
        std: Sequence[float] | Tensor | None = None,
        *,
        bounded: bool = True,
    ) -> None:
        with torch.inference_mode(False):  # tensors of inference mode take no part in a backward pass
            self.mean = _per_channel(0.0 if mean is None else mean)
            self.std = _per_channel(1.0 if std is None else std)
        self.bounded = bounded
        if not bool((self.std > 0.0).all()):
            raise ValueError(f"PixelSpace: std must be > 0, got {self.std.flatten().tolist()}")

    @classmethod
    def of(cls, preprocessing: Mapping[str, Any], *, bounded: bool = True) -> "PixelSpace":
        """Make the space of a data module of this package.

        Args:
            preprocessing: What its method `preprocessing` returns.
            bounded: Whether changed pixels stay on [0, 1].
        """
        mean = preprocessing.get("mean", preprocessing.get("mean_image"))
        return cls(mean, preprocessing.get("std"), bounded=bounded)

    def pixels(self, inputs: Tensor) -> Tensor:
        """Return the pixels of inputs (N, C, H, W); rounding may put them a little outside of [0, 1]."""
        self._follow(inputs)
        return inputs.to(self.mean.dtype) * self.std + self.mean

    def inputs(self, pixels: Tensor) -> Tensor:
        """Return the inputs whose pixels these are, (N, C, H, W), up to rounding."""
        self._follow(pixels)
        return (pixels - self.mean) / self.std

    def moved(self, inputs: Tensor, change: Tensor) -> Tensor:
        """Return inputs whose pixels are changed; where nothing changes, they stay as they are to the bit.

        Args:
            inputs: (N, C, H, W).
            change: What to add to their pixels, of the same shape.
        """
        self._follow(inputs)
        return (inputs + self.scaled(change)).to(inputs.dtype)

    def scaled(self, change: Tensor) -> Tensor:
        """Return the change of inputs that one of pixels makes: change / std.

        A gradient with respect to inputs becomes one with respect to pixels in the same way.
        """
        return change / self.std

    def room(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return how far each pixel may go down, a number <= 0, and up, >= 0, without leaving [0, 1].

        Augmentation may have put pixels outside; these may come back, and not go further.
        """
        pixels = self.pixels(inputs)
        if not self.bounded:
            return torch.full_like(pixels, -torch.inf), torch.full_like(pixels, torch.inf)
        return (-pixels).clamp(max=0.0), (1.0 - pixels).clamp(min=0.0)

    def outside(self, inputs: Tensor) -> Tensor:
        """Return how far the pixels are outside of [0, 1] at most, a tensor without dimensions."""
        pixels = self.pixels(inputs)
        return torch.maximum(-pixels.amin(), pixels.amax() - 1.0).clamp(min=0.0)

    def unlike_pixels(self, inputs: Tensor) -> str | None:
        """Return what is wrong with inputs whose pixels are not on [0, 1]; this waits for the device.

        Rounding is no fault: normalised pixels in bfloat16 may come back 0.4 % too large.
        """
        outside = float(self.outside(inputs))
        if outside <= max(1e-3, torch.finfo(inputs.dtype).eps):
            return None
        return "some are not numbers" if outside != outside else f"some are {outside:.3g} outside"

    def _follow(self, inputs: Tensor) -> None:
        dtype = torch.promote_types(inputs.dtype, torch.float32)  # 16 bits are too coarse for small changes
        if self.mean.device != inputs.device or self.mean.dtype != dtype:
            with torch.inference_mode(False):
                self.mean, self.std = self.mean.to(inputs.device, dtype), self.std.to(inputs.device, dtype)


def _per_channel(values: float | Sequence[float] | Tensor) -> Tensor:
    tensor = torch.as_tensor(values, dtype=torch.float32)
    return tensor.view(1, -1, 1, 1) if tensor.ndim == 1 else tensor
