"""What Lightning asks a strategy whose process is one of several workers that do not wait for each other."""

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from typing_extensions import override

from lightning_optreg.strategies.servers._ray_launcher import Launched, RayLauncher
from lightning_optreg.strategies.without_group import WithoutGroup

__all__ = ["OneWorker"]


class OneWorker(Launched, WithoutGroup):
    """Base of strategies of such a worker: it has a share of the training images, and all else to itself."""

    number: int = 0
    """Number of this worker."""
    given_workers: int | None = None
    """Number of workers, if it does not follow from the trainer's devices."""

    @property
    @override
    def workers(self) -> int:
        """Number of workers, worker 0 included."""
        return self.given_workers or len(self.parallel_devices or [None])

    @property
    @override
    def root_device(self) -> torch.device:
        """This worker's device: the first that it sees."""
        return (self.parallel_devices or [torch.device("cpu")])[0]

    @property
    @override
    def launcher(self) -> RayLauncher:  # type: ignore[override]  # Lightning's base class is private
        """What runs the user's function, as worker 0."""
        return RayLauncher(self)

    @property
    @override
    def is_distributed(self) -> bool:
        """Whether loaders made now are dealt out: those for training are; worker 0 validates alone."""
        module = self.lightning_module
        return self.workers > 1 and (module is None or module.trainer.training)

    @property
    @override
    def global_rank(self) -> int:
        return self.number

    @property
    @override
    def local_rank(self) -> int:
        return 0

    @property
    def num_nodes(self) -> int:
        """1, as Ray knows the nodes."""
        return 1

    @num_nodes.setter
    def num_nodes(self, num_nodes: int) -> None:
        if num_nodes != 1:
            raise MisconfigurationException(
                f"{self.name}: Ray knows the nodes, so num_nodes must be 1, got {num_nodes}; set workers to "
                "the number of workers on all nodes"
            )

    @property
    @override
    def world_size(self) -> int:
        """1: no step waits for the others, and takes the batches of one worker."""
        return 1

    @override
    def model_to_device(self) -> None:
        assert self.model is not None
        self.model.to(self.root_device)

    @property
    @override
    def lightning_restore_optimizer(self) -> bool:
        return self.number == 0
