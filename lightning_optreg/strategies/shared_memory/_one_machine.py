"""What Lightning asks a strategy whose workers are processes on this machine, without communication."""

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.accelerators import CPUAccelerator
from typing_extensions import override

from lightning_optreg.strategies.shared_memory._crew import Crew
from lightning_optreg.strategies.shared_memory._mate import Mate
from lightning_optreg.strategies.without_group import WithoutGroup

__all__ = ["OneMachine"]


class OneMachine(WithoutGroup):
    """Base of strategies whose workers share this machine's main memory.

    Only a fit has several workers; worker 0, the user's own process, does everything else alone.
    """

    _rank = 0
    _place: Crew | Mate | None = None  # during a fit with several workers

    @property
    @override
    def workers(self) -> int:
        """Number of workers, `devices` of the trainer."""
        return len(self.parallel_devices or [self.root_device])

    @property
    def num_nodes(self) -> int:
        """One."""
        return 1

    @num_nodes.setter
    def num_nodes(self, num_nodes: int) -> None:
        if num_nodes != 1:
            raise MisconfigurationException(
                f"{type(self).__name__}: its workers share the memory of one machine: set num_nodes to 1, "
                f"got {num_nodes}"
            )

    @property
    @override
    def root_device(self) -> torch.device:
        return torch.device("cpu")

    @property
    @override
    def global_rank(self) -> int:
        return self._rank

    @property
    @override
    def local_rank(self) -> int:
        return self._rank

    @property
    @override
    def world_size(self) -> int:
        return self.workers if self._place is not None else 1

    @property
    @override
    def is_distributed(self) -> bool:
        """Whether loaders made now are dealt out: those for training are; worker 0 validates alone."""
        module = self.lightning_module
        return self._place is not None and module is not None and module.trainer.training

    @override
    def setup_environment(self) -> None:
        environment = self.cluster_environment
        if environment is not None and environment.world_size() > 1:
            raise MisconfigurationException(
                f"{type(self).__name__}: it starts its workers itself, but {type(environment).__name__} has "
                f"started {environment.world_size()} processes: start one"
            )
        if not isinstance(self.accelerator, CPUAccelerator):
            raise MisconfigurationException(
                f"{type(self).__name__}: its workers share main memory, and a "
                f"{type(self.accelerator).__name__} has its own: set accelerator to cpu"
            )
        super().setup_environment()

    @override
    def model_to_device(self) -> None:
        """Do nothing: the module is in main memory."""

    @override
    def barrier(self, name: str | None = None) -> None:
        """Wait until worker 0 has prepared the data, before they are set up; otherwise for nobody."""
        if name != "pre_setup":
            return
        if isinstance(self._place, Crew):
            self._place.board.set_flag("prepared", 1)
        elif isinstance(self._place, Mate):
            board = self._place.board
            self._place.rest(lambda: bool(board.flag("prepared")), dict)
