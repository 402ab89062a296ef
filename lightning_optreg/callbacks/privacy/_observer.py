"""Observes layers, and collects the gradients of single examples that Opacus computes for them."""

from collections.abc import Iterator
from typing import Any, Literal

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from lightning_optreg.callbacks.privacy._opacus import opacus

__all__ = ["LinearSampler", "Observer"]


class LinearSampler:
    """Computes the gradients of a linear layer's examples in memory that each step uses again.

    The samples of weights are most of what a private step needs. To ask the system for as much memory in each
    step takes about as long as the step itself; and blocks that differ in size, as Poisson samples do, leave
    holes that later ones do not fit into, so that the process grows.

    Shape:
        - Inputs: (n, ..., in_features), and the gradient (n, ..., out_features).
        - Samples: (n, out_features, in_features) and (n, out_features).
    """

    def __init__(self) -> None:
        self._memory: dict[Tensor, Tensor] = {}

    def __call__(self, layer: nn.Linear, inputs: list[Tensor], gradient: Tensor) -> dict[Tensor, Tensor]:
        """Return the samples of both parameters.

        Args:
            layer: The layer.
            inputs: Its one input.
            gradient: Of the loss by its output.
        """
        n, found = len(gradient), dict[Tensor, Tensor]()
        gradients = gradient.unsqueeze(1).flatten(1, -2)
        if layer.weight.requires_grad:
            x = inputs[0].to(gradient.dtype).unsqueeze(1).flatten(1, -2)
            out = self._room(layer.weight, n, gradient)
            if gradients.shape[1] == 1:
                torch.mul(gradients.mT, x, out=out)
            else:
                torch.bmm(gradients.mT, x, out=out)
            found[layer.weight] = out
        if layer.bias is not None and layer.bias.requires_grad:
            found[layer.bias] = gradients.sum(1)
        return found

    def _room(self, weight: Tensor, n: int, like: Tensor) -> Tensor:
        if hasattr(weight, "grad_sample"):  # of an earlier call in this step
            return like.new_empty(n, *weight.shape)
        room = self._memory.get(weight)
        if room is None or len(room) < n or (room.dtype, room.device) != (like.dtype, like.device):
            # The first batches of most runs are as large as the others.
            rows = n if room is None else n + n // 16
            self._memory.pop(weight, None)
            room = self._memory[weight] = like.new_empty(rows, *weight.shape)
        return room[:n]


def sample_embedding(layer: nn.Embedding, inputs: list[Tensor], gradient: Tensor) -> dict[Tensor, Tensor]:
    """Return the gradients of single examples of an embedding's weights.

    Opacus 1.6 changes the global flag `cudnn.deterministic` for it, and leaves it changed after an empty
    batch; and it trains the padding.

    Args:
        layer: The layer.
        inputs: Its words, (n, ...).
        gradient: Of the loss by its output, (n, ..., embedding_dim).
    """
    words = inputs[0]
    if layer.padding_idx is not None:
        gradient = gradient.masked_fill((words == layer.padding_idx).unsqueeze(-1), 0.0)
    rows = words.unsqueeze(-1).flatten(1).unsqueeze(-1).expand(-1, -1, layer.embedding_dim)
    found = gradient.new_zeros(len(words), *layer.weight.shape)
    return {layer.weight: found.scatter_add_(1, rows, gradient.reshape_as(rows))}


class Observer:
    """Leaves in `grad_sample` of each trained parameter its gradients of single examples, (n, ...).

    The formula for each kind of layer is Opacus's, but for linear layers and embeddings. Its hooks are not
    used: Opacus 1.6 registers full backward hooks, with which torch gives the next layer a view that it can't
    change in place, as ReLU(inplace=True) does; and it copies the gradients of each layer. The hook of an
    output itself gets the same gradient.

    Args:
        pl_module: The module, in training.
        loss_reduction: `mean` or `sum`.
        mode: `hooks` or `functorch`.
        owner: Name of the calling class, for the errors.
    """

    def __init__(
        self,
        pl_module: LightningModule,
        loss_reduction: Literal["mean", "sum"],
        mode: Literal["hooks", "functorch"],
        owner: str,
    ) -> None:
        self.enabled = False
        self.outputs: list[Tensor] | None = None
        """Of the observed calls, in a step where they are asked for."""
        self._module, self._mean, self._owner = pl_module, loss_reduction == "mean", owner
        samplers = opacus("grad_sample", owner).GradSampleHooks.GRAD_SAMPLERS
        self._known: Any = {**samplers, nn.Linear: LinearSampler(), nn.Embedding: sample_embedding}
        layers: Any = opacus("layers", owner)
        self._recurrent = (layers.DPRNN, layers.DPLSTM, layers.DPGRU)
        functorch: Any = opacus("grad_sample.functorch", owner)
        self._by_functorch: Any = functorch.ft_compute_per_sample_gradient
        self._handles = []
        self._prepared: set[nn.Module] = set()
        for layer in dict.fromkeys(self._layers(pl_module)):
            if mode == "functorch" or type(layer) not in self._known:
                functorch.prepare_layer(layer)
                self._prepared.add(layer)
            self._handles.append(layer.register_forward_hook(self._observe))

    def _layers(self, module: nn.Module) -> Iterator[nn.Module]:
        """Yield the layers with trained weights of their own, none within one that functorch knows whole."""
        own = any(parameter.requires_grad for parameter in module.parameters(recurse=False))
        # The linear layers within them are observed instead.
        if own and type(module) not in self._recurrent:
            yield module
            if type(module) not in self._known:
                return
        for child in module.children():
            yield from self._layers(child)

    def _observe(self, layer: nn.Module, inputs: Any, output: Any) -> None:
        if not (self.enabled and layer.training and torch.is_grad_enabled()):
            return
        if not inputs or not all(isinstance(each, Tensor) for each in (*inputs, output)):
            self._refuse(
                layer,
                "has weights of its own and is not called with tensors by position, or does not return one, "
                "so Opacus finds no gradients of examples; put the weights into layers within it that are",
            )
        if len(inputs) > 1 and layer in self._prepared:
            self._refuse(
                layer,
                f"is called with {len(inputs)} inputs, and Opacus finds gradients of examples for such "
                "layers with one only; use layers with one input",
            )
        if not output.requires_grad:
            return
        if self.outputs is not None:
            self.outputs.append(output)
        detached = [each.detach() for each in inputs]
        output.register_hook(lambda gradient: self._collect(layer, detached, gradient))

    def _collect(self, layer: nn.Module, inputs: list[Tensor], gradient: Tensor) -> None:
        if not self.enabled:
            return
        # Opacus's recurrent layers have calls with fewer rows, for the steps that only long sequences have.
        rows: Any = getattr(layer, "max_batch_len", len(inputs[-1]))
        gradient = gradient.detach() * rows if self._mean else gradient.detach()
        sampler = self._by_functorch if layer in self._prepared else self._known[type(layer)]
        # Opacus 1.6 unfolds images as if they were in the usual layout: in channels_last, gradients would be
        # wrong.
        found = sampler(layer, [each.contiguous() for each in inputs], gradient.contiguous())
        for parameter, sample in found.items():
            if not parameter.requires_grad:
                continue
            if len(sample) < rows:
                sample = torch.cat([sample, sample.new_zeros(rows - len(sample), *sample.shape[1:])])
            before = getattr(parameter, "grad_sample", None)
            if before is not None and len(before) != len(sample):
                self._refuse(
                    layer,
                    f"is called with {len(sample)} rows, and with {len(before)}, so it is not known which "
                    "rows belong to one example; call it with one row for each",
                )
            parameter.grad_sample = sample if before is None else before + sample

    def forget(self) -> None:
        """Forget the gradients of examples, and what calls of recurrent layers have left."""
        for layer in self._module.modules():
            if "max_batch_len" in vars(layer):
                del layer.max_batch_len
        for parameter in self._module.parameters():
            if hasattr(parameter, "grad_sample"):
                del parameter.grad_sample

    def close(self) -> None:
        """Leave the module as it was."""
        for handle in self._handles:
            handle.remove()
        for layer in self._prepared:
            del layer.ft_compute_sample_grad
        self.forget()

    def _refuse(self, layer: nn.Module, reason: str) -> None:
        name = next(name for name, each in self._module.named_modules() if each is layer)
        raise MisconfigurationException(f"{self._owner}: {name} ({type(layer).__name__}) {reason}")
