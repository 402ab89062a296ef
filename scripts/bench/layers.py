"""Each layer against its nearest relative in torch: forward + backward, side by side in one run.

    python scripts/bench/layers.py
    python scripts/bench/layers.py --only DropConnect LocalResponseNorm --rounds 15

The relative is the same computation by other means, or the nearest there is; the table names it. Both take
turns; printed are the median times and the median ratio of neighbours in time.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torchvision
from torch import Tensor, nn

from lightning_optreg import layers
from lightning_optreg.runs.memory import keep_freed_memory


class NoiseByStd(nn.Module):
    """EnResNet's noise as it is usually written."""

    def __init__(self, dims: tuple[int, ...]) -> None:
        super().__init__()
        self.dims = dims

    def forward(self, x: Tensor) -> Tensor:
        return x + 0.1 * x.std(self.dims, keepdim=True) * torch.randn_like(x)


def linear_relu() -> nn.Module:
    return nn.Sequential(nn.Linear(512, 512), nn.ReLU())


def pool(windows: str, regions: str = "random") -> Callable[[], nn.Module]:
    return lambda: layers.FractionalMaxPool(2**0.5, windows=windows, regions=regions)


def torch_pool(size: int) -> Callable[[], nn.Module]:
    return lambda: nn.FractionalMaxPool2d(size, output_ratio=2**-0.5)


BLOCK, IMAGES, HIDDEN = (128, 16, 32, 32), (32, 64, 32, 32), (64, 512)
# what it is: ours, the relative's name, the relative, shape of the input
PAIRS: dict[str, tuple[Callable[[], nn.Module], str, Callable[[], nn.Module], tuple[int, ...]]] = {
    "Dropout": (layers.Dropout, "torch's", nn.Dropout, BLOCK),
    "Dropout, vanilla": (lambda: layers.Dropout(form="vanilla"), "torch's", nn.Dropout, BLOCK),
    "DropConnect": (lambda: layers.DropConnect(512, 512), "Linear, ReLU", linear_relu, HIDDEN),
    "FractionalMaxPool": (pool("overlapping"), "torch's 3x3", torch_pool(3), IMAGES),
    "FractionalMaxPool, disjoint": (pool("disjoint"), "torch's 2x2", torch_pool(2), IMAGES),
    "FractionalMaxPool, 2x2": (pool("2x2"), "torch's 2x2", torch_pool(2), IMAGES),
    "FractionalMaxPool, 2x2, pseudorandom": (
        pool("2x2", "pseudorandom"),
        "torch's 2x2",
        torch_pool(2),
        IMAGES,
    ),
    "StochasticDepth, sample": (
        lambda: layers.StochasticDepth(0.5, mode="sample"),
        "torchvision's",
        lambda: torchvision.ops.StochasticDepth(0.5, "row"),
        BLOCK,
    ),
    "GaussianNoise, image": (
        lambda: layers.GaussianNoise(0.1, relative_to="image"),
        "x.std((1, 2, 3))",
        lambda: NoiseByStd((1, 2, 3)),
        BLOCK,
    ),
    "GaussianNoise, batch": (
        lambda: layers.GaussianNoise(0.1, relative_to="batch"),
        "x.std()",
        lambda: NoiseByStd((0, 1, 2, 3)),
        BLOCK,
    ),
    "LocalResponseNorm": (
        layers.LocalResponseNorm,
        "torch's",
        lambda: nn.LocalResponseNorm(5, 5e-4, 0.75, 2.0),
        (16, 96, 27, 27),
    ),
    "BatchNorm": (lambda: layers.BatchNorm(16), "torch's", lambda: nn.BatchNorm2d(16), BLOCK),
    "WhitenedConv2d": (
        lambda: layers.WhitenedConv2d(3),
        "Conv2d",
        lambda: nn.Conv2d(3, 24, 2),
        (128, 3, 32, 32),
    ),
}


def step(layer: nn.Module, x: Tensor, gradient: Tensor) -> float:
    """Seconds of one forward and backward pass."""
    layer.zero_grad()
    x.grad = None
    start = time.perf_counter()
    layer(x).backward(gradient)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PAIRS, default=list(PAIRS))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    keep_freed_memory()
    torch.manual_seed(0)
    print(f"{args.threads} threads, medians of {args.rounds} rounds")
    print(f"{'':38}{'against':>18}{'ours, ms':>10}{'theirs, ms':>12}{'ratio':>7}")
    for name in args.only:
        make_ours, relative, make_theirs, shape = PAIRS[name]
        pair = (make_ours(), make_theirs())
        x = torch.randn(shape, requires_grad=True)
        gradients = [torch.randn_like(layer(x)) for layer in pair]
        rounds = [
            [step(layer, x, gradient) for layer, gradient in zip(pair, gradients, strict=True)]
            for _ in range(args.rounds + 1)
        ][1:]  # the first warms up
        ours, theirs = (1000 * statistics.median(times) for times in zip(*rounds, strict=True))
        ratio = statistics.median(a / b for a, b in rounds)
        print(f"{name:38}{relative:>18}{ours:10.2f}{theirs:12.2f}{ratio:7.2f}", flush=True)


if __name__ == "__main__":
    main()
