"""Raise an error before the first step if a part can't work with the trainer, module or optimizer."""

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from torch.nn.parameter import is_lazy

from lightning_optreg.optimizers import Newton
from lightning_optreg.trainer.queries import callbacks_of, has_gradient_scaler, is_fused, shards_parameters
from lightning_optreg.trainer.roles import (
    Asynchronous,
    OwnWeights,
    SplitsNetwork,
    StepsElsewhere,
    TurnsNoiseOff,
)

__all__ = [
    "refuse_asynchronous",
    "refuse_barebones",
    "refuse_fused_under_scaler",
    "refuse_lazy_layers",
    "refuse_manual_optimization",
    "refuse_newton_alone",
    "refuse_own_weights",
    "refuse_sharding",
    "refuse_split_network",
    "refuse_steps_elsewhere",
]


def refuse_barebones(trainer: Trainer, owner: str, monitor: str) -> None:
    """Refuse `Trainer(barebones=True)`, instead of failing at the end of the first epoch without the value.

    Args:
        trainer: The trainer.
        owner: Name of the calling class, for the error.
        monitor: The monitored value.

    Raises:
        MisconfigurationException: If the trainer is barebones.
    """
    if trainer.barebones:
        raise MisconfigurationException(
            f"{owner}: a barebones trainer logs nothing, so there is no {monitor!r} to monitor; set "
            "barebones=False"
        )


def refuse_sharding(trainer: Trainer, owner: str, reason: str) -> None:
    """Refuse strategies that shard parameters (FSDP, DeepSpeed, ModelParallel) or split the network.

    Args:
        trainer: The trainer.
        owner: Name of the calling class, for the error.
        reason: The end of the sentence that begins "FSDPStrategy shards parameters, ".

    Raises:
        MisconfigurationException: If the strategy is one of these.
    """
    if shards_parameters(trainer):
        raise MisconfigurationException(
            f"{owner}: {type(trainer.strategy).__name__} shards parameters, {reason}"
        )
    refuse_split_network(trainer, owner, reason)


def refuse_split_network(trainer: Trainer, owner: str, reason: str) -> None:
    """Refuse strategies whose processes each have a part of the network.

    Args:
        trainer: The trainer.
        owner: Name of the calling class, for the error.
        reason: The end of the sentence that begins "PipelineParallel splits the network, ".

    Raises:
        MisconfigurationException: If the strategy is one of these.
    """
    if isinstance(trainer.strategy, SplitsNetwork):
        raise MisconfigurationException(
            f"{owner}: {type(trainer.strategy).__name__} splits the network, {reason}"
        )


def refuse_own_weights(trainer: Trainer, owner: str, reason: str) -> None:
    """Refuse strategies whose workers have weights of their own, other than those validated and saved.

    Args:
        trainer: The trainer.
        owner: Name of the calling class, for the error.
        reason: The end of the sentence that begins "the workers of LocalSGD have weights of their own, ".

    Raises:
        MisconfigurationException: If the strategy is one of these.
    """
    if isinstance(trainer.strategy, OwnWeights):
        raise MisconfigurationException(
            f"{owner}: the workers of {type(trainer.strategy).__name__} have weights of their own, {reason}"
        )


def refuse_steps_elsewhere(trainer: Trainer, owner: str, reason: str) -> None:
    """Refuse strategies whose servers make the optimizer's steps.

    Args:
        trainer: The trainer.
        owner: Name of the calling class, for the error.
        reason: The end of the sentence that begins "the servers of Downpour make the optimizer's steps, ".

    Raises:
        MisconfigurationException: If the strategy is one of these.
    """
    if isinstance(trainer.strategy, StepsElsewhere):
        raise MisconfigurationException(
            f"{owner}: the servers of {type(trainer.strategy).__name__} make the optimizer's steps, {reason}"
        )


def refuse_asynchronous(trainer: Trainer, owner: str, reason: str) -> None:
    """Refuse strategies with several workers that do not wait for each other.

    Call it after `refuse_own_weights` and `refuse_steps_elsewhere`, whose reasons are more exact.

    Args:
        trainer: The trainer, from `setup` on.
        owner: Name of the calling class, for the error.
        reason: The end of the sentence that begins "the workers of Hogwild do not wait for each other, ".

    Raises:
        MisconfigurationException: If the strategy is one of these; with one worker it is not.
    """
    if isinstance(trainer.strategy, Asynchronous) and getattr(trainer.strategy, "workers", 2) > 1:
        raise MisconfigurationException(
            f"{owner}: the workers of {type(trainer.strategy).__name__} do not wait for each other, {reason}"
        )


def refuse_manual_optimization(pl_module: LightningModule, owner: str, reason: str) -> None:
    """Refuse modules with manual optimization.

    Args:
        pl_module: The module.
        owner: Name of the calling class, for the error.
        reason: The end of the sentence that begins "needs automatic optimization, ".

    Raises:
        MisconfigurationException: If the module uses manual optimization.
    """
    if not pl_module.automatic_optimization:
        raise MisconfigurationException(f"{owner}: needs automatic optimization, {reason}")


def refuse_lazy_layers(pl_module: LightningModule, owner: str) -> None:
    """Refuse a module whose weights can't be shared yet, as they have no shape.

    Args:
        pl_module: The module.
        owner: Name of the calling class, for the error.

    Raises:
        MisconfigurationException: If a parameter or buffer is lazy.
    """
    if any(is_lazy(tensor) for tensor in (*pl_module.parameters(), *pl_module.buffers())):
        raise MisconfigurationException(
            f"{owner}: the module has lazy layers, whose weights do not exist yet; run a batch through it "
            "before the fit"
        )


def refuse_fused_under_scaler(trainer: Trainer, owner: str, addition: str) -> None:
    """Refuse a fused optimizer with a gradient scaler: the addition would be made to scaled gradients.

    Args:
        trainer: The trainer, from `on_fit_start` on.
        owner: Name of the calling class, for the error.
        addition: What it adds to the gradients, such as "noise".

    Raises:
        MisconfigurationException: If both are used.
    """
    if has_gradient_scaler(trainer) and any(is_fused(optimizer) for optimizer in trainer.optimizers):
        raise MisconfigurationException(
            f"{owner}: a fused optimizer unscales its gradients within its step, after the {addition}; set "
            "fused to false, or use precision bf16-mixed"
        )


def refuse_newton_alone(trainer: Trainer) -> None:
    """Refuse `Newton` with automatic optimization and without `FullBatch`, whose closure it needs.

    Args:
        trainer: The trainer, from `on_train_start` on.

    Raises:
        MisconfigurationException: If it gets a closure that has called `backward`.
    """
    module, callbacks = trainer.lightning_module, callbacks_of(trainer)
    if not module.automatic_optimization or any(
        isinstance(each, TurnsNoiseOff) and each.whole_set for each in callbacks
    ):
        return
    if any(isinstance(optimizer, Newton) for optimizer in trainer.optimizers):
        raise MisconfigurationException(
            "Newton: it needs the loss with its graph, and Lightning's closure calls backward; add the "
            "callback FullBatch, or use manual optimization"
        )
