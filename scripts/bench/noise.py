"""What EnResNet's noise costs in a training step, drawn and differentiated in several ways, in one run.

    python scripts/bench/noise.py
    python scripts/bench/noise.py --threads 2 --only layer ring --rounds 25
    python scripts/bench/noise.py --layout channels_last
    python scripts/bench/noise.py --alone               # the noise of nine blocks without the network
    python scripts/bench/noise.py --cpu_time            # on a machine that is busy otherwise

ResNet-20 with y + 0.1 std(y) z after each block, std over each image; forward, backward and Adam's step. All
ways take turns. Printed are the median time of a step, the median over the rounds of its ratio to the same
round's step without noise, and what is left of the extra cost of `autograd`. The ways:

    autograd       drawn by normal_ in the layout of x, and std(x) differentiated by autograd
    layer          this package's: drawn by normal_ in contiguous memory, with a gradient in few passes
    gradient       `layer`, drawn as in `autograd`
    bf16           `layer`, drawn in bfloat16
    exponential    `layer`, Box and Muller's transform of torch's exponential and uniform numbers
    numpy          `layer`, drawn by numpy's SFC64 with the ziggurat method
    two threads    `layer`, each half of a tensor drawn by a generator of its own, in two Python threads

and ways whose noise is not independent N(0, 1):

    bytes          quantiles of N(0, 1) looked up by random bytes: 256 values, none above 2.9
    sum            of four uniform bytes, scaled: none above 3.5, kurtosis 2.7 instead of 3
    shared         blocks of the same shape have the same noise in a step
    ring           slices at random offsets of 2^22 numbers that are drawn once, for a tensor at a time
"""

import argparse
import math
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_optreg import nets
from lightning_optreg.callbacks.evaluation.noisy_ensemble import residual_blocks
from lightning_optreg.layers.gaussian_noise import add_relative_noise, normal_like, relative_std
from lightning_optreg.runs.memory import keep_freed_memory

NOISE = 0.1
RING = 2**22
Draw = Callable[[Tensor], Tensor]


def as_laid_out(x: Tensor) -> Tensor:
    return torch.empty_like(x).normal_(generator=GENERATOR)


def normal(x: Tensor) -> Tensor:
    return normal_like(x, GENERATOR)


def bf16(x: Tensor) -> Tensor:
    return torch.empty_like(x, dtype=torch.bfloat16).normal_(generator=GENERATOR).to(x.dtype)


def exponential(x: Tensor) -> Tensor:
    half = x.numel() // 2
    radius = torch.empty(half).exponential_(0.5, generator=GENERATOR).sqrt_()
    angle = torch.rand(half, generator=GENERATOR).mul_(2 * math.pi)
    return shaped(torch.cat((radius * angle.cos(), radius * angle.sin())), x)


def numpy(x: Tensor) -> Tensor:
    z = torch.empty_like(x)
    BIT_GENERATOR.standard_normal(out=flat(z).numpy(), dtype=np.float32)
    return z


def two_threads(x: Tensor) -> Tensor:
    z = torch.empty_like(x)
    halves = flat(z).chunk(2)
    list(POOL.map(lambda half, generator: half.normal_(generator=generator), halves, GENERATORS))
    return z


def some_bytes(count: int) -> Tensor:
    return (
        torch.empty(-(-count // 8), dtype=torch.int64).random_(generator=GENERATOR).view(torch.uint8)[:count]
    )


def table(x: Tensor) -> Tensor:
    return shaped(QUANTILES.index_select(0, some_bytes(x.numel()).int()), x)


def summed(x: Tensor) -> Tensor:
    four = some_bytes(4 * x.numel()).view(4, -1).sum(0, dtype=torch.float32)
    return shaped(four.sub_(510.0).mul_(1 / math.sqrt((256**2 - 1) / 3)), x)


class Shared:
    """One draw for all blocks with activations of the same shape, until the next step."""

    def __init__(self) -> None:
        self.drawn: dict[torch.Size, Tensor] = {}

    def __call__(self, x: Tensor) -> Tensor:
        if x.shape not in self.drawn:
            self.drawn[x.shape] = normal(x)
        return self.drawn[x.shape]


def ring(x: Tensor) -> Tensor:
    offset = int(torch.randint(RING - x.numel() + 1, (), generator=GENERATOR))
    return shaped(POOLED[offset : offset + x.numel()], x)


def flat(z: Tensor) -> Tensor:
    """All numbers of a tensor in the order of its memory."""
    return z.as_strided((z.numel(),), (1,))


def shaped(z: Tensor, like: Tensor) -> Tensor:
    """Numbers as a tensor with the shape and layout of another."""
    return z.as_strided(like.shape, torch.empty_like(like).stride(), z.storage_offset())


def by_autograd(x: Tensor) -> Tensor:
    return x.addcmul(as_laid_out(x), NOISE * relative_std(x, "image"))


def by_layer(draw: Draw) -> Draw:
    return lambda x: add_relative_noise(x, draw(x), NOISE, "image")[0]


GENERATOR = torch.Generator().manual_seed(0)
GENERATORS = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
BIT_GENERATOR = np.random.Generator(np.random.SFC64(0))
SHARED = Shared()
POOL = ThreadPoolExecutor(2)
POOLED = torch.randn(RING, generator=GENERATOR)
QUANTILES = torch.special.ndtri((torch.arange(256.0) + 0.5) / 256)
QUANTILES /= QUANTILES.std(correction=0)
WAYS: dict[str, Draw | None] = {
    "no noise": None,
    "autograd": by_autograd,
    "layer": by_layer(normal),
    "gradient": by_layer(as_laid_out),
    "bf16": by_layer(bf16),
    "exponential": by_layer(exponential),
    "numpy": by_layer(numpy),
    "two threads": by_layer(two_threads),
    "bytes": by_layer(table),
    "sum": by_layer(summed),
    "shared": by_layer(SHARED),
    "ring": by_layer(ring),
}


class Network:
    """A step of ResNet-20 on one batch, with noise after each block."""

    def __init__(self, batch: int, layout: torch.memory_format) -> None:
        self.net = nets.ResNet(10, (3, 32, 32), depth=20).to(memory_format=layout)
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=1e-4)
        self.images = torch.randn(batch, 3, 32, 32).to(memory_format=layout)
        self.labels = torch.randint(0, 10, (batch,))
        self.way: Draw | None = None
        for block in residual_blocks(self.net).values():
            block.register_forward_hook(self.add)

    def add(self, block: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return output if self.way is None else self.way(output)

    def step(self, way: Draw | None) -> None:
        self.way = way
        self.optimizer.zero_grad()
        F.cross_entropy(self.net(self.images), self.labels).backward()
        self.optimizer.step()


class Blocks:
    """Activations like those after the nine blocks of ResNet-20, and their gradients."""

    def __init__(self, batch: int, layout: torch.memory_format) -> None:
        shapes = [(batch, 16, 32, 32), (batch, 32, 16, 16), (batch, 64, 8, 8)]
        self.activations = [
            torch.randn(shape).to(memory_format=layout).requires_grad_() for shape in shapes for _ in range(3)
        ]
        self.gradients = [torch.randn_like(x) for x in self.activations]

    def step(self, way: Draw | None) -> None:
        for x, gradient in zip(self.activations, self.gradients, strict=True):
            x.grad = None
            if way is not None:
                way(x).backward(gradient)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(WAYS)[2:], default=list(WAYS)[2:])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--alone", action="store_true", help="measure the noise without the network")
    parser.add_argument("--cpu_time", action="store_true", help="measure the process's CPU time instead")
    parser.add_argument("--layout", choices=["contiguous", "channels_last"], default="contiguous")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    keep_freed_memory()
    torch.manual_seed(0)
    layout = torch.channels_last if args.layout == "channels_last" else torch.contiguous_format
    setting = f"batch {args.batch}, {args.layout}, {args.threads} threads, {args.rounds} rounds"
    clock = time.process_time if args.cpu_time else time.perf_counter
    network = (Blocks if args.alone else Network)(args.batch, layout)

    def seconds(way: Draw | None) -> float:
        SHARED.drawn.clear()
        start = clock()
        network.step(way)
        return clock() - start

    names = ["no noise", "autograd", *args.only]
    times: dict[str, list[float]] = {name: [] for name in names}
    for index in range(args.rounds + 1):
        for name in names if index % 2 else names[::-1]:
            times[name].append(seconds(WAYS[name]))
    times = {name: taken[1:] for name, taken in times.items()}  # the first warms up
    print(f"{'CPU time' if args.cpu_time else 'time'} of ResNet-20, {setting}")
    if args.alone:
        print(f"{'':14}{'noise, ms':>10}{'to autograd':>13}{'quartiles':>16}")
    else:
        print(f"{'':14}{'step, ms':>10}{'ratio':>8}{'quartiles':>16}{'of the extra':>14}")
    base = times["autograd" if args.alone else "no noise"]
    reference = statistics.median(ratios(times["autograd"], base)) - 1
    for name in names[1:] if args.alone else names:
        all_ = ratios(times[name], base)
        middle, quartiles = (
            statistics.median(all_),
            f"{all_[len(all_) // 4]:.3f} - {all_[-1 - len(all_) // 4]:.3f}",
        )
        share = "" if args.alone or name == "no noise" else f"{(middle - 1) / reference:14.2f}"
        milliseconds = 1e3 * statistics.median(times[name])
        print(
            f"{name:14}{milliseconds:10.1f}{middle:{13 if args.alone else 8}.3f}{quartiles:>16}{share}",
            flush=True,
        )


def ratios(times: list[float], base: list[float]) -> list[float]:
    """Ratios of neighbours in time, in increasing order."""
    return sorted(a / b for a, b in zip(times, base, strict=True))


if __name__ == "__main__":
    main()
