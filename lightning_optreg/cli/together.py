"""Processes that were started together agree on a run before Lightning connects them.

The first process chooses the run's folder and the checkpoint. The others follow, and each reports whether it
finds the checkpoint. They exchange messages through torch's store at the address that Lightning will use. If
one node lacks the file, all of them stop with the same message; with Lightning alone one would stop and the
others would wait for it.
"""

import json
import os
import platform
import time
import uuid
from datetime import timedelta
from typing import Any, NamedTuple

import torch.distributed as dist
from jsonargparse import Namespace
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment

from lightning_optreg.cli.processes import requested_devices

__all__ = ["Place", "Together", "place_in"]

_PATIENCE = timedelta(minutes=30)  # as torch waits for a process at its own meeting point


class Place(NamedTuple):
    """One of several processes that were started together.

    Attributes:
        rank: Its number; process 0 makes the choices.
        size: Number of processes.
        node: Number of its machine.
        address: Address at which they meet.
        port: Port at which they meet.
    """

    rank: int
    size: int
    node: int
    address: str
    port: int


def place_in(trainer: Namespace) -> Place | None:
    """Find this process among those that were started together, from the environment and the settings.

    Processes that Lightning itself starts from this one don't count: they inherit its choices.

    Args:
        trainer: The settings of the trainer.

    Returns:
        None if this is the only one, or if another `ClusterEnvironment` is configured.
    """
    plugins = trainer.get("plugins")
    for plugin in plugins if isinstance(plugins, list) else [plugins]:
        if isinstance(plugin, Namespace) and plugin.class_path.endswith("Environment"):
            return None
    devices, nodes = requested_devices(trainer), int(trainer.num_nodes)
    size = devices * nodes
    environment: TorchElasticEnvironment | SLURMEnvironment
    if TorchElasticEnvironment.detect():
        environment = TorchElasticEnvironment()
    elif SLURMEnvironment.detect() and int(os.environ["SLURM_NTASKS"]) == size:  # so Lightning decides
        environment = SLURMEnvironment()
    else:
        return _by_hand(devices, nodes, str(trainer.strategy))
    if environment.world_size() == 1:
        return None
    return Place(
        environment.global_rank(),
        environment.world_size(),
        environment.node_rank(),
        environment.main_address,
        environment.main_port,
    )


def _by_hand(devices: int, nodes: int, strategy: str) -> Place | None:
    """The place if the user has set the variables that Lightning's own environment reads."""
    if "MASTER_PORT" not in os.environ:
        return None  # Lightning looks for a free port, which no other process would know
    node = int(os.environ.get("NODE_RANK", os.environ.get("GROUP_RANK", 0)))
    address, port = os.environ.get("MASTER_ADDR", "127.0.0.1"), int(os.environ["MASTER_PORT"])
    if "LOCAL_RANK" in os.environ and os.environ.get("WORLD_SIZE") == str(nodes * devices):
        place = Place(node * devices + int(os.environ["LOCAL_RANK"]), nodes * devices, node, address, port)
    elif any(word in strategy for word in ("fork", "spawn", "notebook")):
        return None  # the process that will listen at the port is not this one
    else:
        place = Place(node, nodes, node, address, port)
    return place if place.size > 1 else None


class Together:
    """Messages between processes that were started together; all make the same calls in the same order.

    Args:
        place: This process among them; None if it is alone.

    Raises:
        RuntimeError: If the others cannot be reached.
    """

    def __init__(self, place: Place | None) -> None:
        self.place = place
        self._said = 0
        if place is None:
            return
        # torchrun's agent keeps a store at this address already.
        listens = place.rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
        try:
            server = dist.TCPStore(  # type: ignore[attr-defined]  # public, by torch's documentation
                place.address,
                place.port,
                is_master=listens,
                timeout=_PATIENCE,
                wait_for_workers=False,
                multi_tenant=True,  # torch's own meeting point will be there too
            )
        except dist.DistError as error:
            reason = str(error).splitlines()[0]
            raise RuntimeError(
                f"cannot reach the other processes at {place.address}:{place.port}: {reason}"
            ) from error
        self._server = dist.PrefixStore("lightning_optreg", server)  # type: ignore[attr-defined]  # likewise
        self._store = self._server
        prefix = self._meet(place)
        self._store = dist.PrefixStore(prefix, self._server)  # type: ignore[attr-defined]  # likewise

    @property
    def rank(self) -> int:
        """Number of this process; 0 if it is alone."""
        return 0 if self.place is None else self.place.rank

    def name(self) -> str:
        """The name of this process in messages."""
        if self.place is None:
            return platform.node()
        return f"{platform.node()} (node {self.place.node}, process {self.place.rank})"

    def _meet(self, place: Place) -> str:
        """Find those that are here now, and return a prefix of keys that nobody else uses.

        The store outlives processes: torchrun starts them again beside what the dead ones have written, and
        its count of restarts (TORCHELASTIC_RESTART_COUNT) may differ between nodes. So each process writes a
        word of its own, the first one collects them into a list, and the list counts once every process has
        found its present word there.
        """
        word = uuid.uuid4().hex
        self._store.set(f"here/{place.rank}", word)
        end = time.monotonic() + _PATIENCE.total_seconds()
        while True:
            if place.rank == 0:
                here = [word, *(self._get(f"here/{rank}", rank).decode() for rank in range(1, place.size))]
                self._store.set("list", json.dumps(here))
            else:
                here = json.loads(self._get("list", 0))
            prefix = uuid.uuid5(uuid.NAMESPACE_OID, " ".join(here)).hex
            if word in here:
                self._store.set(f"{prefix}/found/{place.rank}", "")
                if self._store.check([f"{prefix}/found/{rank}" for rank in range(place.size)]):
                    return prefix
            if time.monotonic() > end:
                raise TimeoutError(f"the {place.size} processes did not find each other within {_PATIENCE}")
            time.sleep(0.02)

    def gather(self, mine: Any) -> list[Any]:
        """Send a value to all processes and return everyone's, in the order of their ranks.

        Args:
            mine: The value of this process; JSON must be able to hold it.

        Raises:
            TimeoutError: If a process does not answer.
        """
        if self.place is None:
            return [mine]
        said, self._said = self._said, self._said + 1
        self._store.set(f"{said}/{self.place.rank}", json.dumps(mine))
        found = [json.loads(self._get(f"{said}/{rank}", rank)) for rank in range(self.place.size)]
        # The process that keeps the store waits until all have read.
        self._store.set(f"{said}/{self.place.rank}/read", "")
        if self.place.rank == 0:
            for rank in range(self.place.size):
                self._get(f"{said}/{rank}/read", rank)
        return found

    def _get(self, key: str, rank: int) -> bytes:
        end = time.monotonic() + _PATIENCE.total_seconds()
        while True:
            try:
                # Wait for short times, so that Ctrl+C gets through.
                self._store.wait([key], timedelta(seconds=1))
                value: bytes = self._store.get(key)
            except dist.DistStoreError as error:
                if time.monotonic() > end:
                    raise TimeoutError(
                        f"process {rank} of {self.place.size if self.place else 1} did not answer within "
                        f"{_PATIENCE}"
                    ) from error
            else:
                return value
