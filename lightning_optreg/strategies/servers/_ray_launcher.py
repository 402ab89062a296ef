"""The launcher of strategies whose servers and other workers are processes of Ray."""

import os
import pickle
from abc import abstractmethod
from collections.abc import Callable
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.trainer.states import TrainerFn

from lightning_optreg.strategies.servers._ray_cluster import import_ray, need_ray

__all__ = ["Launched", "RayLauncher"]


class Launched:
    """What the launcher needs of a strategy.

    Attributes:
        name: For messages.
        address: Of a Ray cluster.
        content: The pickled fit, for other workers.
    """

    name: str
    address: str | None
    content: bytes = b""

    @property
    @abstractmethod
    def workers(self) -> int:
        """Number of workers."""

    @abstractmethod
    def come_home_early(self) -> None:
        """Take what the servers have, after an error; do not fail if they are gone."""

    @abstractmethod
    def end_cluster(self) -> None:
        """End servers and workers, and Ray if it was started for them."""


class RayLauncher:
    """Runs the user's function in this process, as worker 0; the strategy starts the rest when it is set up.

    The Trainer asks a strategy's launcher for these three names only.

    Args:
        strategy: The strategy.
    """

    is_interactive_compatible = True

    def __init__(self, strategy: Launched) -> None:
        self._strategy = strategy

    def launch(
        self, function: Callable[..., Any], *args: Any, trainer: Trainer | None = None, **kwargs: Any
    ) -> Any:
        """Run a function of the trainer.

        Args:
            function: What the trainer does.
            *args: Its arguments.
            trainer: The trainer.
            **kwargs: More arguments.

        Raises:
            MisconfigurationException: If Ray is missing, or the fit can't be sent to other workers.
        """
        strategy = self._strategy
        if trainer is None or trainer.state.fn != TrainerFn.FITTING:
            return function(*args, **kwargs)
        need_ray(strategy.name)
        # Before anything happens to it: the others begin with the same.
        strategy.content = (
            _pickled((function, args, kwargs, trainer), strategy) if strategy.workers > 1 else b""
        )
        try:
            return function(*args, **kwargs)
        except BaseException:
            strategy.come_home_early()
            raise
        finally:
            strategy.content = b""
            strategy.end_cluster()

    def kill(self, signum: int) -> None:
        """Do nothing: the other processes end with this one."""


def _pickled(fit: tuple[Any, ...], strategy: Launched) -> bytes:
    ray = import_ray(strategy.address)
    try:
        content: bytes = ray.cloudpickle.dumps((*fit, os.environ.get("PL_GLOBAL_SEED")))
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        raise MisconfigurationException(
            f"{strategy.name}: the trainer, the module and the data go to other workers, and one of them "
            f"can't be pickled: {error}"
        ) from error
    return content
