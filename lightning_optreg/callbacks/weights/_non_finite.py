"""Find the origin of numbers that are not finite, for the message of `NaNGuard`.

Nothing is traced while all numbers are finite. The inputs of a LightningModule's children are kept until the
step is checked; only then are they run again, with hooks on every layer and the same random numbers.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

# Private in torch 2.14: there is no public way to map over nested lists, tuples and mappings.
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.hooks import RemovableHandle

from lightning_optreg.randomness.kept_generators import kept_generators
from lightning_optreg.randomness.state import collect_random_state, restore_random_state

__all__ = ["Recorder", "all_finite", "trace_backward", "trace_forward"]


def all_finite(tensors: Iterable[Tensor]) -> Tensor:
    """Return whether all numbers in the tensors are finite, as a bool tensor () on the first one's device.

    Example:
        >>> bool(all_finite([torch.ones(2), torch.tensor([0.0, float("nan")])]))
        False
    """
    # The maximum norm: a sum of squares would overflow before the numbers do.
    dense = [tensor.coalesce().values() if tensor.is_sparse else tensor for tensor in tensors]
    return get_total_norm(dense, norm_type=torch.inf).isfinite()


class Recorder:
    """Records the inputs of a module's children since the last `begin`.

    Args:
        module: The LightningModule.

    Example:
        >>> network = nn.Sequential(nn.Linear(2, 3), nn.ReLU())
        >>> recorder = Recorder(network)
        >>> _ = network(torch.ones(1, 2))
        >>> [name for name, *_ in recorder.calls]
        ['0', '1']
        >>> recorder.close()
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
        self.random_state: dict[str, Any] | None = None
        self._children: dict[str, nn.Module] = {}
        self._handles: list[RemovableHandle] = []
        self._follow()

    def _follow(self) -> None:
        """Register hooks on the module's present children."""
        children = dict(self.module.named_children())
        if children == self._children:
            return
        self.close()
        self._children = children
        self._handles = [
            # A compiled child may call it. (torch 2.14 gives `disable` no types.)
            child.register_forward_pre_hook(torch.compiler.disable(self._keep(name)), with_kwargs=True)  # type: ignore[no-untyped-call]
            for name, child in children.items()
        ]

    def begin(self, device: torch.device) -> None:
        """Begin a new batch."""
        self._follow()
        self.calls.clear()
        self.random_state = {"torch": torch.get_rng_state()}
        if device.type not in ("cpu", "meta"):
            self.random_state[device.type] = torch.get_device_module(device).get_rng_state(device)

    def forget(self) -> None:
        """Drop the inputs."""
        self.calls.clear()

    def close(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()
        self._handles, self._children = [], {}
        self.calls.clear()

    def _keep(self, name: str) -> Callable[..., None]:
        def keep(child: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if torch.is_grad_enabled():  # not in a validation
                self.calls.append((name, tree_map(_detached, args), tree_map(_detached, kwargs)))

        return keep

    def run_again(self, device: torch.device, look: Callable[[str, nn.Module, Any, Any], None]) -> None:
        """Repeat the calls, without gradients, and pass each layer's inputs and outputs to `look`.

        Args:
            device: The module's device.
            look: Called with a layer's name, the layer, its inputs and its outputs, in the order of the
                forward pass; a child without sublayers is a layer.
        """
        buffers = [(buffer, buffer.clone()) for buffer in self.module.buffers()]
        handles: list[RemovableHandle] = []
        for name, layer in self.module.named_modules():
            if name and not any(True for _ in layer.children()):
                handles.append(layer.register_forward_hook(_show(name, look), with_kwargs=True))
        try:
            with kept_generators(device), torch.no_grad():
                if self.random_state is not None:
                    restore_random_state({**collect_random_state(device), **self.random_state}, device)
                children = dict(self.module.named_children())
                for name, args, kwargs in self.calls:
                    # `forward`, unless the child is itself a layer: it may be compiled, including its hooks.
                    child = children[name]
                    whole = any(True for _ in child.children())
                    (child.forward if whole else child)(*args, **kwargs)
        finally:
            for handle in handles:
                handle.remove()
            with torch.no_grad():
                for buffer, value in buffers:
                    buffer.copy_(value)


def trace_forward(recorder: Recorder, device: torch.device) -> str | None:
    """Return in which layer the forward pass stopped being finite; None if it did not."""
    for name, parameter in recorder.module.named_parameters():
        if not all_finite([parameter.detach()]):
            return f"the parameter {name}, which is not finite"
    found: list[str] = []

    def look(name: str, layer: nn.Module, inputs: Any, outputs: Any) -> None:
        if found or _is_finite(outputs):
            return
        if _is_finite(inputs):
            found.append(f"{name} ({type(layer).__name__}), whose inputs are finite and outputs are not")
        else:
            found.append(
                f"what is computed before {name} ({type(layer).__name__}), whose inputs are not finite"
            )

    recorder.run_again(device, look)
    return found[0] if found else None


def trace_backward(recorder: Recorder, device: torch.device) -> str | None:
    """Return between which layers the backward pass stopped being finite; None if no gradient shows it.

    The backward pass goes from the last layer to the first. The last layer whose parameters have gradients
    that are not finite got them from the layers between it and the next one with finite gradients.
    """
    order: list[tuple[str, nn.Module]] = []

    def look(name: str, layer: nn.Module, inputs: Any, outputs: Any) -> None:
        order.append((name, layer))

    recorder.run_again(device, look)
    states = [(name, layer, _gradient_is_finite(layer)) for name, layer in order]
    last = max((i for i, (_, _, finite) in enumerate(states) if finite is False), default=None)
    if last is None:
        return None
    name, layer, _ = states[last]
    text = f"{name} ({type(layer).__name__}), the last layer whose gradient is not finite"
    between = []
    for other, kind, finite in states[last + 1 :]:
        between.append(f"{other} ({type(kind).__name__})")
        if finite:
            break
    return f"{text}: what follows is {', '.join(between)}" if between else text


def _detached(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) else value


def _tensors(value: Any) -> Iterator[Tensor]:
    for leaf in tree_leaves(value):
        if isinstance(leaf, Tensor) and (leaf.is_floating_point() or leaf.is_complex()):
            yield leaf


def _is_finite(value: Any) -> bool:
    return all(bool(tensor.isfinite().all()) for tensor in _tensors(value))


def _gradient_is_finite(layer: nn.Module) -> bool | None:
    gradients = [p.grad for p in layer.parameters() if p.grad is not None]
    return bool(all_finite(gradients)) if gradients else None


def _show(name: str, look: Callable[[str, nn.Module, Any, Any], None]) -> Callable[..., None]:
    def hook(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        look(name, layer, (args, kwargs), output)

    return hook
