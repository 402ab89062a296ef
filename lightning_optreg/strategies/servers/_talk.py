"""What a worker and the servers say to each other."""

import time
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.exceptions import SIGTERMException

from lightning_optreg.parallel.dealing import settings_of
from lightning_optreg.parallel.ledger import Answer, Report
from lightning_optreg.strategies.servers._one_worker import OneWorker
from lightning_optreg.strategies.servers._place import place_of
from lightning_optreg.strategies.servers._ray_crew import ServerDiedError
from lightning_optreg.strategies.workers import StepCount
from lightning_optreg.trainer.queries import told_to_stop

__all__ = ["Talks"]


class Talks(OneWorker):
    """A worker that reports to servers, and does what they answer.

    Attributes:
        servers: Handles of Ray's actors.
        timeout: Seconds to wait for an answer.
        count: The optimizer steps of all workers.
        lost: Whether a server is gone.
    """

    servers: list[Any]
    timeout: float
    count: StepCount
    lost: bool

    def clear(self) -> None:
        """Forget the last fit."""
        self.servers = []
        self.lost = False
        self._ray: Any = None
        self._place: tuple[int, int] | None = None
        self._own = 0
        self._sent = self._total = 0
        self._settings: list[dict[str, Any]] = []
        self._known_settings = 0

    def report(self, *, in_step: bool = False, moved: bool = True) -> Report:
        """Return what to tell the servers now.

        Args:
            in_step: Whether the present optimizer step is still to be counted.
            moved: Whether the present batch counts as done.
        """
        module = self.lightning_module
        assert module is not None
        trainer = module.trainer
        settings = None
        if self.number == 0:
            now = settings_of(self.optimizers[0])
            known = len(self._settings or now)  # a group that was added is refused in the next step
            if now[:known] != self._settings:
                settings = self._settings = now[:known]
        place = place_of(trainer) if moved else None
        sent, self._sent = self._sent, 0
        steps = self.count.own_steps() + in_step
        return Report(self.number, steps, place, sent, settings, self._known_settings)

    def note(self, answer: Answer) -> None:
        """Do what the first server says."""
        module = self.lightning_module
        assert module is not None
        self._total = answer.steps
        if self.number == 0:
            return
        if answer.stop:
            module.trainer.should_stop = True
        groups = self.optimizers[0].param_groups
        # A callback may have replaced worker 0's optimizer: its rates aren't for one of another kind.
        if answer.settings is not None and all(map(_has_all, groups, answer.settings)):
            self._known_settings = answer.version
            for group, settings in zip(groups, answer.settings, strict=True):
                group.update(settings)

    def sent(self, content: Any) -> Any:
        """Count bytes of an array that goes to a server or comes from one, and return it."""
        self._sent += content.nbytes
        return content

    def ask(self, reference: Any) -> Any:
        """Wait for an answer."""
        return self.ask_all([reference])[0]

    def ask_all(self, references: list[Any]) -> list[Any]:
        """Wait for the answers of servers.

        Raises:
            ServerDiedError: If a server is gone, or does not answer in time.
            SIGTERMException: If one is gone as the run was told to end.
        """
        errors = self._ray.exceptions
        timeout = None if self.timeout == float("inf") else self.timeout
        try:
            answers: list[Any] = self._ray.get(references, timeout=timeout)
        except (errors.RayActorError, errors.OwnerDiedError, errors.ObjectLostError) as error:
            self.lost = True
            module = self.lightning_module
            if module is not None and told_to_stop(module.trainer):
                rank_zero_warn(
                    f"{self.name}: SIGTERM has ended the servers too, and their parameters with them; "
                    "continue from the last checkpoint"
                )
                raise SIGTERMException from error
            raise ServerDiedError(
                f"{self.name}: a server died, and its parameters with it; continue from the last checkpoint "
                f"({type(error).__name__})"
            ) from error
        except errors.GetTimeoutError as error:
            self.lost = True
            raise ServerDiedError(
                f"{self.name}: no answer of a server for {self.timeout:g} s; continue from the last "
                "checkpoint"
            ) from error
        return answers

    def _learn_place(self) -> None:
        """Wait until worker 0 has brought the parameters; take the rest of its module, and the place."""
        if self._place is not None:
            return
        while not self.ask(self.servers[0].ready.remote()):
            time.sleep(0.1)
        extra, steps, places = self.ask(self.servers[0].start.remote())
        self._place, self._own = places.get(self.number, (0, 0)), steps.get(self.number, 0)
        module = self.lightning_module
        assert module is not None
        module.load_state_dict(extra, strict=False)


def _has_all(group: dict[str, Any], settings: dict[str, Any]) -> bool:
    return settings.keys() <= group.keys()
