"""Tensors of a module in memory that several processes share."""

import mmap
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

__all__ = ["Memory", "Plan", "move_in", "move_out", "plan_for"]

_ALIGNED = 64  # bytes: storages begin at a cache line of their own, as torch's do


@dataclass(frozen=True)
class Plan:
    """Where tensors lie in a memory; plain, so that it can be sent to other processes.

    Attributes:
        size: Bytes of the memory.
        storages: Begin and length, in bytes, of each storage.
        tensors: For each tensor the number of its storage, its offset there in elements, its shape, its
            strides and its dtype.
    """

    size: int
    storages: list[tuple[int, int]]
    tensors: list[tuple[int, int, tuple[int, ...], tuple[int, ...], torch.dtype]]


class Memory:
    """Anonymous memory that lasts as long as a process uses it, so that a killed run leaves nothing behind.

    Args:
        size: Bytes, at least 1.
        handle: File descriptor of a memory that another process has made; None makes one.

    Example:
        >>> memory = Memory(8)
        >>> memory.storage(0, 8).nbytes()
        8
    """

    def __init__(self, size: int, handle: int | None = None) -> None:
        # Not below /dev/shm, which containers often limit to 64 MB.
        if handle is None and sys.platform == "linux":
            handle = os.memfd_create("lightning_optreg")
            os.ftruncate(handle, size)
        elif handle is None:
            with tempfile.TemporaryFile() as file:
                file.truncate(size)
                handle = os.dup(file.fileno())
        self.handle: int = handle
        self.size = size
        self._map = mmap.mmap(handle, size)

    def storage(self, begin: int, length: int) -> torch.UntypedStorage:
        """Return a part of the memory, as a storage of its own that keeps the memory alive."""
        return torch.frombuffer(self._map, dtype=torch.uint8, count=length, offset=begin).untyped_storage()

    def close_handle(self) -> None:
        """Close the file descriptor, once all processes have the memory; the memory itself stays."""
        if self.handle >= 0:
            os.close(self.handle)
            self.handle = -1


def plan_for(tensors: Sequence[Tensor]) -> Plan:
    """Return a plan by which tensors that share a storage go on sharing it.

    Args:
        tensors: Dense tensors in main memory.

    Raises:
        ValueError: If a tensor is not dense, not in main memory, or has no shape yet.

    Example:
        >>> a = torch.zeros(3)
        >>> plan_for([a, a.view(1, 3), torch.zeros(1)]).storages
        [(0, 12), (64, 4)]
    """
    storages: list[tuple[int, int]] = []
    numbers: dict[int, int] = {}
    places = []
    size = 0
    for tensor in tensors:
        if is_lazy(tensor) or tensor.layout is not torch.strided or tensor.device.type != "cpu":
            raise ValueError(
                f"only dense tensors in main memory can be shared by processes, got one with layout "
                f"{tensor.layout} on {tensor.device}" + (" and no shape yet" if is_lazy(tensor) else "")
            )
        storage = tensor.untyped_storage()
        key = storage.data_ptr() if storage.nbytes() else id(tensor)
        if key not in numbers:
            numbers[key] = len(storages)
            storages.append((size, storage.nbytes()))
            size += -(-storage.nbytes() // _ALIGNED) * _ALIGNED
        places.append(
            (numbers[key], int(tensor.storage_offset()), tuple(tensor.shape), tensor.stride(), tensor.dtype)
        )
    return Plan(max(size, 1), storages, places)


def move_in(tensors: Sequence[Tensor], plan: Plan, memory: Memory, *, copy: bool) -> None:
    """Let tensors point into a memory; they stay the same objects, with the same gradients.

    Args:
        tensors: As many as the plan has, in its order.
        plan: Where they lie.
        memory: The memory.
        copy: Whether their values are copied there; otherwise they take the values that are there.

    Raises:
        ValueError: If the shapes or dtypes are not those of the plan.
    """
    mine = [(tuple(tensor.shape), tensor.dtype) for tensor in tensors]
    if mine != [(shape, dtype) for _, _, shape, _, dtype in plan.tensors]:
        raise ValueError("the workers' modules have other parameters or buffers than that of worker 0")
    storages = [memory.storage(begin, length) if length else None for begin, length in plan.storages]
    with torch.no_grad():
        copied = set()
        for tensor, (number, offset, shape, strides, _) in zip(tensors, plan.tensors, strict=True):
            storage = storages[number]
            if storage is None:  # an empty tensor
                continue
            if copy and number not in copied:
                storage.copy_(tensor.untyped_storage())
                copied.add(number)
            tensor.set_(storage, offset, shape, strides)


def move_out(tensors: Sequence[Tensor]) -> None:
    """Let tensors point to plain memory with the same values; those that share a storage go on sharing it."""
    storages: dict[int, torch.UntypedStorage] = {}
    with torch.no_grad():
        for tensor in tensors:
            shared = tensor.untyped_storage()
            if not shared.nbytes():
                continue
            if shared.data_ptr() not in storages:
                storages[shared.data_ptr()] = shared.clone()  # type: ignore[no-untyped-call]
            tensor.set_(
                storages[shared.data_ptr()], tensor.storage_offset(), tuple(tensor.shape), tensor.stride()
            )
