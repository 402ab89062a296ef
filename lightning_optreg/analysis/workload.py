"""What simulated workers train: a module on tensors, and its gradients for one worker or for many at once."""

import copy
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from lightning_optreg._checks import check_range

__all__ = ["Workload", "sparse_logistic_regression"]

_TOGETHER = 64  # workers whose gradients are computed in one piece: more only need more memory
_EVALUATED = 2500  # examples at a time


class Workload:
    """A module, its loss and its data, which simulated workers share.

    Batch k is the same for all methods and numbers of workers: every epoch is a new permutation of the
    examples, cut into batches; what is left at its end is dropped.

    Args:
        module: A module whose parameters all need gradients, without buffers and without randomness. Its
            parameters are the start; they are not changed.
        loss: Function of the module's output and the targets of a batch; their mean loss.
        training: Inputs (n, ...) and targets (n,).
        evaluation: Inputs and targets on which loss and accuracy are measured. Scores (n, K) with int64
            targets are right where the largest is the target's, scores (n,) with targets 0 and 1 where
            their sign is.

    Raises:
        ValueError: If the module has buffers, no parameters or randomness, or lengths differ.

    Example:
        >>> x, y = torch.tensor([[1.0], [2.0]]), torch.tensor([1.0, 0.0])
        >>> net = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Flatten(0))
        >>> _ = nn.init.zeros_(net[0].weight)
        >>> task = Workload(net, nn.BCEWithLogitsLoss(), (x, y), (x, y))
        >>> task.gradient(task.start(), torch.tensor([0, 1]))  # mean of (1/2 - y) x
        [tensor([[0.2500]])]
    """

    def __init__(
        self,
        module: nn.Module,
        loss: Callable[[Tensor, Tensor], Tensor],
        training: tuple[Tensor, Tensor],
        evaluation: tuple[Tensor, Tensor],
    ) -> None:
        module = copy.deepcopy(module)
        named = dict(module.named_parameters())
        if buffers := [name for name, _ in module.named_buffers()]:
            raise ValueError(f"Workload: module must have no buffers, has {', '.join(buffers)}")
        if not named:
            raise ValueError("Workload: module must have parameters")
        for name, (x, y) in (("training", training), ("evaluation", evaluation)):
            if not len(x) == len(y) >= 1:
                raise ValueError(
                    f"Workload: {name} must be as many inputs as targets, got {len(x)}, {len(y)}"
                )
        self._module, self._loss, self._names = module, loss, list(named)
        self._own = list(named.values())
        self._values = [parameter.detach().clone() for parameter in named.values()]
        self._x, self._y = training
        self._evaluation = evaluation
        self._orders: dict[int, Tensor] = {}

        def value(parameters: tuple[Tensor, ...], x: Tensor, y: Tensor) -> Tensor:
            named = dict(zip(self._names, parameters, strict=True))
            return self._loss(functional_call(self._module, named, (x,)), y)

        self._value = value
        self._many = vmap(grad(value), randomness="error", chunk_size=_TOGETHER)
        try:
            self.stacked_gradients(
                [v.unsqueeze(0) for v in self._values], torch.zeros(1, 1, dtype=torch.long)
            )
        except RuntimeError as error:  # of vmap
            raise ValueError(
                f"Workload: module must be without randomness, and vmap must take it: {error}"
            ) from error

    def start(self) -> list[Tensor]:
        """Return a new copy of the parameters at the start."""
        return [value.clone() for value in self._values]

    @property
    def bytes(self) -> int:
        """Size of the parameters, or of a gradient."""
        return sum(value.nbytes for value in self._values)

    @property
    def examples(self) -> int:
        """Number of training examples."""
        return len(self._y)

    def batch(self, number: int, size: int, seed: int) -> Tensor:
        """Return which examples are in a batch.

        Args:
            number: Number of the batch since the start, counted from 0.
            size: Examples of a batch, in [1, n].
            seed: Seed of the permutations.

        Returns:
            int64 (size,).
        """
        epoch, place = divmod(number, self.examples // size)
        if epoch not in self._orders:
            if len(self._orders) > 1:  # simulated workers are in one epoch, or between two
                del self._orders[min(self._orders)]
            generator = torch.Generator().manual_seed((seed << 20) + epoch)
            self._orders[epoch] = torch.randperm(self.examples, generator=generator)
        return self._orders[epoch][place * size : (place + 1) * size]

    def gradient(self, parameters: Sequence[Tensor], batch: Tensor) -> list[Tensor]:
        """Return the gradient of the mean loss over a batch, as an ordinary backward pass gives it."""
        for own, parameter in zip(self._own, parameters, strict=True):
            own.data = parameter.detach()  # functional_call takes as long as the rest together
        x, y = self._x.index_select(0, batch), self._y.index_select(0, batch)
        with torch.enable_grad():
            value = self._loss(self._module(x), y)
        return list(torch.autograd.grad(value, self._own))

    def stacked_gradients(self, parameters: Sequence[Tensor], batches: Tensor) -> list[Tensor]:
        """Return the gradients of many workers at once; they differ from `gradient` by rounding.

        Args:
            parameters: Those of N workers, stacked: each (N, ...).
            batches: int64 (N, size).

        Returns:
            Tensors of the same shapes.
        """
        x, y = (
            values.index_select(0, batches.flatten()).reshape(*batches.shape, *values.shape[1:])
            for values in (self._x, self._y)
        )
        return list(self._many(tuple(p.detach() for p in parameters), x, y))

    def gradients(
        self, parameters: Sequence[Sequence[Tensor]], batches: Sequence[Tensor]
    ) -> list[list[Tensor]]:
        """Return the gradients of several workers; of more than one all at once.

        Args:
            parameters: Those of each worker.
            batches: The batch of each.
        """
        if len(batches) == 1:
            return [self.gradient(parameters[0], batches[0])]
        found: list[list[Tensor]] = []
        for begin in range(0, len(batches), _TOGETHER):
            part = slice(begin, begin + _TOGETHER)
            stacked = [torch.stack(values) for values in zip(*parameters[part], strict=True)]
            gradients = self.stacked_gradients(stacked, torch.stack(list(batches[part])))
            found += map(list, zip(*(gradient.unbind() for gradient in gradients), strict=True))
        return found

    @torch.no_grad()
    def evaluate(self, parameters: Sequence[Tensor]) -> tuple[float, float]:
        """Return mean loss and accuracy, from 0 to 1, on the data for evaluation."""
        x, y = self._evaluation
        loss, right = 0.0, 0
        for begin, end in pairwise([*range(0, len(y), _EVALUATED), len(y)]):
            scores = functional_call(
                self._module, dict(zip(self._names, parameters, strict=True)), (x[begin:end],)
            )
            targets = y[begin:end]
            loss += self._loss(scores, targets).item() * (end - begin)
            guess = scores.argmax(dim=1) == targets if scores.ndim == 2 else (scores > 0) == (targets > 0.5)
            right += int(guess.sum())
        return loss / len(y), right / len(y)


class _SparseLinear(nn.Module):
    """Scores sum_j w[x_ij] of examples that are lists of the features they have."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(features))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight[x].sum(dim=-1)


def sparse_logistic_regression(
    examples: int = 20_000, features: int = 10_000, non_zeros: int = 20, seed: int = 0
) -> Workload:
    """Make a logistic regression on sparse binary features, as in text: few are common, most are rare.

    Feature numbers are floor(features u^3), u uniform on [0, 1); an example has label 1 with probability
    sigmoid(2 s), where s is the sum of its features' true weights, standard normal and divided by the root
    of `non_zeros`. A fifth as many examples more are for evaluation.

    Args:
        examples: Number of training examples, at least 1. Default: 20,000.
        features: Number of weights, at least 1. Default: 10,000.
        non_zeros: Features of each example, at least 1. Default: 20.
        seed: Seed of the data, at least 0. Default: 0.

    Returns:
        The workload, whose weights start at zero. Simulated gradients are dense.

    Raises:
        ValueError: If a number is out of range.

    Example:
        >>> task = sparse_logistic_regression(100, 50, 5)
        >>> task.bytes, round(task.evaluate(task.start())[0], 4)  # ln 2
        (200, 0.6931)
    """
    check_range(
        "sparse_logistic_regression", ">= 1", examples=examples, features=features, non_zeros=non_zeros
    )
    generator = torch.Generator().manual_seed(seed)
    total = examples + (examples + 4) // 5
    truth = torch.randn(features, generator=generator)
    x = (torch.rand(total, non_zeros, generator=generator) ** 3 * features).long()
    scores = 2 * truth[x].sum(dim=1) / non_zeros**0.5
    y = (torch.rand(total, generator=generator) < scores.sigmoid()).float()
    loss = nn.BCEWithLogitsLoss()
    return Workload(_SparseLinear(features), loss, (x[:examples], y[:examples]), (x[examples:], y[examples:]))
