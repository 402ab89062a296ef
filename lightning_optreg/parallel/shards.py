"""What runs in the server processes: a part of the parameters with its rule; the first keeps the ledger."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch.optim import Optimizer

from lightning_optreg.parallel.dealing import on_tensors, state_of
from lightning_optreg.parallel.delays import Delays
from lightning_optreg.parallel.downpour import DownpourServer
from lightning_optreg.parallel.elastic_server import ElasticServer
from lightning_optreg.parallel.ledger import Answer, Ledger, Report
from lightning_optreg.parallel.packing import Packing

__all__ = ["DownpourShard", "ElasticShard", "Shard"]

Content = Any
"""Bytes of a `Packing`."""


class Shard(ABC):
    """A server: one of several, with a part of the parameters each. Its calls come one at a time."""

    def __init__(self) -> None:
        torch.set_num_threads(1)
        self.ledger = Ledger()
        self.begun = False
        self.extra: dict[str, Any] = {}

    def ready(self) -> bool:
        """Return whether worker 0 has brought the parameters."""
        return self.begun

    def start(self) -> tuple[dict[str, Any], dict[int, int], dict[int, tuple[int, int]]]:
        """Return the rest of worker 0's module, and how far each worker has come."""
        return self.extra, self.ledger.steps, self.ledger.places

    def progress(self) -> tuple[dict[int, int], dict[int, tuple[int, int]]]:
        """Return the steps of each worker, and its place in the data."""
        return self.ledger.steps, self.ledger.places

    def talk(self, report: Report) -> Answer:
        """Take a report and answer."""
        self.ledger.note(report)
        return self.ledger.answer(report)

    def stop(self) -> None:
        """Let all workers end."""
        self.ledger.stop = True

    def statistics(self) -> tuple[int, list[list[int]], int]:
        """Return the number of updates, their delays, and the bytes of all workers."""
        rule = self.rule
        return rule.updates, rule.delays.counts(), self.ledger.bytes

    def begin(self, part: Any, extra: dict[str, Any], saved: dict[str, Any] | None) -> None:
        """Take over the parameters.

        Args:
            part: What `set_up` takes.
            extra: The rest of worker 0's module, by names; only on the first server.
            saved: What `snapshot` returned, from a checkpoint.
        """
        self.set_up(part)
        self.extra = extra
        if saved is not None:
            self.ledger.load(saved["ledger"])
            self.rule.updates = saved["updates"]
            self.rule.delays = Delays(saved["delays"])
        self.begun = True

    def snapshot(self) -> tuple[Content, dict[str, Any], Any]:
        """Return the parameters, plain numbers for a checkpoint, and the optimizer's state, all of one time.

        It counts as a fetch of worker 0.
        """
        rule = self.rule
        saved = {
            "ledger": self.ledger.state(),
            "updates": rule.updates,
            "delays": rule.delays.counts(),
        }
        return self.packing.bytes(), saved, self.optimizer_state()

    packing: Packing

    @property
    @abstractmethod
    def rule(self) -> DownpourServer | ElasticServer:
        """The rule by which the parameters change."""

    @abstractmethod
    def set_up(self, part: Any) -> None:
        """Begin with a part of the parameters."""

    def optimizer_state(self) -> Any:
        """Return the optimizer's state; None without one."""
        return None


class DownpourShard(Shard):
    """A server of Downpour SGD."""

    server: DownpourServer

    def set_up(self, part: Optimizer) -> None:
        """Begin with an optimizer of a part of the parameters."""
        self.packing = Packing([p for group in part.param_groups for p in group["params"]])
        self.gradients = Packing(self.packing.views)
        on_tensors(part, self.packing.views)
        self.server = DownpourServer(part)

    @property
    def rule(self) -> DownpourServer:
        """The rule by which the parameters change."""
        return self.server

    def optimizer_state(self) -> Any:
        """Return the states and groups of this part; worker 0 goes on from here."""
        self.server.fetch(0)
        return state_of(self.server.optimizer)

    def exchange(
        self, report: Report, gradients: Content | None, absent: Sequence[int], fetch: bool
    ) -> tuple[Content | None, Answer]:
        """Push, fetch, or both.

        Args:
            report: The worker's report.
            gradients: Bytes of the gradients; None to push nothing.
            absent: Positions of parameters without gradient.
            fetch: Whether to answer with the parameters.
        """
        answer = self.talk(report)
        if report.settings is not None:
            for group, settings in zip(self.server.optimizer.param_groups, report.settings, strict=True):
                group.update(settings)
        if gradients is not None:
            tensors: list[torch.Tensor | None] = list(self.gradients.read(gradients))
            for position in absent:
                tensors[position] = None
            self.server.push(report.worker, tensors)
        if not fetch:
            return None, answer
        self.server.fetch(report.worker)
        return self.packing.bytes(), answer


class ElasticShard(Shard):
    """A server with a part of the centre of asynchronous elastic averaging.

    Args:
        alpha: Moving rate.
    """

    server: ElasticServer

    def __init__(self, alpha: float) -> None:
        super().__init__()
        self.alpha = alpha

    def set_up(self, part: list[torch.Tensor]) -> None:
        """Begin with a part of the parameters."""
        self.packing, self.workers = Packing(part), Packing(part)
        self.packing.write(part)
        self.answers = Packing(part)
        self.server = ElasticServer(self.packing.views, self.alpha)

    @property
    def rule(self) -> ElasticServer:
        """The rule by which the centre moves."""
        return self.server

    def exchange(self, report: Report, parameters: Content) -> tuple[Content, Answer]:
        """Move the centre towards a worker, and return the difference d.

        Args:
            report: The worker's report.
            parameters: Bytes of its parameters.
        """
        answer = self.talk(report)
        difference = self.server.exchange(report.worker, self.workers.read(parameters))
        return self.answers.write(difference), answer

    def fetch(self, report: Report) -> tuple[Content, Answer]:
        """Return the centre."""
        return self.packing.bytes(), self.talk(report)
