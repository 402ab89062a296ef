"""The methods that can be simulated, with their settings; each is a strategy too."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor
from torch.optim import Optimizer

from lightning_optreg._checks import check_range

__all__ = [
    "MakeOptimizer",
    "ParallelMethod",
    "SimulatedDDP",
    "SimulatedDownpour",
    "SimulatedElasticAveraging",
    "SimulatedHogwild",
    "SimulatedLocalSGD",
]

MakeOptimizer = Callable[[list[Tensor]], Optimizer]


class ParallelMethod:
    """Base of the methods.

    Example:
        >>> issubclass(SimulatedDDP, ParallelMethod)
        True
    """


@dataclass(frozen=True)
class SimulatedDDP(ParallelMethod):
    """Synchronous SGD, as under Lightning's `ddp`: in every step all workers wait for their mean gradient.

    Here it is sent after the backward pass; torch begins during the backward pass if the network is large.

    Example:
        >>> SimulatedDDP()
        SimulatedDDP()
    """


@dataclass(frozen=True)
class SimulatedHogwild(ParallelMethod):
    """Hogwild: the workers of one machine update parameters in shared memory and wait for nobody.

    A worker reads all parameters at the moment its step begins and its update happens at the moment the step
    ends, with the delay that it then has (see `late_step`). Real workers read and write meanwhile too.
    Nothing is sent. Niu, Recht, Re and Wright 2011, "HOGWILD!: A lock-free approach to parallelizing
    stochastic gradient descent" (arXiv:1106.5730).

    Args:
        shared_state: Whether the workers share the optimizer's state too, such as momentum; otherwise each
            has its own. Default: False.

    Raises:
        TypeError: If `shared_state` is neither True nor False.

    Example:
        >>> SimulatedHogwild(shared_state=True)
        SimulatedHogwild(shared_state=True)
    """

    shared_state: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.shared_state, bool):
            raise TypeError(
                f"SimulatedHogwild: shared_state must be True or False, got {self.shared_state!r}"
            )


@dataclass(frozen=True)
class SimulatedDownpour(ParallelMethod):
    """Downpour: workers push gradients to a server with the optimizer, and fetch its parameters.

    Dean et al. 2012, "Large scale distributed deep networks"; see `DownpourWorker` and `DownpourServer`. A
    worker does not wait for what it pushes, but for what it fetches. What is left at the end is pushed.

    Args:
        n_push: Steps between two pushes of the sum of the gradients since the last one, at least 1.
            Default: 1.
        n_fetch: Steps between two fetches, at least 1. Default: 1.

    Raises:
        ValueError: If a value is out of range.

    Example:
        >>> SimulatedDownpour(n_fetch=5).n_push
        1
    """

    n_push: int = 1
    n_fetch: int = 1

    def __post_init__(self) -> None:
        check_range("SimulatedDownpour", ">= 1", n_push=self.n_push, n_fetch=self.n_fetch)


@dataclass(frozen=True)
class SimulatedElasticAveraging(ParallelMethod):
    """EASGD: every `period` steps, springs pull each worker and a centre towards each other.

    Zhang, Choromanska and LeCun 2015, "Deep learning with Elastic Averaging SGD" (arXiv:1412.6651); see
    `elastic_difference`. The first time is before the first step. If all workers meet, what they sum is
    sent while they compute that step. Measured is the centre.

    Args:
        period: tau, steps between two pulls, at least 1. Default: 10.
        beta: N alpha, in [0, 1], for N workers and a moving rate alpha. Default: 0.9.
        asynchronous: Whether the centre is on a server that each worker calls by itself (`ElasticServer`),
            which waits for the answer before its step; otherwise all workers meet. Default: False.

    Raises:
        ValueError: If a value is out of range.

    Example:
        >>> SimulatedElasticAveraging(period=4).beta
        0.9
    """

    period: int = 10
    beta: float = 0.9
    asynchronous: bool = False

    def __post_init__(self) -> None:
        check_range("SimulatedElasticAveraging", ">= 1", period=self.period)
        check_range("SimulatedElasticAveraging", "[0, 1]", beta=self.beta)


@dataclass(frozen=True)
class SimulatedLocalSGD(ParallelMethod):
    """Local SGD and DiLoCo: after `period` steps of their own the workers start again from a common point.

    Stich 2018 (arXiv:1805.09767); Douillard et al. 2023 (arXiv:2311.08105); see `outer_step`. Measured is
    the common point; if the last steps are fewer than `period`, without an outer optimizer the mean of the
    workers at the end, with one the last common point.

    Args:
        period: tau, steps between two meetings, at least 1. Default: 10.
        make_outer: Makes the outer optimizer of the common point; None takes the mean of the workers.

    Raises:
        ValueError: If a value is out of range.

    Example:
        >>> import torch
        >>> diloco = SimulatedLocalSGD(
        ...     50, lambda params: torch.optim.SGD(params, lr=0.7, momentum=0.9, nesterov=True)
        ... )
        >>> diloco.period
        50
    """

    period: int = 10
    make_outer: MakeOptimizer | None = None

    def __post_init__(self) -> None:
        check_range("SimulatedLocalSGD", ">= 1", period=self.period)
