"""Networks compiled in place, whose outputs outlive their next call."""

from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["MODES", "compile_in_place"]

MODES = ("default", "reduce-overhead", "max-autotune")
"""Modes of `torch.compile`; all but the first use CUDA graphs on a GPU."""


def compile_in_place(net: nn.Module, mode: str) -> None:
    """Compile a network, so that the names of its parameters don't change.

    A CUDA graph writes its outputs into the same memory in each call. Some callers need those of several
    calls, such as averages over views of an image, so the outputs are copied there: N x K numbers.

    Args:
        net: The network.
        mode: One of `MODES`.

    Example:
        >>> net = nn.Linear(2, 1)
        >>> compile_in_place(net, "default")  # it is compiled when it is first called
        >>> list(net.state_dict())
        ['weight', 'bias']
    """
    if mode == "default":
        net.compile()
        return
    hook: Any = torch.compiler.disable(_copied)  # type: ignore[no-untyped-call]  # untyped in torch 2.14
    net.register_forward_hook(hook, prepend=True)  # others see the copies
    net.compile(mode=mode)


def _copied(net: nn.Module, args: Any, outputs: Any) -> Any:
    if isinstance(outputs, Tensor):
        return outputs.clone()
    if not isinstance(outputs, tuple):
        return outputs
    copies = [each.clone() if isinstance(each, Tensor) else each for each in outputs]
    named = getattr(outputs, "_replace", None)  # torchvision's networks with auxiliary heads
    return tuple(copies) if named is None else type(outputs)(*copies)
