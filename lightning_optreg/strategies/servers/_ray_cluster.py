"""Join a Ray cluster, or start Ray on this machine for the time of a run."""

import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException

from lightning_optreg.strategies.servers._process_group import forks_join, group_that_ends

__all__ = ["import_ray", "need_ray", "ray_for"]

_STORE_BYTES = 100_000_000  # Ray's least is 75 MB


def need_ray(owner: str) -> None:
    """Refuse to go on without Ray.

    Args:
        owner: Name of the strategy, for the error.

    Raises:
        MisconfigurationException: If Ray is not installed.
    """
    if find_spec("ray") is None:
        raise MisconfigurationException(
            f"{owner}: needs Ray, which is not installed: pip install 'lightning-optreg[cluster]'"
        )


def import_ray(address: str | None) -> Any:
    """Import Ray, ready to join a cluster, or to start on this machine alone.

    Args:
        address: See `ray_for`.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # A task without GPUs sees them all, instead of a warning that this will change.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if _address(address) is None:
        # Read when Ray is imported: it then listens on loopback only, as it always does on a Mac. On Linux,
        # or if it was imported before, it listens on all addresses of the machine.
        if "ray" not in sys.modules:
            os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        # Ray starts its processes at niceness 15: servers would lag behind worker 0 on the same machine.
        os.environ.setdefault("RAY_worker_niceness", "0")
    import ray

    return ray


def _address(given: str | None) -> str | None:
    return given or os.environ.get("RAY_ADDRESS") or None


@contextmanager
def ray_for(workers: int, address: str | None, *, gpus: list[int], payload: int) -> Iterator[Any]:
    """Provide Ray: a cluster that is there, or one that is started here and ended afterwards.

    A cluster is there if this process is connected to it, if `address` is given, or if the environment
    variable RAY_ADDRESS is set. What was there is left as it was.

    Args:
        workers: Number of workers that Ray shall have room for if it is started here.
        address: Address of a cluster, "auto" for the one on this machine; None for the above.
        gpus: Numbers of the GPUs that a Ray started here may give to workers.
        payload: Bytes of the parameters, for the size of the object store.

    Yields:
        The module `ray`.
    """
    ray = import_ray(address)
    if ray.is_initialized():
        yield ray
        return
    address = _address(address)
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    with ExitStack() as stack:
        if address is not None:
            with _own_sigterm():
                ray.init(address=address, **options)
        else:
            group = stack.enter_context(group_that_ends())
            with _own_sigterm(), _visible(gpus), forks_join(group):
                ray.init(
                    address="local",
                    num_cpus=workers,
                    num_gpus=len(gpus),
                    include_dashboard=False,
                    object_store_memory=max(_STORE_BYTES, 4 * workers * payload),
                    **options,
                )
        try:
            yield ray
        finally:
            with _own_sigterm():
                ray.shutdown()


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """Keep this process's answer to SIGTERM: Ray sets its own, and Lightning then leaves the signal alone."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@contextmanager
def _visible(gpus: list[int]) -> Iterator[None]:
    """Let processes started within see only these GPUs: that of worker 0 is not Ray's to give."""
    before = os.environ.get("CUDA_VISIBLE_DEVICES")
    if not gpus:
        yield
        return
    names = before.split(",") if before else [str(number) for number in range(max(gpus) + 1)]
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(names[gpu] for gpu in gpus)
    try:
        yield
    finally:
        if before is None:
            del os.environ["CUDA_VISIBLE_DEVICES"]
        else:
            os.environ["CUDA_VISIBLE_DEVICES"] = before
