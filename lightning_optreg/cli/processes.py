"""How many processes the settings ask for, and whether this machine has enough cores."""

import os

import torch
from jsonargparse import Namespace
from lightning.pytorch.accelerators import MPSAccelerator

__all__ = ["check_processes", "count_cores", "requested_devices"]


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


def count_cores() -> int:
    """Count the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
