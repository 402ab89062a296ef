"""Observes layers: Opacus's hooks, put where they leave a layer's output as it is."""

from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from lightning_optreg.callbacks.privacy._opacus import opacus

__all__ = ["hooks_of"]


def hooks_of(pl_module: LightningModule, loss_reduction: str, mode: str, owner: str) -> Any:
    """Return Opacus's hooks for the gradients of examples, on the layers of a module.

    Opacus 1.6 has full backward hooks, with which torch gives the next layer a view that it can't change in
    place, as ReLU(inplace=True) does. The hook of an output itself gets the same gradient without one.

    Args:
        pl_module: The module, in training.
        loss_reduction: `mean` or `sum`.
        mode: `hooks` or `functorch`.
        owner: Name of the calling class, for the errors.
    """
    base: Any = opacus("grad_sample", owner).GradSampleHooks
    recurrent: Any = opacus("layers", owner)

    class Hooks(base):  # type: ignore[misc]  # it has no types
        outputs: list[Tensor] | None = None
        """Of the observed calls, in a step where they are asked for."""

        def add_hooks(self, *, loss_reduction: str, batch_first: bool, force_functorch: bool) -> None:
            """Do what the base does, but for the backward hooks."""
            prepare: Any = opacus("grad_sample.functorch", owner).prepare_layer
            handles: Any = []
            self.autograd_grad_sample_hooks = pl_module.autograd_grad_sample_hooks = handles  # the base's

            def observe(layer: nn.Module, inputs: Any, output: Any) -> None:
                if not (self.hooks_enabled and layer.training and torch.is_grad_enabled()):
                    return
                if not _is_plain(inputs, output):
                    raise MisconfigurationException(
                        f"{owner}: {_name(layer, pl_module)} has weights of its own and is not called with "
                        "tensors by position, or does not return one, so Opacus finds no gradients of "
                        "examples; put the weights into layers within it that are"
                    )
                if len(inputs) > 1 and (force_functorch or type(layer) not in self.GRAD_SAMPLERS):
                    raise MisconfigurationException(
                        f"{owner}: {_name(layer, pl_module)} is called with {len(inputs)} inputs, and Opacus "
                        "finds gradients of examples for such layers with one only; use layers with one input"
                    )
                self.capture_activations_hook(layer, inputs, output)
                if not output.requires_grad:
                    return
                if self.outputs is not None:
                    self.outputs.append(output)

                def captured(gradient: Tensor) -> None:
                    self.capture_backprops_hook(layer, None, (gradient,), loss_reduction, batch_first)

                output.register_hook(captured)

            for layer in self.iterate_submodules(pl_module):
                # Their linear layers are observed.
                if type(layer) in (recurrent.DPRNN, recurrent.DPLSTM, recurrent.DPGRU):
                    continue
                if force_functorch or type(layer) not in self.GRAD_SAMPLERS:
                    prepare(layer, batch_first=batch_first)
                handles.append(layer.register_forward_hook(observe))
            self.enable_hooks()

        def rearrange_grad_samples(self, **kwargs: Any) -> tuple[list[Tensor], Tensor]:
            layer = kwargs["module"]
            activations, backprops = super().rearrange_grad_samples(**kwargs)
            if isinstance(layer, nn.Embedding) and layer.padding_idx is not None:  # Opacus 1.6 trains it
                padding = activations[0] == layer.padding_idx
                backprops = backprops.masked_fill(padding.unsqueeze(-1), 0.0)
            # Opacus 1.6 unfolds images as if they were in the usual layout: in channels_last, gradients
            # would be wrong.
            return [each.contiguous() for each in activations], backprops.contiguous()

    return Hooks(
        pl_module,
        loss_reduction=loss_reduction,
        strict=False,  # its refusals are those of _layers, where a sentence names the layer
        force_functorch=mode == "functorch",
    )


def _is_plain(inputs: Any, output: Any) -> bool:
    return bool(inputs) and all(isinstance(each, Tensor) for each in (*inputs, output))


def _name(layer: nn.Module, pl_module: nn.Module) -> str:
    name = next(name for name, each in pl_module.named_modules() if each is layer)
    return f"{name} ({type(layer).__name__})"
