"""Send many tensors as one: collective calls cost time each, whatever they carry."""

from collections.abc import Iterator, Sequence
from functools import reduce

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["FlatMean", "broadcast_tensors", "copy_all", "distance_of", "share_buffers"]

_BUCKET = 2**28  # bytes that are sent at once, so that no second copy of a large network is needed


class FlatMean:
    """The mean over all processes of each of some tensors, by a single all-reduce, which begins at once.

    Processes have the same shapes. Half precision is added up in float32. What is reduced are copies, so the
    tensors may change in the meantime, and the device is not waited for.

    Args:
        tensors: Floating or complex tensors, at least one, on one device.
        dtype: In what to add up. None: the widest of theirs, at least float32.

    Attributes:
        bytes: What this process hands to the all-reduce; 0 if it is alone.
    """

    def __init__(self, tensors: Sequence[Tensor], *, dtype: torch.dtype | None = None) -> None:
        self._tensors = [tensor.detach() for tensor in tensors]
        real = [torch.view_as_real(each) if each.is_complex() else each for each in self._tensors]
        wide = dtype or reduce(torch.promote_types, {each.dtype for each in real}, torch.float32)
        self._sizes = [each.numel() for each in real]
        self._flat = torch.cat([each.to(wide).reshape(-1) for each in real])
        self._count = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
        self._work = dist.all_reduce(self._flat, async_op=True) if self._count > 1 else None
        self.bytes = self._flat.numel() * self._flat.element_size() if self._count > 1 else 0

    def wait(self) -> list[Tensor]:
        """Return the means, with the shapes and types of the tensors."""
        if self._work is not None:
            self._work.wait()
            self._flat.div_(self._count)
        means = []
        for part, tensor in zip(torch.split(self._flat, self._sizes), self._tensors, strict=True):
            if tensor.is_complex():
                means.append(torch.view_as_complex(part.view(*tensor.shape, 2)).to(tensor.dtype))
            else:
                means.append(part.view(tensor.shape).to(tensor.dtype))
        return means


@torch.no_grad()
def broadcast_tensors(tensors: Sequence[Tensor]) -> None:
    """Give every process the values of process 0, in place; tensors of any types."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return
    for bucket in _buckets(tensors):
        flat = torch.cat([each.detach().reshape(-1).view(torch.uint8) for each in bucket])
        dist.broadcast(flat, 0)
        sizes = [each.numel() * each.element_size() for each in bucket]
        for part, tensor in zip(torch.split(flat, sizes), bucket, strict=True):
            # A copy begins at an address that suits its type.
            tensor.copy_(part.clone().view(tensor.dtype).view(tensor.shape))


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    bucket: list[Tensor] = []
    size = 0
    for tensor in tensors:
        bucket.append(tensor)
        size += tensor.numel() * tensor.element_size()
        if size >= _BUCKET:
            yield bucket
            bucket, size = [], 0
    if bucket:
        yield bucket


@torch.no_grad()
def copy_all(targets: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    """Copy values into tensors."""
    if targets:
        torch._foreach_copy_(list(targets), list(values))


def share_buffers(buffers: Sequence[Tensor]) -> None:
    """Give every process the mean of floating buffers, and process 0's values of others."""
    floating = [each for each in buffers if each.is_floating_point() or each.is_complex()]
    if floating:
        # In float64 the mean of equal numbers is that number for any count, so constants stay as they are.
        wide = None if floating[0].device.type == "mps" else torch.float64
        copy_all(floating, FlatMean(floating, dtype=wide).wait())
    broadcast_tensors([each for each in buffers if not (each.is_floating_point() or each.is_complex())])


@torch.no_grad()
def distance_of(tensors: Sequence[Tensor]) -> Tensor:
    """Return the L2 norm of all together, without waiting for the device."""
    squares = torch.stack([norm.float() ** 2 for norm in torch._foreach_norm(list(tensors))])
    return squares.sum().sqrt()
