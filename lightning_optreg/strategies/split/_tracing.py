"""Trace a network with torch.fx: a graph of the calls of its layers, in training and in evaluation."""

import operator
import time
from collections.abc import Callable
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor, fx, nn

from lightning_optreg.layers.modes import evaluating
from lightning_optreg.randomness.kept_generators import kept_generators

__all__ = ["Values", "trace_modes"]

_TRACE_ERRORS = (
    fx.proxy.TraceError,
    RuntimeError,
    TypeError,
    ValueError,
    AttributeError,
    KeyError,
    IndexError,
    NotImplementedError,
)


class _Tracer(fx.Tracer):
    """Traces through the network and its `nn.Sequential`s, and through the modules in `inside`."""

    def __init__(self, inside: set[str], example: Tensor | None) -> None:
        super().__init__()
        self._inside = inside
        self._values = None if example is None else Values(example)
        self._computing = False

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return not (type(m) is nn.Sequential or module_qualified_name in self._inside)

    def to_bool(self, obj: fx.Proxy) -> bool:
        """Answer a condition on shapes with the example's; torch asks the tracer for this."""
        if self._values is None:
            raise MisconfigurationException(
                f"PipelineParallel: {type(self.root).__name__}.forward depends on its input; set "
                "example_input_array in the LightningModule to an input"
            )
        self._computing = True
        try:
            return bool(self._values.of(self.root, self.graph, obj.node))
        finally:
            self._computing = False

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Record a call, or make it: torch sends all calls of modules here."""
        return forward(*args, **kwargs) if self._computing else super().call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        """Record the use of a parameter, or return it."""
        return attr_val if self._computing else super().getattr(attr, attr_val, parameter_proxy_cache)


class Values:
    """The values of a graph's nodes for an example, in evaluation mode."""

    def __init__(self, example: Tensor) -> None:
        self._example = example
        self._known: dict[fx.Node, Any] = {}
        self.seconds: dict[fx.Node, float] = {}

    @torch.no_grad()
    def of(self, net: nn.Module, graph: fx.Graph, wanted: fx.Node | None = None) -> Any:
        """Compute nodes up to the wanted one, or all."""
        for node in graph.nodes:
            if node not in self._known:
                begin = time.perf_counter()
                self._known[node] = self._compute(net, node)
                self.seconds[node] = time.perf_counter() - begin
            if node is wanted:
                break
        return None if wanted is None else self._known[wanted]

    def _compute(self, net: nn.Module, node: fx.Node) -> Any:
        args = fx.node.map_arg(node.args, self._known.__getitem__)
        kwargs = fx.node.map_arg(node.kwargs, self._known.__getitem__)
        if node.op == "placeholder":
            return self._example.clone()
        if node.op == "get_attr":
            return operator.attrgetter(str(node.target))(net)
        if node.op == "call_module":
            layer = net.get_submodule(str(node.target))
            with evaluating(layer):
                return layer(*args, **kwargs)
        if node.op == "call_method":
            first, *rest = args
            return getattr(first, str(node.target))(*rest, **kwargs)
        return None if node.op == "output" else node.target(*args, **kwargs)  # type: ignore[operator]


def trace_modes(net: nn.Module, inside: set[str], example: Tensor | None) -> dict[bool, fx.Graph]:
    """Trace a network in training (True) and in evaluation (False)."""
    modes = [(layer, layer.training) for layer in net.modules()]
    graphs = {}
    try:
        for mode in (True, False):
            net.train(mode)
            with kept_generators(torch.device("cpu") if example is None else example.device):
                graphs[mode] = _Tracer(inside, example).trace(net)
    except _TRACE_ERRORS as error:
        raise MisconfigurationException(
            f"PipelineParallel: {type(net).__name__} cannot be cut into stages, as torch.fx cannot trace it: "
            f"{str(error).strip().partition(chr(10))[0]}"
        ) from error
    finally:
        for layer, training in modes:
            layer.training = training
    inputs = [node for node in graphs[True].nodes if node.op == "placeholder"]
    if len(inputs) != 1:
        raise MisconfigurationException(
            f"PipelineParallel: {type(net).__name__}.forward must take one tensor, it takes {len(inputs)}"
        )
    return graphs
