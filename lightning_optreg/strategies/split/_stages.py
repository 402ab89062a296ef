"""Cut a network into stages that follow each other, as graphs of the network's own layers.

The graph comes from `torch.fx`, which runs the network's `forward` with stand-ins for tensors. Layers are not
traced themselves: a stage calls the very layers of the network, with their hooks, modes and noise.
"""

import operator
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Literal

from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor, fx, nn
from torch.nn.parameter import is_lazy

from lightning_optreg.strategies.split._tracing import Values, trace_modes

__all__ = ["Plan", "Stages", "plan_stages"]

Plan = Literal["parameters", "time"] | Sequence[str]
"""Where stages begin: balanced by parameters or time, or the names of layers."""

_SIZES = {"shape", "ndim", "dtype", "device", "size", "dim", "numel", "item", "stride"}


class Stages:
    """The stages of a network.

    Attributes:
        begins: Names of the layers at which the stages after the first begin.
        training: The stages' graphs in training.
        evaluation: The stages' graphs in evaluation.
    """

    def __init__(self, net: nn.Module, begins: Sequence[str], graphs: dict[bool, fx.Graph]) -> None:
        self.begins = list(begins)
        self.training, self.evaluation = (
            _build(net, graphs[mode], [_first_call(graphs[mode], name) for name in begins])
            for mode in (True, False)
        )
        self._owners = _owners(net, (self.training, self.evaluation))

    def owner(self, tensor: Tensor) -> int:
        """Return the stage of a parameter or buffer; the first has those that no layer uses."""
        return self._owners.get(id(tensor), 0)


def plan_stages(
    net: nn.Module,
    count: int,
    plan: Plan,
    example: Tensor | None,
    agree: Callable[[list[str]], list[str]] = lambda names: names,
) -> Stages:
    """Cut a network into stages.

    Args:
        net: The network; it takes one tensor.
        count: Number of stages, at least 2.
        plan: Where they begin.
        example: An input, for networks whose `forward` looks at shapes, and to measure times; on the
            network's device.
        agree: Called with the names found; returns those of the first process.

    Returns:
        The stages; their graphs share the network's layers.

    Raises:
        MisconfigurationException: If the network can't be cut so.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> stages = plan_stages(net, 2, "parameters", None)
        >>> stages.begins
        ['2']
        >>> stages.owner(net[4].weight)
        1
    """
    name = type(net).__name__
    if any(is_lazy(tensor) for tensor in (*net.parameters(), *net.buffers())):
        raise MisconfigurationException(
            f"PipelineParallel: {name} has lazy layers, whose sizes are not known yet; call the network once "
            "before the fit"
        )
    named = [] if isinstance(plan, str) else list(plan)
    inside = {".".join(each.split(".")[:depth]) for each in named for depth in range(each.count(".") + 1)}
    graphs = trace_modes(net, inside, example)
    places = _places(net, graphs)
    while not named:
        layer, share = _largest_layer(net, graphs[True])
        if layer is None or (len(places) >= count - 1 and share <= 1 / count):
            break
        try:
            deeper = trace_modes(net, inside | {layer}, example)
        except MisconfigurationException:
            break  # what was traced before may do
        inside.add(layer)
        graphs, places = deeper, _places(net, deeper)
    if len(places) < count - 1:
        raise MisconfigurationException(
            f"PipelineParallel: {name} cannot be cut into {count} stages, only {len(places) + 1}; take fewer "
            "devices"
        )
    if not named:
        costs = _costs(net, graphs[True], places, plan, example)
        return Stages(net, agree([places[i] for i in _balanced(costs, count)]), graphs)
    begins = [_resolve(graphs[True], each) for each in named]
    if len(named) != count - 1 or len(set(begins)) != len(begins):
        raise MisconfigurationException(
            f"PipelineParallel: split must name {count - 1} different layers for {count} stages, got {named}"
        )
    order = [places.index(each) for each in begins if each in places]
    if len(order) < len(begins) or order != sorted(order):
        raise MisconfigurationException(
            f"PipelineParallel: split must name layers of {name} at which a stage can begin, in the order of "
            f"the forward pass: {', '.join(places)}; got {named}"
        )
    return Stages(net, begins, graphs)


def _first_call(graph: fx.Graph, name: str) -> int:
    return next(i for i, n in enumerate(graph.nodes) if n.op == "call_module" and n.target == name)


def _resolve(graph: fx.Graph, name: str) -> str:
    """Return the first layer called within a module, such as stage2.0 for stage2; else the name itself."""
    calls = (str(node.target) for node in graph.nodes if node.op == "call_module")
    return next((each for each in calls if f"{each}.".startswith(f"{name}.")), name)


def _is_size(node: fx.Node) -> bool:
    """Return whether a node is a size or the like, which can't be sent to another process as a tensor."""
    if node.op == "call_method":
        return node.target in _SIZES
    if node.op == "call_function" and node.target is getattr:
        return node.args[1] in _SIZES
    inputs = node.all_input_nodes
    return node.op == "call_function" and bool(inputs) and all(map(_is_size, inputs))


def _live(graph: fx.Graph, place: int) -> list[fx.Node]:
    """Return the values that are computed before a node, and used from there on."""
    nodes = list(graph.nodes)
    later = set(nodes[place:])
    return [node for node in nodes[:place] if node.op != "get_attr" and later & node.users.keys()]


def _tensors(net: nn.Module, node: fx.Node) -> Iterator[Tensor]:
    """Yield the parameters and buffers that a node uses."""
    if node.op == "call_module":
        layer = net.get_submodule(str(node.target))
        yield from layer.parameters()
        yield from layer.buffers()
    for each in (node, *node.all_input_nodes):
        if each.op == "get_attr":
            yield operator.attrgetter(str(each.target))(net)


def _places(net: nn.Module, graphs: dict[bool, fx.Graph]) -> list[str]:
    """Return the layers at which a stage can begin, in both modes."""
    in_mode = [_places_of(net, graph) for graph in graphs.values()]
    return [name for name in in_mode[0] if name in in_mode[1]]


def _places_of(net: nn.Module, graph: fx.Graph) -> list[str]:
    nodes = list(graph.nodes)
    uses: dict[int, list[int]] = {}
    for index, node in enumerate(nodes):
        if node.op != "get_attr":
            for tensor in _tensors(net, node):
                uses.setdefault(id(tensor), []).append(index)
    spans = [(at[0], at[-1]) for at in uses.values() if at[0] < at[-1]]
    found: list[str] = []
    seen: set[str] = set()
    for index, node in enumerate(nodes):
        if node.op != "call_module" or node.target in seen:
            continue
        seen.add(str(node.target))
        if len(seen) == 1 or any(first < index <= last for first, last in spans):
            continue
        if not any(map(_is_size, _live(graph, index))):
            found.append(str(node.target))
    return found


def _largest_layer(net: nn.Module, graph: fx.Graph) -> tuple[str | None, float]:
    """Return the layer with the most parameters among those that have layers, and its share of all."""
    sizes = {
        str(node.target): sum(p.numel() for p in net.get_submodule(str(node.target)).parameters())
        for node in graph.nodes
        if node.op == "call_module" and any(True for _ in net.get_submodule(str(node.target)).children())
    }
    largest = max(sizes, key=sizes.__getitem__, default=None)
    total = sum(p.numel() for p in net.parameters())
    return largest, 0.0 if largest is None else sizes[largest] / max(total, 1)


def _costs(
    net: nn.Module, graph: fx.Graph, places: list[str], plan: Plan, example: Tensor | None
) -> list[float]:
    """Return the cost of what is computed before the first place, between places, and after the last."""
    nodes = list(graph.nodes)
    if plan == "time":
        if example is None:
            raise MisconfigurationException(
                "PipelineParallel: split=time needs an input; set example_input_array in the LightningModule"
            )
        Values(example).of(net, graph)  # the first run of a layer may take longer
        values = Values(example)
        values.of(net, graph)
        costs = [values.seconds[node] for node in nodes]
    else:
        seen: set[int] = set()
        costs = []
        for node in nodes:
            new = {id(tensor): tensor.numel() for tensor in _tensors(net, node) if id(tensor) not in seen}
            seen |= new.keys()
            costs.append(float(sum(new.values())))
    bounds = [0, *(_first_call(graph, name) for name in places), len(nodes)]
    return [sum(costs[begin:end]) for begin, end in pairwise(bounds)]


def _balanced(costs: list[float], count: int) -> list[int]:
    """Divide costs into consecutive groups so that the largest sum is smallest; of equals, take late begins.

    Returns:
        For each group but the first, the number of its first cost less one: of the place before it.

    Example:
        >>> _balanced([1.0, 1.0, 3.0, 1.0], 2)
        [1]
    """
    sums = [0.0]
    for cost in costs:
        sums.append(sums[-1] + cost)
    best: dict[int, tuple[float, list[int]]] = {end: (sums[end], []) for end in range(1, len(sums))}
    for _ in range(count - 1):
        best = {
            end: min(
                (max(best[begin][0], sums[end] - sums[begin]), [*best[begin][1], 1 - begin])
                for begin in range(1, end)
                if begin in best
            )
            for end in range(2, len(sums))
            if any(begin in best for begin in range(1, end))
        }
    return [-each for each in best[len(costs)][1]]


def _build(net: nn.Module, graph: fx.Graph, begins: list[int]) -> list[fx.GraphModule]:
    """Make a module of each stage; it takes and returns all that is live, what only passes through too."""
    nodes = list(graph.nodes)
    stages = []
    for begin, end in pairwise([0, *begins, len(nodes)]):
        part = fx.Graph()
        here: dict[fx.Node, fx.Node] = {}
        for node in _live(graph, begin):
            # A copy: a layer may change its input in place, which autograd forbids for what was received.
            here[node] = part.call_method("clone", (part.placeholder(node.name),))

        def there(node: fx.Node, part: fx.Graph = part, here: dict[fx.Node, fx.Node] = here) -> fx.Node:
            if node not in here:  # a parameter of the network itself
                here[node] = part.node_copy(node)
            return here[node]

        for node in nodes[begin:end]:
            if node.op == "output":
                part.output(fx.node.map_arg(node.args[0], there))
            elif node.op != "get_attr":
                here[node] = part.node_copy(node, there)
        if end < len(nodes):
            outputs = [there(node) for node in _live(graph, end)]
            part.output(outputs[0] if len(outputs) == 1 else tuple(outputs))
        stages.append(fx.GraphModule(net, part, f"{type(net).__name__}Stage"))
    return stages


def _owners(net: nn.Module, modes: Sequence[Sequence[nn.Module]]) -> dict[int, int]:
    owners: dict[int, int] = {}
    for stages in modes:
        for number, stage in enumerate(stages):
            for tensor in (*stage.parameters(), *stage.buffers()):
                owners.setdefault(id(tensor), number)
    return owners
