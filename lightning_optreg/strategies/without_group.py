"""What Lightning asks a strategy that has no process group, as its workers do not wait for each other."""

from abc import abstractmethod
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.strategies import ParallelStrategy
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler
from typing_extensions import override

from lightning_optreg.trainer.roles import Asynchronous

__all__ = ["WithoutGroup"]


class WithoutGroup(Asynchronous, ParallelStrategy):
    """Base of strategies whose workers do not wait for each other.

    There is no process group: Lightning's training loop makes a collective call for each batch if there is
    one. What a collective call would return is the worker's own.
    """

    @property
    @override
    def node_rank(self) -> int:
        return 0

    @property
    @abstractmethod
    def workers(self) -> int:
        """Number of workers, worker 0 included."""

    @property
    @abstractmethod
    def is_distributed(self) -> bool:
        """Whether loaders made now are dealt out: those for training are; worker 0 validates alone."""

    @property
    @override
    def distributed_sampler_kwargs(self) -> dict[str, Any]:
        """This worker's share of what a loader has."""
        if self.is_distributed:
            return {"num_replicas": self.workers, "rank": self.global_rank}
        return {"num_replicas": 1, "rank": 0}

    @override
    def process_dataloader(self, dataloader: object) -> object:
        """Refuse a training loader that does not give this worker its share only."""
        if self.is_distributed and not _is_dealt(dataloader, self.workers, self.global_rank):
            raise MisconfigurationException(
                f"{type(self).__name__}: the batches of a {type(dataloader).__name__} can't be dealt out to "
                f"{self.workers} workers: use a DataLoader of a dataset with a length, a loader of this "
                "package, or one that deals them out itself and says so by attributes rank and world_size"
            )
        return dataloader

    @override
    def reduce(self, tensor: Any, *args: Any, **kwargs: Any) -> Any:
        return tensor

    @override
    def all_gather(self, tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return tensor

    @override
    def reduce_boolean_decision(self, decision: bool, all: bool = True) -> bool:
        return decision

    @override
    def broadcast(self, obj: Any, src: int = 0) -> Any:
        return obj

    @override
    def barrier(self, name: str | None = None) -> None:
        pass


def _is_dealt(loader: object, workers: int, rank: int) -> bool:
    """Return whether a loader gives a worker its share; Lightning has added a sampler if it could."""
    if isinstance(loader, DataLoader):
        samplers = (loader.sampler, getattr(loader.batch_sampler, "sampler", None))
        if any(isinstance(sampler, DistributedSampler) for sampler in samplers):
            return True
    shares = ((getattr(each, "world_size", None), getattr(each, "rank", None)) for each in _parts(loader))
    return (workers, rank) in shares


def _parts(loader: object) -> tuple[object, ...]:
    return loader, getattr(loader, "dataset", None), getattr(loader, "batch_sampler", None)
