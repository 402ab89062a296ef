"""Keep only a stage's own parameters and buffers in a process, and bring them together again.

The others stay in place under their names, on the meta device: shapes without numbers. So names, the order of
parameters and an optimizer's groups are those of the whole network, and a computation with numbers that are
elsewhere fails rather than being wrong.
"""

from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

__all__ = ["Placement"]


class Placement:
    """Which process has which parameters and buffers of a network.

    All processes call its methods together.

    Args:
        net: The network, whole.
        owner: Returns the process that has a parameter or buffer.
        device: This process's device.
    """

    def __init__(self, net: nn.Module, owner: Callable[[Tensor], int], device: torch.device) -> None:
        self._net, self._device = net, device
        self._rank = dist.get_rank()
        self._owners = {
            id(tensor): owner(tensor) for _, tensor in chain(net.named_parameters(), net.named_buffers())
        }
        self.split = False
        """Whether this process has only its own part."""

    def own_parameters(self) -> list[nn.Parameter]:
        """Return the parameters of this process."""
        return [each for each in self._net.parameters() if self._owner(each) == self._rank]

    def scatter(self) -> None:
        """Take the first process's numbers, move this process's part to the device and let go of the rest."""
        for _, tensor in self._tensors():
            owner = self._owner(tensor)
            if owner == self._rank or self._rank == 0:
                with torch.no_grad():
                    value = tensor.detach().to(self._device)
                    if owner != self._rank:
                        dist.send(value.contiguous(), dst=owner)
                    elif owner > 0:
                        received = torch.empty_like(value, memory_format=torch.contiguous_format)
                        dist.recv(received, src=0)
                        value.copy_(received)
                    if owner == self._rank:
                        tensor.data = value
            if owner != self._rank:
                self._put(tensor, torch.empty_like(tensor, device="meta"))
        self.split = True

    def gather_on_all(self) -> None:
        """Make the network whole in every process, other processes' parts in main memory."""
        for _, tensor in self._tensors():
            value = self._received(tensor, everywhere=True)
            if self._owner(tensor) != self._rank:
                assert value is not None
                self._put(tensor, value)
        self.split = False

    def gather_on_first(self, state: dict[str, Any], prefix: str) -> None:
        """Replace the entries of a state dict that other processes have; only in the first process.

        Args:
            state: State dict of a module that has the network as an attribute.
            prefix: The attribute's name and a dot.
        """
        there = {id(tensor): tensor for _, tensor in self._tensors()}
        values = {key: self._received(tensor, everywhere=False) for key, tensor in there.items()}
        for name, tensor in self._tensors(remove_duplicate=False):
            value = values[id(tensor)]
            if value is not None and f"{prefix}{name}" in state:
                state[f"{prefix}{name}"] = value

    def gather_states(self, optimizer: Optimizer, state: dict[str, Any]) -> dict[str, Any]:
        """Return an optimizer's state dict with the states of all processes; only in the first process.

        Args:
            optimizer: The optimizer.
            state: Its state dict in this process.
        """
        own = self._only_own(optimizer, state)
        everyone: list[Any] | None = [None] * dist.get_world_size() if self._rank == 0 else None
        dist.gather_object(_on_cpu(own["state"]) if self._rank else {}, everyone, dst=0)
        merged = dict(own["state"])
        for theirs in everyone or ():
            merged.update(theirs)
        return {**own, "state": dict(sorted(merged.items(), key=lambda item: str(item[0]).zfill(9)))}

    def load_states(self, optimizer: Optimizer, state: dict[str, Any]) -> None:
        """Load this process's part of an optimizer's state dict."""
        optimizer.load_state_dict(self._only_own(optimizer, state))

    def forget_others(self, optimizer: Optimizer) -> None:
        """Remove states of parameters that other processes have, which some optimizers create at once."""
        for parameter in [each for each in optimizer.state if each.is_meta]:
            del optimizer.state[parameter]

    def only_own(self, state: dict[str, Any], prefix: str) -> dict[str, Any]:
        """Return a state dict for loading, with the entries of others on the meta device."""
        others = {
            f"{prefix}{name}": tensor.detach()
            for name, tensor in self._tensors(remove_duplicate=False)
            if self._owner(tensor) != self._rank
        }
        return {**state, **{name: tensor for name, tensor in others.items() if name in state}}

    def _only_own(self, optimizer: Optimizer, state: dict[str, Any]) -> dict[str, Any]:
        parameters = [each for group in optimizer.param_groups for each in group["params"]]
        owners = dict(enumerate(map(self._owner, parameters)))
        mine = {key: value for key, value in state["state"].items() if owners.get(key, 0) == self._rank}
        return {**state, "state": mine}

    def _tensors(self, *, remove_duplicate: bool = True) -> Iterator[tuple[str, Tensor]]:
        yield from self._net.named_parameters(remove_duplicate=remove_duplicate)
        yield from self._net.named_buffers(remove_duplicate=remove_duplicate)

    def _owner(self, tensor: Tensor) -> int:
        # Layers may have made a buffer since, which then is of no other process.
        return self._owners.get(id(tensor), self._rank)

    def _put(self, tensor: Tensor, value: Tensor) -> None:
        """Replace a tensor's numbers; it stays the same object, for the optimizer and all others."""
        tensor.grad = None
        new = nn.Parameter(value, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else value
        vars(new).update(vars(tensor))
        torch.utils.swap_tensors(tensor, new)  # type: ignore[no-untyped-call]  # torch 2.14 has no types

    def _received(self, tensor: Tensor, *, everywhere: bool) -> Tensor | None:
        """Return another process's tensor in main memory; None if it is this one's, or not for this one."""
        owner = self._owner(tensor)
        if owner == self._rank:
            value = tensor.detach().contiguous()
            if everywhere:
                dist.broadcast(value, src=owner)
            elif owner > 0:
                dist.send(value, dst=0)
            return None
        if self._rank > 0 and not everywhere:
            return None
        value = torch.empty(tensor.shape, dtype=tensor.dtype, device=self._device)
        if everywhere:
            dist.broadcast(value, src=owner)
        else:
            dist.recv(value, src=owner)
        if tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last):
            value = value.contiguous(memory_format=torch.channels_last)
        return value.clone() if value.is_cpu else value.cpu()  # torch still holds what it has received


def _on_cpu(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.cpu()
    if isinstance(value, dict):
        return {key: _on_cpu(each) for key, each in value.items()}
    return value
