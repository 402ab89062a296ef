"""Go through large tensors in blocks that fit into a CPU's cache.

A multi-tensor step of Adam passes over all of memory once per operation, some eight times. In blocks, all
operations are done on a part of every tensor before the next part is touched. On other devices, whose kernels
work best on long tensors, everything is one block.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

__all__ = ["in_blocks"]

BLOCK = 2**18
"""Elements of a block, 1 MiB of float32: long enough for several threads."""


def in_blocks(*columns: list[Tensor]) -> Iterator[list[list[Tensor]]]:
    """Cut lists of tensors into lists of views, all in the same way.

    Args:
        columns: Lists of the same length, tensors at the same place having the same shape, such as
            parameters, gradients and velocities, all on one device.

    Yields:
        For each block, a list for each column. On a CPU a block ends with the view that brings it to 262,144
        elements; tensors of a place that lie in memory in different orders are not cut.

    Example:
        >>> theta, g = torch.ones(1_000_000), torch.arange(1_000_000) % 3
        >>> [(len(a[0]), int((a[0] * b[0]).sum())) for a, b in in_blocks([theta], [g])][:2]
        [(262144, 262143), (262144, 262144)]
    """
    if not columns[0] or columns[0][0].device.type != "cpu":
        yield [list(column) for column in columns]
        return
    block: list[list[Tensor]] = [[] for _ in columns]
    size = 0
    for place in zip(*columns, strict=True):
        cut = [_split(tensor) for tensor in _flat(place)]
        for pieces in zip(*cut, strict=True):
            for column, piece in zip(block, pieces, strict=True):
                column.append(piece)
            size += pieces[0].numel()
            if size >= BLOCK:
                yield block
                block, size = [[] for _ in columns], 0
    if block[0]:
        yield block


def _flat(tensors: tuple[Tensor, ...]) -> list[Tensor]:
    """One-dimensional views, if all tensors have the same order in memory; else the tensors."""
    if all(tensor.is_contiguous() for tensor in tensors):
        return [tensor.view(-1) for tensor in tensors]
    if all(t.dim() == 4 and t.is_contiguous(memory_format=torch.channels_last) for t in tensors):
        return [tensor.permute(0, 2, 3, 1).view(-1) for tensor in tensors]
    return list(tensors)


def _split(tensor: Tensor) -> list[Tensor]:
    if tensor.dim() != 1 or tensor.numel() <= BLOCK:
        return [tensor]
    return [tensor[start : start + BLOCK] for start in range(0, tensor.numel(), BLOCK)]
