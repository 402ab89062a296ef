"""How long workers compute and messages travel, in a simulation: random, and repeatable by a seed."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lightning_optreg._checks import check_choice, check_range

__all__ = ["Clocks", "Distribution", "Interconnect", "Latencies", "StepTimes", "all_reduce_bytes", "factors"]

Distribution = Literal["constant", "lognormal", "exponential"]

_BLOCK = 64  # steps whose times are drawn together


def factors(
    distribution: Distribution, sigma: float, shape: tuple[int, ...], generator: torch.Generator
) -> Tensor:
    """Draw positive factors of mean 1, in float64.

    Args:
        distribution: "constant" (all 1), "lognormal" (exp(sigma z - sigma^2 / 2), z standard normal) or
            "exponential".
        sigma: Spread of the lognormal factors, >= 0; the others don't use it.
        shape: Shape of the result.
        generator: Source of randomness.

    Example:
        >>> factors("constant", 0.0, (3,), torch.Generator())
        tensor([1., 1., 1.], dtype=torch.float64)
    """
    if distribution == "exponential":
        return torch.empty(shape, dtype=torch.float64).exponential_(generator=generator)
    if distribution == "lognormal":
        z = torch.randn(shape, generator=generator, dtype=torch.float64)
        return torch.exp(sigma * z - sigma * sigma / 2)
    return torch.ones(shape, dtype=torch.float64)


@dataclass(frozen=True)
class StepTimes:
    """How long a worker computes in a step, forward and backward on a batch: s_i mean X.

    X is drawn for each step of each worker and has mean 1. s_i is the worker's own: `slowdown` for the
    stragglers, 1 for the others.

    Args:
        mean: Mean time of a step of a worker that is no straggler, in seconds, above 0. Default: 0.01.
        distribution: Of X: "constant", "lognormal" or "exponential". Default: constant.
        sigma: Spread of lognormal X, at least 0: log X has this standard deviation. Default: 0.25.
        stragglers: Share of the workers that are slow in all their steps, in [0, 1]; which ones, the seed
            decides. Default: 0.
        slowdown: How many times slower stragglers are, at least 1. Default: 5.

    Raises:
        ValueError: If a value is out of range.

    Example:
        >>> Clocks(StepTimes(0.5), workers=2, seed=0).time(1, 7)
        0.5
    """

    mean: float = 0.01
    distribution: Distribution = "constant"
    sigma: float = 0.25
    stragglers: float = 0.0
    slowdown: float = 5.0

    def __post_init__(self) -> None:
        check_range("StepTimes", "(0, inf)", mean=self.mean)
        check_choice("StepTimes", ("constant", "lognormal", "exponential"), distribution=self.distribution)
        check_range("StepTimes", "[0, inf)", sigma=self.sigma)
        check_range("StepTimes", "[0, 1]", stragglers=self.stragglers)
        check_range("StepTimes", "[1, inf)", slowdown=self.slowdown)


class Clocks:
    """The times of all steps of all workers, the same in whatever order they are asked for.

    Args:
        times: Their distribution.
        workers: Number of workers, at least 1.
        seed: Seed of the draws, at least 0.

    Example:
        >>> clocks = Clocks(StepTimes(1.0, "exponential"), workers=3, seed=0)
        >>> later = clocks.row(100)
        >>> clocks.time(2, 100) == later[2].item()
        True
    """

    def __init__(self, times: StepTimes, workers: int, seed: int) -> None:
        self._times, self._workers, self._seed = times, workers, seed
        self._blocks: dict[int, Tensor] = {}
        slow = torch.randperm(workers, generator=_generator(seed, 0))[: round(times.stragglers * workers)]
        self._own = torch.full((workers,), times.mean, dtype=torch.float64)
        self._own[slow] *= times.slowdown

    def row(self, step: int) -> Tensor:
        """Return the times of a step of all workers, in seconds: float64 (workers,)."""
        block, place = divmod(step, _BLOCK)
        if block not in self._blocks:
            shape = (_BLOCK, self._workers)
            drawn = factors(
                self._times.distribution, self._times.sigma, shape, _generator(self._seed, 1 + block)
            )
            self._blocks[block] = self._own * drawn
        return self._blocks[block][place]

    def time(self, worker: int, step: int) -> float:
        """Return the time of a step of one worker, in seconds."""
        return self.row(step)[worker].item()


@dataclass(frozen=True)
class Interconnect:
    """The network between workers, and between workers and servers.

    A message of B bytes arrives after its delay and B / bandwidth. Every machine has one port each way, and
    messages to or from the same port follow one another. Synchronous methods sum B bytes over N workers by
    recursive halving and doubling (Thakur, Rabenseifner and Gropp 2005, "Optimization of collective
    communication operations in MPICH"): 2 ceil(log2 N) delays and 2 (N - 1) / N B / bandwidth; each worker
    sends 2 (N - 1) / N B.

    Args:
        latency: Mean delay of a message, in seconds, at least 0. Default: 0.0001.
        bandwidth: Of each port, in bytes per second, above 0; `math.inf` for no limit. Default: 1.25e9, that
            is 10 Gbit/s.
        distribution: Of the delay: "constant", "lognormal" or "exponential". Default: constant.
        sigma: Spread of lognormal delays, at least 0, see `StepTimes`. Default: 0.25.
        shards: Number of servers among which the parameters are dealt out, where there are servers, at
            least 1. Default: 1.

    Raises:
        ValueError: If a value is out of range.

    Example:
        >>> wires = Interconnect(latency=0.001, bandwidth=1000.0)
        >>> Latencies(wires, seed=0).all_reduce(size=100, workers=4)  # 4 delays, 150 bytes
        0.154
    """

    latency: float = 1e-4
    bandwidth: float = 1.25e9
    distribution: Distribution = "constant"
    sigma: float = 0.25
    shards: int = 1

    def __post_init__(self) -> None:
        check_range("Interconnect", "[0, inf)", latency=self.latency, sigma=self.sigma)
        if not self.bandwidth > 0.0:  # infinity is allowed
            raise ValueError(f"Interconnect: bandwidth must be > 0, got {self.bandwidth}")
        check_choice("Interconnect", ("constant", "lognormal", "exponential"), distribution=self.distribution)
        check_range("Interconnect", ">= 1", shards=self.shards)


class Latencies:
    """The delays of messages, drawn one after the other.

    Args:
        wires: Their distribution.
        seed: Seed of the draws, at least 0.

    Example:
        >>> Latencies(Interconnect(latency=0.5), seed=0).message()
        0.5
    """

    def __init__(self, wires: Interconnect, seed: int) -> None:
        self._wires = wires
        self._generator = _generator(seed, -1)

    def message(self) -> float:
        """Return the delay of the next message, in seconds."""
        if self._wires.distribution == "constant":
            return self._wires.latency
        return self._wires.latency * self._factors((1,)).item()

    def all_reduce(self, size: int, workers: int) -> float:
        """Return how long it takes to sum tensors over the workers; each stage waits for its last message.

        Args:
            size: Size of the tensors, in bytes.
            workers: Number of workers, at least 1.
        """
        stages = 2 * math.ceil(math.log2(workers))
        delay = self._wires.latency * self._factors((stages, workers)).amax(dim=1).sum().item()
        return delay + all_reduce_bytes(size, workers) / workers / self._wires.bandwidth

    def _factors(self, shape: tuple[int, ...]) -> Tensor:
        return factors(self._wires.distribution, self._wires.sigma, shape, self._generator)


def all_reduce_bytes(size: int, workers: int) -> int:
    """What all workers together send to sum tensors of `size` bytes: 2 (N - 1) size."""
    return 2 * (workers - 1) * size


def _generator(seed: int, part: int) -> torch.Generator:
    """An own stream of random numbers for each part; 2^20 of them don't meet those of the next seed."""
    return torch.Generator().manual_seed((seed << 20) + part + 1)
