"""Tensor parallelism: rows and columns of linear layers dealt out to processes, with Lightning's strategy.

Shoeybi, Patwary, Puri et al., "Megatron-LM: training multi-billion parameter language models using model
parallelism", 2019 (arXiv:1909.08053), section 3.
"""

from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import Replicate
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    RowwiseParallel,
    parallelize_module,
)

__all__ = ["split_linear_layers", "tensor_parallel_plan"]

_BY_ELEMENT = (
    nn.CELU, nn.ELU, nn.GELU, nn.Hardshrink, nn.Hardsigmoid, nn.Hardswish, nn.Hardtanh, nn.LeakyReLU,
    nn.LogSigmoid, nn.Mish, nn.ReLU, nn.ReLU6, nn.SELU, nn.SiLU, nn.Sigmoid, nn.Softplus, nn.Softshrink,
    nn.Softsign, nn.Tanh, nn.Tanhshrink, nn.Dropout, nn.Identity,
)  # fmt: skip


def tensor_parallel_plan(net: nn.Module) -> dict[str, ParallelStyle]:
    """Return how to split the linear layers of a network over processes, for `parallelize_module`.

    Of two linear layers in an `nn.Sequential` with only element-wise layers between them, y = W2 phi(W1 x),
    the first is split by rows of W1 and the second by columns of W2: each process computes its part of phi,
    and one sum over processes gives y. Any other linear layer is split by rows, and its outputs are
    collected. All other layers stay whole in every process: convolutions and normalisations.

    Element-wise layers between two halves see a part of the units: dropout draws there from each process's
    default generator, so processes with the same seed drop the same places of their parts.

    Args:
        net: The network.

    Returns:
        Styles of `torch.distributed.tensor.parallel` by the names of layers. Colwise and rowwise there refer
        to the transpose of W.

    Raises:
        ValueError: If the network has no linear layer.

    Example:
        >>> from lightning_optreg.nets import MLP
        >>> plan = tensor_parallel_plan(MLP(hidden=[256, 128]))
        >>> {name: type(style).__name__ for name, style in plan.items()}
        {'layers.0': 'ColwiseParallel', 'layers.2': 'RowwiseParallel', 'layers.4': 'ColwiseParallel'}
    """
    plan: dict[str, ParallelStyle] = {}
    for name, module in net.named_modules():
        if type(module) is nn.Sequential:
            first: str | None = None
            for own, layer in module.named_children():
                path = f"{name}.{own}" if name else own
                if type(layer) is not nn.Linear:
                    first = first if isinstance(layer, _BY_ELEMENT) else None
                elif first is None:
                    first = path
                else:
                    plan[first], plan[path] = ColwiseParallel(), RowwiseParallel()
                    first = None
    for name, module in net.named_modules():
        if type(module) is nn.Linear and name not in plan:
            plan[name] = ColwiseParallel(output_layouts=Replicate())
    if not plan:
        raise ValueError(f"tensor_parallel_plan: {type(net).__name__} has no linear layer to split")
    return plan


def split_linear_layers(net: nn.Module, mesh: DeviceMesh) -> None:
    """Split a network's linear layers over processes, in place, by `tensor_parallel_plan`.

    For `configure_model` of a LightningModule under Lightning's `ModelParallelStrategy`, with
    `self.device_mesh["tensor_parallel"]`. Element-wise layers no longer work in place, which autograd forbids
    for what a split layer returns.

    Args:
        net: The network, the same in all processes; it may be on the meta device.
        mesh: The processes, in one dimension.

    Raises:
        ValueError: If the network has no linear layer.

    Example:
        >>> from lightning_optreg.classifier import ImageClassifier
        >>> class InTensors(ImageClassifier):
        ...     def configure_model(self):
        ...         split_linear_layers(self.net, self.device_mesh["tensor_parallel"])
    """
    plan = tensor_parallel_plan(net)
    for layer in net.modules():
        if isinstance(layer, _BY_ELEMENT) and hasattr(layer, "inplace"):
            layer.inplace = False
    parallelize_module(net, mesh, plan)
