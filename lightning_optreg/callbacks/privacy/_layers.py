"""Which layers have no gradient of a single example, or none that Opacus can compute."""

from collections.abc import Iterator
from typing import Any, NoReturn

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule
from torch import nn

from lightning_optreg.callbacks.privacy._opacus import opacus
from lightning_optreg.layers import GaussianNoise
from lightning_optreg.layers.noise_layers import noise_layers
from lightning_optreg.trainer.noise_left import active_batch_norms

__all__ = ["convert_layers", "refuse_layers"]


def convert_layers(pl_module: LightningModule, owner: str) -> None:
    """Replace the layers of a module that Opacus has a substitute for, such as batch by group normalisation.

    Args:
        pl_module: The module, before its optimizers are created.
        owner: Name of the calling class, for the error.
    """
    validator: Any = opacus("validators", owner).ModuleValidator
    for name, child in list(pl_module.named_children()):
        # Opacus copies a network whose layers it replaces.
        if any(type(layer) in validator.FIXERS for layer in child.modules()):
            setattr(pl_module, name, validator.fix(child))


def refuse_layers(pl_module: LightningModule, mode: str, owner: str) -> None:
    """Refuse a module with layers whose gradients are not sums over examples, or not known to Opacus.

    Args:
        pl_module: The module, in training.
        mode: `hooks` or `functorch`.
        owner: Name of the calling class, for the error.

    Raises:
        MisconfigurationException: If there is such a layer.
    """

    def refuse(reason: str) -> NoReturn:
        raise MisconfigurationException(f"{owner}: {reason}")

    modules = dict(pl_module.named_modules())
    for name, layer in modules.items():
        # Private in torch 2.14, as signs of Module.compile() and torch.compile(), whose class imports long.
        if layer._compiled_call_impl is not None or hasattr(layer, "_orig_mod"):
            refuse(
                f"{name or 'the module'} is compiled, so its layers' calls are not seen; leave compile out"
            )
    if norms := active_batch_norms(pl_module):
        refuse(
            f"{', '.join(norms)} use the statistics of the batch, so a gradient depends on several examples; "
            "use GroupNorm, or set convert=True, which replaces torch's by GroupNorm"
        )
    for name, layer in modules.items():
        if isinstance(layer, GaussianNoise) and layer.relative_to == "batch" and layer.training:
            refuse(f"{name}'s noise depends on the whole batch; set its relative_to to image")
        if isinstance(layer, nn.CrossEntropyLoss | nn.NLLLoss) and layer.reduction == "mean":
            uses_all = layer.ignore_index == -100  # torch's default, which is no label
            if layer.weight is not None or not uses_all:
                refuse(
                    f"{name} ({type(layer).__name__}) with weight or ignore_index divides by a number that "
                    'depends on the labels of the whole batch; set reduction="none" and take the mean'
                )
    if own := [name for name, p in pl_module.named_parameters(recurse=False) if p.requires_grad]:
        refuse(
            f"{', '.join(own)} belongs to no layer, so its gradient is not known example by example; put it "
            "into an nn.Module whose forward uses it"
        )
    validators: Any = opacus("validators", owner).ModuleValidator.VALIDATORS
    for name, layer in _trainable(pl_module):
        kind = type(layer).__name__
        if not layer.training:
            refuse(f"{name} is in evaluation mode, where Opacus finds no gradients; train or freeze it")
        if type(layer) in validators and validators[type(layer)](layer):
            refuse(f"{name} ({kind}) has no gradient of a single example; convert=True replaces it")
        if isinstance(layer, nn.RNN):
            refuse(f"{name} (RNN) has no gradient of a single example; use opacus.layers.DPRNN")
        if next(layer.buffers(), None) is not None:
            refuse(f"{name} ({kind}) has buffers beside its weights, which Opacus does not support")
        if getattr(layer, "sparse", False):
            refuse(f"gradients must be dense; set sparse=False in {name} ({kind})")
        if getattr(layer, "scale_grad_by_freq", False):
            refuse(f"{name} ({kind}) divides by counts of the whole batch; set its scale_grad_by_freq=False")
        if isinstance(layer, nn.Embedding | nn.EmbeddingBag) and layer.max_norm is not None:
            refuse(f"{name} ({kind}) changes weights when it is called, without noise; set its max_norm=None")
        for weight in layer.parameters(recurse=False):
            if weight.requires_grad and weight.dtype not in (torch.float32, torch.float64):
                refuse(
                    f"{name} has weights in {str(weight.dtype).removeprefix('torch.')}, in which sums are "
                    "too coarse to bound what one example changes; use precision bf16-mixed or 32-true"
                )
    for name, layer in _called_again(pl_module, mode, owner):
        if noise := noise_layers(layer, None):
            refuse(
                f"{name} ({type(layer).__name__}) draws random numbers ({type(noise[0]).__name__}) beside "
                "its own weights; Opacus calls such a layer twice, with other numbers"
            )


def _trainable(pl_module: LightningModule) -> Iterator[tuple[str, nn.Module]]:
    """Yield the layers with trainable weights of their own."""
    for name, layer in pl_module.named_modules():
        if any(parameter.requires_grad for parameter in layer.parameters(recurse=False)):
            yield name, layer


def _called_again(pl_module: LightningModule, mode: str, owner: str) -> Iterator[tuple[str, nn.Module]]:
    """Yield the layers, with all within them, that Opacus calls once more by torch.func."""
    known: Any = opacus("grad_sample", owner).GradSampleHooks.GRAD_SAMPLERS
    for name, layer in _trainable(pl_module):
        if mode == "functorch" or type(layer) not in known:
            yield name, layer
