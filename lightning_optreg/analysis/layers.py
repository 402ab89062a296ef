"""A network layer by layer: output size, memory, parameters and multiply-adds.

The table is the lecture's for VGG. The network runs once on the meta device, which computes shapes and no
numbers, so that ResNet-1202 needs a few seconds and no memory. Multiply-adds are counted by torch's
`FlopCounterMode`, which counts matrix products, convolutions and attention.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from lightning_optreg._checks import check_range
from lightning_optreg.analysis._on_meta import FORWARD_ERRORS, lazy_tensors, materialized, reason
from lightning_optreg.analysis._unregistered import UnregisteredError, refuse_unregistered, tensors_on_meta
from lightning_optreg.layers.modes import evaluating

__all__ = ["LayerRow", "describe", "format_table", "total"]


@dataclass(frozen=True)
class LayerRow:
    """One call of one layer, for the whole batch.

    Args:
        name: Where the layer is in the network, as in `state_dict`.
        kind: Its class.
        output: Shape of its output; empty if it was not called.
        activations: How many numbers it writes to new memory: none if it works in place or returns a view
            of its input.
        parameters: Weights and biases, counted at the first call of the first layer that has them.
        multiply_adds: Multiplications that are followed by an addition: half of torch's floating-point
            operations. Biases, normalisation, pooling and nonlinearities are not counted.
        biases: How many of the parameters are biases, by their names.

    Example:
        >>> from lightning_optreg.analysis import LayerRow
        >>> row = LayerRow("c1", "Conv2d", (1, 6, 28, 28), 4704, 156, 117600, biases=6)
        >>> row.memory, row.weights
        (18816, 150)
    """

    name: str
    kind: str
    output: tuple[int, ...]
    activations: int
    parameters: int
    multiply_adds: int
    biases: int = 0

    @property
    def memory(self) -> int:
        """Bytes of the activations in float32."""
        return 4 * self.activations

    @property
    def weights(self) -> int:
        """Parameters without biases, as the lecture counts them."""
        return self.parameters - self.biases


def describe(net: nn.Module, input_shape: Sequence[int], batch_size: int = 1) -> list[LayerRow]:
    """List the input and every layer of a network in the order in which they are called, in evaluation mode.

    The rows add up to the whole: a module that holds layers has a row too if it has parameters or matrix
    products of its own, and so has a layer with parameters that is never called. The network is left
    unchanged: it is not moved, and no numbers are computed. Lazy layers stay lazy; a copy shows the size that
    they will have. Tensors in plain attributes are not counted, since they are neither trained nor saved.

    Args:
        net: The network, on any device, with one tensor as input.
        input_shape: Shape of one input without the batch, such as (C, H, W); each number at least 1.
        batch_size: Number N of inputs, at least 1. Default: 1.

    Returns:
        The rows; the first is the input.

    Raises:
        ValueError: If a number is out of range, if the network uses layers or parameters that are not
            part of it, as in a plain list, if a lazy layer is never called, or if it is a `ScriptModule`.
        RuntimeError: If a layer fails, by an input of a wrong shape for example, or because what it does
            depends on the numbers in it. The message names it.

    Example:
        >>> from lightning_optreg.analysis import describe, total
        >>> from lightning_optreg.nets import LeNet5
        >>> rows = describe(LeNet5(), (1, 28, 28))
        >>> rows[1]
        LayerRow(name='c1', kind='Conv2d', output=(1, 6, 28, 28), activations=4704, parameters=156, \
multiply_adds=117600, biases=6)
        >>> total(rows).parameters, total(rows).multiply_adds
        (61706, 416520)
    """
    if not all(size >= 1 for size in input_shape):
        raise ValueError(f"describe: input_shape must be numbers >= 1, got {tuple(input_shape)}")
    check_range("describe", ">= 1", batch_size=batch_size)
    if any(isinstance(module, torch.jit.ScriptModule) for module in net.modules()):
        raise ValueError(
            "describe: a ScriptModule can't be watched; describe the module that it was made from"
        )
    if lazy_tensors(net):
        net = materialized(net, (batch_size, *input_shape))
    try:
        return _rows(net, input_shape, batch_size, nullcontext())
    except _ForwardError as failure:
        try:  # the network may create tensors without naming a device
            return _rows(net, input_shape, batch_size, torch.device("meta"))
        except _ForwardError:
            raise RuntimeError(str(failure)) from failure.__cause__


class _ForwardError(Exception):
    """The network's forward failed; the message names the layer."""


def _rows(
    net: nn.Module, input_shape: Sequence[int], batch_size: int, factories: AbstractContextManager[Any]
) -> list[LayerRow]:
    """The rows; `factories` is the context in which the network may make tensors."""
    names = {module: name for name, module in net.named_modules()}
    parameters = _own_parameters(net)
    counter = FlopCounterMode(display=False)
    rows = [LayerRow("input", "", (batch_size, *input_shape), batch_size * math.prod(input_shape), 0, 0)]
    flops_below = [0]  # for each call in progress: floating-point operations of the calls inside it
    flops_before: list[int] = []
    called = [net]  # those in progress

    def enter(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        flops_before.append(counter.get_total_flops())
        flops_below.append(0)
        called.append(module)

    def leave(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        called.pop()
        flops = counter.get_total_flops() - flops_before.pop()
        own_flops = flops - flops_below.pop()
        flops_below[-1] += flops
        own_parameters, own_biases = parameters.pop(module, (0, 0))
        if own_flops or own_parameters or not any(module.children()):
            tensors = list(_tensors(output))
            old = {tensor.untyped_storage() for tensor in _tensors(inputs)}
            new = (tensor.numel() for tensor in tensors if tensor.untyped_storage() not in old)
            shape = tuple(tensors[0].shape) if tensors else ()
            row = (names[module], type(module).__name__, shape, sum(new), own_parameters, own_flops // 2)
            rows.append(LayerRow(*row, biases=own_biases))

    # The values are swapped for meta tensors from outside: the module's own stay where they are.
    values = dict(net.named_parameters()) | dict(net.named_buffers())
    on_meta = {name: value.to("meta") for name, value in values.items()}
    with ExitStack() as stack:
        stack.enter_context(evaluating(net))
        stack.callback(refuse_unregistered(net))
        stack.enter_context(tensors_on_meta(net, {id(values[name]): on_meta[name] for name in values}))
        for module in names:
            stack.callback(module.register_forward_pre_hook(enter).remove)
            stack.callback(module.register_forward_hook(leave).remove)
        images = torch.empty(batch_size, *input_shape, device="meta")
        try:
            with torch.no_grad(), factories, counter:
                torch.func.functional_call(net, on_meta, images)
        except UnregisteredError:
            raise
        except FORWARD_ERRORS as error:
            where = names[called[-1]] or "the network"
            raise _ForwardError(f"describe: {where} ({type(called[-1]).__name__}) {reason(error)}") from error
    for module, (count, biases) in parameters.items():
        rows.append(LayerRow(names[module], f"{type(module).__name__} (not called)", (), 0, count, 0, biases))
    return rows


def total(rows: Sequence[LayerRow]) -> LayerRow:
    """Add up activations, parameters, multiply-adds and biases.

    Args:
        rows: What `describe` returned.

    Returns:
        The row of totals.

    Example:
        >>> from lightning_optreg.analysis import LayerRow, total
        >>> total([LayerRow("a", "", (1, 2), 2, 3, 4), LayerRow("b", "", (1, 5), 5, 6, 7)])
        LayerRow(name='total', kind='', output=(), activations=7, parameters=9, multiply_adds=11, biases=0)
    """
    return LayerRow(
        "total",
        "",
        (),
        sum(row.activations for row in rows),
        sum(row.parameters for row in rows),
        sum(row.multiply_adds for row in rows),
        sum(row.biases for row in rows),
    )


def format_table(rows: Sequence[LayerRow]) -> str:
    """Lay the rows and their totals out as text.

    Args:
        rows: What `describe` returned.

    Returns:
        The table, a line a row.

    Example:
        >>> from lightning_optreg.analysis import LayerRow, format_table
        >>> print(format_table([LayerRow("c1", "Conv2d", (1, 6, 28, 28), 4704, 156, 117600, biases=6)]))
        layer  kind    output     activations    memory  weights  parameters  multiply-adds
        -----------------------------------------------------------------------------------
        c1     Conv2d  1x6x28x28        4,704  18.4 KiB      150         156        117,600
        -----------------------------------------------------------------------------------
        total                           4,704  18.4 KiB      150         156        117,600
    """
    header = ("layer", "kind", "output", "activations", "memory", "weights", "parameters", "multiply-adds")
    body = [_cells(row) for row in (*rows, total(rows))]
    widths = [max(map(len, column)) for column in zip(header, *body, strict=True)]
    lines = []
    for cells in (header, *body):
        left = [cell.ljust(width) for cell, width in zip(cells[:3], widths[:3], strict=True)]
        right = [cell.rjust(width) for cell, width in zip(cells[3:], widths[3:], strict=True)]
        lines.append("  ".join(left + right))
    rule = "-" * len(lines[0])
    return "\n".join((lines[0], rule, *lines[1:-1], rule, lines[-1]))


def _cells(row: LayerRow) -> tuple[str, ...]:
    counts = (row.weights, row.parameters, row.multiply_adds)
    numbers = (f"{row.activations:,}", _bytes(row.memory), *(f"{count:,}" for count in counts))
    return (row.name, row.kind, "x".join(map(str, row.output)), *numbers)


def _bytes(count: float) -> str:
    """A number of bytes in the unit that suits it."""
    units = ["TiB", "GiB", "MiB", "KiB", "B"]
    while count >= 1024 and len(units) > 1:
        count /= 1024
        units.pop()
    return f"{count:.{0 if units[-1] == 'B' else 1}f} {units[-1]}"


def _own_parameters(net: nn.Module) -> dict[nn.Module, tuple[int, int]]:
    """How many parameters each module holds itself, and how many of them are biases.

    One that several modules share belongs to the first.
    """
    seen: set[int] = set()
    own: dict[nn.Module, tuple[int, int]] = {}
    for module in net.modules():
        mine = {name: p for name, p in module.named_parameters(recurse=False) if id(p) not in seen}
        seen |= {id(p) for p in mine.values()}
        if mine:
            biases = sum(p.numel() for name, p in mine.items() if "bias" in name)
            own[module] = sum(p.numel() for p in mine.values()), biases
    return own


def _tensors(value: Any) -> Iterable[Tensor]:
    """The tensors in a layer's inputs or output, however they are nested."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from _tensors(tuple(value.values()))
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _tensors(item)
