"""The other workers: Ray tasks that make the same fit, each started again when its process dies."""

import logging
import os
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_only, rank_zero_warn

from lightning_optreg.strategies.workers import silence
from lightning_optreg.trainer.queries import callbacks_of
from lightning_optreg.trainer.roles import RestoresProcess

__all__ = ["Crew", "ServerDiedError"]

_DEATHS = 3  # in a row without a step in between


class ServerDiedError(RuntimeError):
    """A server is gone, and with it its part of the parameters."""


class Crew:
    """The workers other than worker 0.

    Args:
        ray: The module.
        owner: Name of the strategy, for messages.
        content: The pickled fit: function, arguments and trainer.
        servers: The servers' handles.
        workers: Number of workers, worker 0 included.
        gpu: Whether each of them needs a GPU.
    """

    def __init__(
        self, ray: Any, owner: str, content: bytes, servers: Sequence[Any], workers: int, *, gpu: bool
    ) -> None:
        self._ray, self._owner, self._servers = ray, owner, servers
        self._content = ray.put(content)
        self._run = ray.remote(num_cpus=1, num_gpus=int(gpu), max_retries=0)(_run_worker)
        self._tasks: dict[Any, int] = {}
        self._deaths: dict[int, tuple[int, int]] = {}
        self._looked = 0.0
        for number in range(1, workers):
            self._start(number)

    def _start(self, number: int) -> None:
        task = self._run.remote(self._content, number, list(self._servers), torch.initial_seed())
        self._tasks[task] = number

    @property
    def done(self) -> bool:
        """Whether all have ended."""
        return not self._tasks

    def check(self, seconds: float = 1.0) -> None:
        """See who has ended: start those again whose process died, and pass on the errors of others.

        Args:
            seconds: Do nothing if the last look was less long ago.

        Raises:
            RuntimeError: If a worker failed, or died again and again.
            ServerDiedError: If it failed because a server died.
        """
        if time.monotonic() - self._looked < seconds or not self._tasks:
            return
        self._looked = time.monotonic()
        errors = self._ray.exceptions
        ended, _ = self._ray.wait(list(self._tasks), num_returns=len(self._tasks), timeout=0)
        for task in ended:
            number = self._tasks.pop(task)
            try:
                self._ray.get(task)
            except (errors.WorkerCrashedError, errors.OutOfMemoryError, errors.NodeDiedError) as death:
                self._start_again(number, death)
            except errors.RayTaskError as error:
                if isinstance(error.cause, errors.RayActorError):
                    raise ServerDiedError(str(error.cause)) from error
                raise RuntimeError(f"{self._owner}: worker {number} failed:\n{error}") from error

    def _start_again(self, number: int, death: Exception) -> None:
        steps, places = self._ray.get(self._servers[0].progress.remote())
        made, deaths = self._deaths.get(number, (-1, 0))
        now = steps.get(number, 0)
        deaths = deaths + 1 if now == made else 1
        self._deaths[number] = now, deaths
        reason = type(death).__name__
        if deaths >= _DEATHS:
            raise RuntimeError(
                f"{self._owner}: worker {number} died {deaths} times without a step in between ({reason})"
            ) from death
        epoch, batches = places.get(number, (0, 0))
        rank_zero_warn(
            f"{self._owner}: worker {number} died ({reason}) and is started again; it goes on in epoch "
            f"{epoch} after {batches} batches"
        )
        self._start(number)

    def stop(self) -> None:
        """End those that still run, and forget them."""
        for task in self._tasks:
            self._ray.cancel(task, force=True)
        self._tasks.clear()


def _run_worker(content: bytes, number: int, servers: list[Any], seed: int) -> None:
    """Make the fit of a worker; in a process of Ray."""
    from ray import cloudpickle

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")  # worker 0 has given the same
    rank_zero_only.rank = number  # type: ignore[attr-defined]  # documented, but not declared
    threads = os.environ.get("OMP_NUM_THREADS")  # which Ray sets to the CPUs of the task
    torch.set_num_threads(int(threads) if threads else 1)
    fit: tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any], Trainer, str | None]
    fit = cloudpickle.loads(content)
    function, args, kwargs, trainer, run_seed = fit
    if run_seed is not None:
        os.environ["PL_GLOBAL_SEED"] = run_seed
    torch.manual_seed(seed + number)  # masks and noise of its own
    silence(trainer)
    callbacks = callbacks_of(trainer)
    callbacks[:] = [each for each in callbacks if not isinstance(each, RestoresProcess)]  # of worker 0
    trainer.fit_loop.min_epochs = 0  # it ends when worker 0 says so
    trainer.fit_loop.epoch_loop.min_steps = None
    trainer.strategy.join(number, servers)  # type: ignore[attr-defined]  # of `ServerStrategy`
    function(*args, **kwargs)
