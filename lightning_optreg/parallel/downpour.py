"""Downpour SGD: workers push gradients to a server and fetch its parameters, without waiting for each other.

Dean et al. 2012, "Large Scale Distributed Deep Networks", NIPS (algorithm 7.1 of the supplement). theta are
the parameters of the server, w those of a worker, a the gradients that it has accrued, alpha its learning
rate; it counts its steps s = 1, 2, ...:

    worker:  g = gradient at w;   a <- a + g
             if n_push divides s:   push a;   a <- 0
             if n_fetch divides s:  w <- theta;   else  w <- w - alpha g
    server:  on each push theta <- one step of its optimizer with the gradient a (Adagrad in the paper)

The paper fetches at the beginning of a step, where the next fetch overwrites the worker's last local step; to
fetch at the end instead, and leave that local step out, is the same. It pushes first after one step, we after
`n_push`, so that each push holds `n_push` gradients. With one worker and n_push = n_fetch = 1 it makes
the steps of the server's optimizer, exactly.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim import Optimizer

from lightning_optreg._checks import check_range
from lightning_optreg.parallel.delays import Delays
from lightning_optreg.parallel.late_step import Read, late_step, note_read

__all__ = ["DownpourServer", "DownpourWorker"]


class DownpourServer:
    """The server of Downpour SGD, or one of several that have a part of the parameters each.

    It knows how many updates were made since each worker's last fetch, and gives this delay to delay-tolerant
    optimizers, see `late_step`. A worker's own pushes since its fetch count too: what it fetched lacks them.

    Args:
        optimizer: Any torch optimizer that needs no closure; its parameters are the server's.

    Example:
        >>> theta = torch.tensor([1.0])
        >>> server = DownpourServer(torch.optim.SGD([theta], lr=0.5))
        >>> for worker in (0, 1):
        ...     _ = server.fetch(worker)
        >>> server.push(0, [torch.tensor([1.0])]), server.push(1, [torch.tensor([1.0])])
        (0, 1)
        >>> server.fetch(0)
        [tensor([0.])]
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        self.parameters: list[Tensor] = [p for group in optimizer.param_groups for p in group["params"]]
        """The parameters, in the order of the optimizer's groups."""
        self.updates = 0
        """Number of updates so far."""
        self.delays = Delays()
        """The delays that they had."""
        self._reads: dict[int, Read] = {}

    def fetch(self, worker: int) -> list[Tensor]:
        """Return the parameters and note that a worker has read them.

        Args:
            worker: The worker's number.

        Returns:
            The server's own tensors, which the next push changes.
        """
        self._reads[worker] = note_read(self.optimizer, self.updates)
        return [parameter.detach() for parameter in self.parameters]

    def push(self, worker: int, gradients: Sequence[Tensor | None]) -> int:
        """Make one step with a worker's gradients.

        Args:
            worker: The worker's number; it has fetched before.
            gradients: One for each parameter, None for those that the step leaves alone.

        Returns:
            The delay: the number of updates since the worker's last fetch.

        Raises:
            KeyError: If the worker has not fetched.
        """
        read = self._reads[worker]
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient
        late_step(self.optimizer, read, self.updates)
        for parameter in self.parameters:
            parameter.grad = None
        delay = self.updates - read.updates
        self.delays.add(delay)
        self.updates += 1
        return delay


class DownpourWorker:
    """A worker of Downpour SGD: it accrues gradients, and makes steps of its own between fetches.

    Args:
        parameters: Its parameters w, changed in place.
        n_push: Push after so many steps, at least 1. Default: 1.
        n_fetch: Fetch after so many steps, at least 1. Default: 1.

    Raises:
        ValueError: If n_push or n_fetch is below 1.

    Example:
        >>> w = torch.tensor([1.0])
        >>> worker = DownpourWorker([w], n_push=2, n_fetch=2)
        >>> worker.step([torch.tensor([1.0])], [0.1])  # nothing to push, nothing to fetch: a local step
        (None, False)
        >>> w
        tensor([0.9000])
        >>> worker.step([torch.tensor([3.0])], [0.1])
        ([tensor([4.])], True)
    """

    def __init__(self, parameters: Sequence[Tensor], n_push: int = 1, n_fetch: int = 1) -> None:
        check_range("DownpourWorker", ">= 1", n_push=n_push, n_fetch=n_fetch)
        self.parameters = list(parameters)
        self.n_push, self.n_fetch = n_push, n_fetch
        self.steps = 0
        """Number of steps since the start or the last `flush`."""
        self._accrued: list[Tensor | None] = [None for _ in self.parameters]

    @torch.no_grad()
    def step(
        self, gradients: Sequence[Tensor | None], rates: Sequence[float | Tensor]
    ) -> tuple[list[Tensor | None] | None, bool]:
        """Take the gradients of a step, and make the local step if there is no fetch.

        Args:
            gradients: One for each parameter, None if it has none. With n_push = 1 they are returned as they
                are; otherwise they are copied.
            rates: Learning rate alpha of each parameter, for the local step.

        Returns:
            The gradients to push, None if there is nothing to push, and whether to fetch after the push. The
            caller copies what it fetches into `parameters`.
        """
        self.steps += 1
        pushed: list[Tensor | None] | None = None
        if self.n_push == 1:
            pushed = list(gradients)
        else:
            for i, gradient in enumerate(gradients):
                if gradient is not None:
                    before = self._accrued[i]
                    self._accrued[i] = gradient.clone() if before is None else before.add_(gradient)
            if self.steps % self.n_push == 0:
                pushed = self._take()
        if self.steps % self.n_fetch == 0:
            return pushed, True
        for parameter, gradient, rate in zip(self.parameters, gradients, rates, strict=True):
            if gradient is not None:
                parameter.sub_(rate * gradient)
        return pushed, False

    def flush(self) -> list[Tensor | None] | None:
        """Return what is accrued and not yet pushed, None if there is nothing, and begin to count anew."""
        self.steps = 0
        return self._take() if any(gradient is not None for gradient in self._accrued) else None

    def _take(self) -> list[Tensor | None]:
        accrued, self._accrued = self._accrued, [None for _ in self.parameters]
        return accrued
