"""What a network uses beside its registered parameters, buffers and layers, as layers in a list."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

__all__ = ["UnregisteredError", "refuse_unregistered", "tensors_on_meta"]

# Private in torch 2.14: the attributes of a module that hold what is registered.
_REGISTERED = ("_parameters", "_buffers", "_modules")


class UnregisteredError(ValueError):
    """The network uses layers or parameters that are not part of it."""


class _Found(NamedTuple):
    attribute: str  # with the place of its owner in the network: `encoder.blocks`
    holder: type  # of what it lies in: list, dict, or its owner
    value: Tensor | nn.Module


def _unregistered(net: nn.Module) -> list[_Found]:
    """Tensors and layers in attributes that `nn.Module` does not look after."""
    found = []
    for name, owner in net.named_modules():
        for attribute, value in vars(owner).items():
            if attribute not in _REGISTERED:
                path = f"{name}.{attribute}" if name else attribute
                found += [_Found(path, holder, item) for holder, item in _items(value, type(owner))]
    return found


def _items(value: Any, holder: type) -> Iterator[tuple[type, Tensor | nn.Module]]:
    if isinstance(value, Tensor | nn.Module):
        yield holder, value
    elif isinstance(value, list | tuple | set | dict):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _items(item, type(value))


def refuse_unregistered(net: nn.Module) -> Callable[[], None]:
    """Refuse parameters that are not registered, and layers that are not, as soon as they are called.

    Layers that are only kept, such as a teacher that is hidden from the optimizer on purpose, may be there.

    Returns:
        Lets the layers be called again.

    Raises:
        UnregisteredError: Now for a parameter, later, out of the network's forward, for a layer.
    """
    layers, parameters = set(net.modules()), {id(parameter) for parameter in net.parameters()}
    hooks = []
    for found in _unregistered(net):
        if isinstance(found.value, nn.Module) and found.value not in layers:
            message = _message(
                net, found, "layers", "nn.ModuleDict" if found.holder is dict else "nn.ModuleList"
            )
            hooks += [layer.register_forward_pre_hook(_refusal(message)) for layer in found.value.modules()]
        if isinstance(found.value, nn.Parameter) and id(found.value) not in parameters:
            kind = "nn.ParameterDict" if found.holder is dict else "nn.ParameterList"
            raise UnregisteredError(_message(net, found, "parameters", kind))

    def release() -> None:
        for hook in hooks:
            hook.remove()

    return release


def _message(net: nn.Module, found: _Found, what: str, remedy: str) -> str:
    held = issubclass(found.holder, list | tuple | set | dict)
    place = f" in a plain {found.holder.__name__}" if held else " that are not registered"
    return (
        f"describe: {found.attribute} of {type(net).__name__} holds {what}{place}, so they are not part of "
        f"the network: not trained, moved or saved; make it {f'an {remedy}' if held else 'a plain attribute'}"
    )


def _refusal(message: str) -> Callable[[nn.Module, Any], None]:
    def refuse(layer: nn.Module, inputs: Any) -> None:
        raise UnregisteredError(message)

    return refuse


@contextmanager
def tensors_on_meta(net: nn.Module, registered: dict[int, Tensor]) -> Iterator[None]:
    """Put meta tensors in the place of those in plain attributes, for as long as the context lasts.

    Args:
        net: The network.
        registered: By `id` of a registered tensor, the one that stands for it.
    """
    stand_ins = dict(registered)

    def stand_in(value: Any) -> Any:
        if isinstance(value, Tensor):
            if id(value) not in stand_ins:
                stand_ins[id(value)] = torch.empty_like(value, device="meta", requires_grad=False)
            return stand_ins[id(value)]
        if type(value) in (list, tuple, set):
            return type(value)(map(stand_in, value))
        if type(value) is dict:
            return {key: stand_in(item) for key, item in value.items()}
        return value

    changed = []
    try:
        for owner in net.modules():
            for attribute, value in list(vars(owner).items()):
                if attribute not in _REGISTERED and any(
                    isinstance(item, Tensor) for _, item in _items(value, list)
                ):
                    changed.append((owner, attribute, value))
                    vars(owner)[attribute] = stand_in(value)
        yield
    finally:
        for owner, attribute, value in changed:
            vars(owner)[attribute] = value
