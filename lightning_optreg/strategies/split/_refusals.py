"""What PipelineParallel refuses before the first step."""

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import (
    BaseFinetuning,
    ModelPruning,
    StochasticWeightAveraging,
    WeightAveraging,
)
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import nn

from lightning_optreg.trainer.queries import callbacks_of, has_gradient_scaler
from lightning_optreg.trainer.refusals import refuse_manual_optimization

__all__ = ["refuse"]


def refuse(
    trainer: Trainer, module: LightningModule, *, net_name: str, loss_name: str, fitting: bool
) -> None:
    """Raise MisconfigurationException if the module or the trainer can't be used with PipelineParallel.

    Args:
        trainer: The trainer.
        module: The module.
        net_name: Name of its attribute with the network.
        loss_name: Name of its attribute with the loss.
        fitting: Whether it is to be trained.
    """
    name = "PipelineParallel"
    if trainer.world_size < 2:
        raise MisconfigurationException(f"{name}: needs at least 2 devices, got {trainer.world_size}")
    net = getattr(module, net_name, None)
    if not isinstance(net, nn.Module):
        raise MisconfigurationException(
            f"{name}: {type(module).__name__} has no network self.{net_name}; name its attribute with net"
        )
    # Private in torch 2.14: there is no public way to see that `net.compile()` was called.
    if net._compiled_call_impl is not None:
        raise MisconfigurationException(f"{name}: stages are not compiled; set compile to false")
    if not fitting:
        return
    refuse_manual_optimization(module, name, "to know when a step begins")
    if not callable(getattr(module, loss_name, None)):
        raise MisconfigurationException(
            f"{name}: {type(module).__name__} has no self.{loss_name}(outputs, targets), which the last "
            "stage computes for each micro-batch"
        )
    if is_overridden("backward", module):
        raise MisconfigurationException(
            f"{name}: {type(module).__name__}.backward would never be called; remove it"
        )
    if has_gradient_scaler(trainer):
        raise MisconfigurationException(
            f"{name}: stages have no common gradient scaler; set precision to bf16-mixed"
        )
    for callback in callbacks_of(trainer):
        if isinstance(callback, BaseFinetuning):
            raise MisconfigurationException(
                f"{name}: {type(callback).__name__} needs the parameters of all stages in each "
                "process: freeze by requires_grad"
            )
        if isinstance(callback, (ModelPruning, StochasticWeightAveraging, WeightAveraging)):
            raise MisconfigurationException(
                f"{name}: {type(callback).__name__} needs the whole network in each process; leave it out"
            )
    inside = {id(each) for each in net.parameters()}
    outside = [n for n, p in module.named_parameters() if p.requires_grad and id(p) not in inside]
    if outside:
        raise MisconfigurationException(
            f"{name}: only parameters of self.{net_name} are trained, and {outside[0]} is outside of it"
        )
