"""What Lightning asks a strategy that has no process group, as its workers do not wait for each other."""

from abc import abstractmethod
from typing import Any

from lightning.pytorch.strategies import ParallelStrategy
from torch import Tensor
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
