"""How many processes the settings ask for, and whether this machine has enough cores."""

import importlib
import os
from typing import Any

import torch
from jsonargparse import Namespace
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch.accelerators import MPSAccelerator
from lightning.pytorch.strategies import StrategyRegistry

from lightning_optreg.randomness.processes import count_cores
from lightning_optreg.trainer.roles import Asynchronous

__all__ = ["check_processes", "check_started", "count_cores", "requested_devices"]


def requested_devices(trainer: Namespace) -> int:
    """Count the devices of one node that the settings ask for, as Lightning does."""
    devices = trainer.devices
    if isinstance(devices, list):
        return len(devices)
    text = str(devices)
    if text.isdecimal():
        return int(text)
    if "," in text:
        return len([part for part in text.split(",") if part.strip()])
    on_gpu = str(trainer.accelerator) in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    return torch.cuda.device_count() if on_gpu else 1


def check_processes(settings: Namespace) -> None:
    """Refuse to start more processes than this machine can bear, unless `oversubscribe` is set.

    On CPUs Lightning starts as many as `trainer.devices` says, one too many or thousands: more than there are
    cores only take turns. Processes that load data may wait for a disk; of these there may be 8 a core.

    Args:
        settings: The parsed configuration of a command.

    Raises:
        ValueError: With the key, what is allowed and the value.

    Example:
        >>> trainer = Namespace(accelerator="cpu", devices=99999)
        >>> check_processes(Namespace(trainer=trainer, oversubscribe=False))  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ValueError: trainer.devices must be <= ..., this machine's CPU cores, got 99999; ...
    """
    if settings.oversubscribe:
        return
    cores, told = count_cores(), "--oversubscribe true allows more"
    accelerator = str(settings.trainer.accelerator)
    has_gpu = torch.cuda.is_available() or MPSAccelerator.is_available()
    if accelerator == "cpu" or (accelerator == "auto" and not has_gpu):  # others count their devices
        devices = requested_devices(settings.trainer)
        if devices > cores:
            raise ValueError(
                f"trainer.devices must be <= {cores}, this machine's CPU cores, got {devices}; {told}"
            )
    strategy = settings.trainer.get("strategy")
    arguments = strategy.get("init_args") or {} if isinstance(strategy, Namespace) else {}
    on_ray = arguments.get("workers") or 1
    elsewhere = arguments.get("address") or os.environ.get("RAY_ADDRESS")  # has room for them or waits
    if on_ray > cores and not elsewhere:
        raise ValueError(
            f"trainer.strategy.workers must be <= {cores}, this machine's CPU cores, got {on_ray}; {told}"
        )
    workers = settings.get("data.init_args.num_workers") or 0
    if workers > 8 * cores:
        raise ValueError(
            f"data.num_workers must be <= {8 * cores}, 8 for each of this machine's CPU cores, got "
            f"{workers}; {told}"
        )


def check_started(trainer: Namespace) -> None:
    """Refuse a strategy that starts its workers itself in one of several processes that torchrun started.

    Args:
        trainer: The settings of the trainer.

    Raises:
        ValueError: With the strategy and what to do.
    """
    count = int(os.environ.get("WORLD_SIZE", "1")) if TorchElasticEnvironment.detect() else 1
    strategy = _class_of(trainer.get("strategy"))
    if count > 1 and strategy is not None and issubclass(strategy, Asynchronous):
        raise ValueError(
            f"trainer.strategy: {strategy.__name__} starts its workers itself; run the command without "
            f"torchrun, which has started {count} processes"
        )


def _class_of(strategy: Any) -> type | None:
    """The class of a strategy's settings; None for one that Lightning chooses."""
    if isinstance(strategy, Namespace):
        module, _, name = strategy.class_path.rpartition(".")
        found: type = getattr(importlib.import_module(module), name)
        return found
    name = str(strategy).lower()  # as Lightning looks it up
    return StrategyRegistry[name]["strategy"] if name in StrategyRegistry else None
