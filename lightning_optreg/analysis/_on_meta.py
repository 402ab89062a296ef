"""A network on the meta device, where tensors have shapes and no numbers: lazy layers, and what fails."""

import copy
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter, is_lazy

from lightning_optreg.analysis._unregistered import UnregisteredError, refuse_unregistered, tensors_on_meta

__all__ = ["FORWARD_ERRORS", "lazy_tensors", "materialized", "reason"]

FORWARD_ERRORS = (RuntimeError, TypeError, ValueError, LookupError, AttributeError, AssertionError)
"""Raised by networks that cannot take their input."""


def reason(error: Exception) -> str:
    """Return in a few words why a layer fails there."""
    message = str(error)
    if "expected device meta" in message or "on the same device" in message:
        return (
            "uses a tensor that is not part of the network: make it a buffer (register_buffer), or on the "
            "device of its input"
        )
    line = message.strip().partition("\n")[0]
    if "meta" in message:
        return f"needs the numbers in a tensor, where describe has only its shape: {line}"
    return f"fails: {line or type(error).__name__}"


def lazy_tensors(net: nn.Module) -> list[str]:
    """Return the names of parameters and buffers without a size before the first call, as in `LazyLinear`."""
    return [name for name, value in chain(net.named_parameters(), net.named_buffers()) if is_lazy(value)]


def materialized(net: nn.Module, shape: tuple[int, ...]) -> nn.Module:
    """Copy a network to the meta device and call it once, so that its lazy layers take their sizes.

    Args:
        net: The network.
        shape: Of its input.

    Raises:
        RuntimeError: If it fails.
        ValueError: If a lazy layer is not called, or layers are that are not part of the network.
    """
    stand_ins: dict[int, object] = {
        id(value): _on_meta(value) for value in chain(net.parameters(), net.buffers())
    }
    net = copy.deepcopy(net, stand_ins).eval()
    release = refuse_unregistered(net)
    try:
        with torch.no_grad(), torch.device("meta"), tensors_on_meta(net, {}):
            net(torch.empty(shape, device="meta"))
    except UnregisteredError:
        raise
    except FORWARD_ERRORS as error:
        raise RuntimeError(f"describe: {type(net).__name__} {reason(error)}") from error
    finally:
        release()
    if left := lazy_tensors(net):
        layer = left[0].rpartition(".")[0] or type(net).__name__
        raise ValueError(f"describe: {layer} is a lazy layer that is never called, so its size is not known")
    return net


def _on_meta(value: Tensor) -> Tensor:
    if is_lazy(value):
        kind: Any = UninitializedParameter if isinstance(value, nn.Parameter) else UninitializedBuffer
        unknown: Tensor = kind(device="meta", dtype=value.dtype)
        return unknown
    on_meta = value.detach().to("meta")
    return nn.Parameter(on_meta, value.requires_grad) if isinstance(value, nn.Parameter) else on_meta
