"""The centre of asynchronous elastic averaging, for the workers that call on it one by one."""

from collections.abc import Sequence

from torch import Tensor

from lightning_optreg._checks import check_range
from lightning_optreg.parallel.delays import Delays
from lightning_optreg.parallel.elastic import elastic_difference, pull_centre

__all__ = ["ElasticServer"]


class ElasticServer:
    """The centre of asynchronous EASGD, or one of several that have a part of the parameters each.

    A worker i with parameters x_i calls in every tau-th of its steps, before its gradient step:

        d = alpha (x_i - x~);   x~ <- x~ + d;   and the worker sets x_i <- x_i - eta g_i(x_i) - d

    where g_i is the gradient at the old x_i. The centre computes d itself and answers with it, so nothing
    comes between reading and moving x~; the authors' program reads and moves it in two messages, and others
    may come in between. The delay of a call is the number of calls since the same worker's last one.

    Source: Zhang, Choromanska and LeCun 2015, "Deep learning with Elastic Averaging SGD" (arXiv:1412.6651),
    algorithm 1 and the authors' program (sixin-zh/mpiT). See also `elastic_difference`.

    Args:
        centre: The parameters x~, changed in place.
        alpha: Moving rate, in [0, 1]; beta / p for p workers.

    Raises:
        ValueError: If alpha is out of range.

    Example:
        >>> import torch
        >>> server = ElasticServer([torch.tensor([1.0])], alpha=0.25)
        >>> server.exchange(0, [torch.tensor([3.0])])
        [tensor([0.5000])]
        >>> server.centre
        [tensor([1.5000])]
    """

    def __init__(self, centre: Sequence[Tensor], alpha: float) -> None:
        check_range("ElasticServer", "[0, 1]", alpha=alpha)
        self.centre = list(centre)
        """The parameters x~."""
        self.alpha = alpha
        self.updates = 0
        """Number of calls so far."""
        self.delays = Delays()
        """The delays that they had; a worker's first call has none."""
        self._last: dict[int, int] = {}

    def exchange(self, worker: int, parameters: Sequence[Tensor]) -> list[Tensor]:
        """Move the centre towards a worker.

        Args:
            worker: The worker's number.
            parameters: Its parameters x_i, from before its gradient step.

        Returns:
            d, which the worker subtracts after its gradient step (`pull_worker`).
        """
        difference = elastic_difference(parameters, self.centre, self.alpha)
        pull_centre(self.centre, difference)
        if worker in self._last:
            self.delays.add(self.updates - self._last[worker])
        self.updates += 1
        self._last[worker] = self.updates
        return difference
