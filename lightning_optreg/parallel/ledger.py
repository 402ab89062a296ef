"""What the first server keeps of a run besides parameters: who has come how far."""

from dataclasses import dataclass, field
from typing import Any

__all__ = ["Answer", "Ledger", "Report"]


@dataclass(frozen=True)
class Report:
    """What a worker tells with every call."""

    worker: int
    steps: int = 0
    """Optimizer steps that it has made in the whole run."""
    place: tuple[int, int] | None = None
    """Its epoch, and how many batches it has done in it; None if that has not changed."""
    sent: int = 0
    """Bytes that it has sent and received since its last report."""
    settings: list[dict[str, Any]] | None = None
    """Settings of the optimizer's groups, of worker 0, if they have changed."""
    known: int = 0
    """Version of the settings that it has."""


@dataclass(frozen=True)
class Answer:
    """What a worker learns with every call."""

    steps: int
    """Optimizer steps of all workers."""
    stop: bool
    """Whether worker 0 has ended the run."""
    version: int
    settings: list[dict[str, Any]] | None
    """Settings of worker 0, if they are newer than what the worker has."""


@dataclass
class Ledger:
    """Steps, place in the data and bytes of each worker, and what worker 0 decides."""

    steps: dict[int, int] = field(default_factory=dict)
    places: dict[int, tuple[int, int]] = field(default_factory=dict)
    """For each worker its epoch, and how many batches it has done in it."""
    bytes: int = 0
    stop: bool = False
    version: int = 0
    settings: list[dict[str, Any]] = field(default_factory=list)

    def note(self, report: Report) -> None:
        """Enter a report."""
        self.bytes += report.sent
        if report.steps:
            self.steps[report.worker] = report.steps
        if report.place is not None:
            self.places[report.worker] = report.place
        if report.settings is not None:
            self.settings = report.settings
            self.version += 1

    def answer(self, report: Report) -> Answer:
        """Return what the worker does not know yet."""
        newer = self.settings if report.known < self.version and report.worker > 0 else None
        return Answer(sum(self.steps.values()), self.stop, self.version, newer)

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps: plain numbers."""
        return {"steps": dict(self.steps), "places": dict(self.places), "bytes": self.bytes}

    def load(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint's state."""
        self.steps, self.places = dict(state["steps"]), dict(state["places"])
        self.bytes = state["bytes"]
