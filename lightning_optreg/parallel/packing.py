"""Tensors side by side in one buffer of bytes, as they travel between workers and servers."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["Packing"]

_ALIGNMENT = 64  # bytes: a multiple of what any type of number needs


class Packing:
    """A buffer in main memory with room for tensors of given shapes and types; all of them travel at once.

    Args:
        tensors: Tensors of these shapes and types, on any device.

    Example:
        >>> packing = Packing([torch.zeros(2), torch.zeros(3, dtype=torch.bfloat16)])
        >>> other = Packing([torch.zeros(2), torch.zeros(3, dtype=torch.bfloat16)])
        >>> other.read(packing.write([torch.ones(2), None]))[0]
        tensor([1., 1.])
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        ends, end = [], 0
        for tensor in tensors:
            end += -end % _ALIGNMENT + tensor.numel() * tensor.element_size()
            ends.append(end)
        self.buffer = torch.zeros(end, dtype=torch.uint8)
        self.views = [
            self.buffer[end - tensor.numel() * tensor.element_size() : end]
            .view(tensor.dtype)
            .view(tensor.shape)
            for tensor, end in zip(tensors, ends, strict=True)
        ]
        """The tensors in the buffer."""

    @torch.no_grad()
    def write(self, tensors: Sequence[Tensor | None]) -> "np.ndarray[Any, np.dtype[np.uint8]]":
        """Copy tensors into the buffer, and return its bytes, which the next call overwrites.

        Args:
            tensors: One for each place; None leaves what is there.
        """
        places = [
            (view, tensor) for view, tensor in zip(self.views, tensors, strict=True) if tensor is not None
        ]
        if places:
            views, sources = zip(*places, strict=True)
            torch._foreach_copy_(views, sources)
        return self.bytes()

    def bytes(self) -> "np.ndarray[Any, np.dtype[np.uint8]]":
        """Return the buffer's bytes, not a copy."""
        return self.buffer.numpy()

    def read(self, content: "np.ndarray[Any, np.dtype[np.uint8]]") -> list[Tensor]:
        """Copy bytes of another buffer of this kind into this one, and return the tensors in it."""
        np.copyto(self.buffer.numpy(), content)
        return self.views
