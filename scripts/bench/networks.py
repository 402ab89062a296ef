"""Each network that torchvision has too: forward + backward, ours against theirs, side by side in one run.

    python scripts/bench/networks.py                       # 224 x 224 x 3, batch 8
    python scripts/bench/networks.py --only resnet18 vgg16 --rounds 9

Both have the same topology (as many parameters, checked) and work on the same images in training mode. They
take turns; printed are the median times of a step and the median ratio of neighbours in time.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torchvision
from torch import Tensor, nn

from lightning_optreg import nets
from lightning_optreg.runs.memory import keep_freed_memory

IMAGENET = (1000, (3, 224, 224))
TWINS: dict[str, tuple[Callable[[], nn.Module], Callable[[], nn.Module]]] = {
    "resnet18": (
        lambda: nets.ResNet(*IMAGENET, depth=18, form="imagenet"),
        lambda: torchvision.models.resnet18(weights=None),
    ),
    "resnet50": (
        lambda: nets.ResNet(*IMAGENET, depth=50, form="imagenet"),
        lambda: torchvision.models.resnet50(weights=None),
    ),
    "resnext50_32x4d": (
        lambda: nets.ResNeXt(*IMAGENET, depth=50, cardinality=32, width=4, form="imagenet"),
        lambda: torchvision.models.resnext50_32x4d(weights=None),
    ),
    "wide_resnet50_2": (
        lambda: nets.WideResNet(*IMAGENET, depth=50, widen_factor=2, form="imagenet"),
        lambda: torchvision.models.wide_resnet50_2(weights=None),
    ),
    "googlenet": (
        lambda: nets.GoogLeNet(*IMAGENET, form="torchvision", aux=False, dropout=0.2),
        lambda: torchvision.models.GoogLeNet(aux_logits=False, init_weights=False),
    ),
    "vgg11": (
        lambda: nets.VGG(*IMAGENET, depth=11),
        lambda: torchvision.models.vgg11(weights=None),
    ),
    "vgg16_bn": (
        lambda: nets.VGG(*IMAGENET, depth=16, batch_norm=True),
        lambda: torchvision.models.vgg16_bn(weights=None),
    ),
}


def step(net: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Seconds of one forward and backward pass."""
    net.zero_grad()
    start = time.perf_counter()
    nn.functional.cross_entropy(net(images), labels).backward()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=TWINS, default=list(TWINS))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch", type=int, default=8)
    args = parser.parse_args()
    keep_freed_memory()
    torch.manual_seed(0)
    images = torch.randn(args.batch, 3, 224, 224)
    labels = torch.randint(0, 1000, (args.batch,))
    print(f"batches of {args.batch}, {torch.get_num_threads()} threads, medians of {args.rounds} rounds")
    print(f"{'':18}{'ours, ms':>10}{'torchvision, ms':>18}{'ratio':>8}")
    for name in args.only:
        ours, theirs = (make() for make in TWINS[name])
        if _size(ours) != _size(theirs):
            raise SystemExit(f"{name}: {_size(ours)} parameters, torchvision has {_size(theirs)}")
        pairs = []
        for _ in range(args.rounds + 1):
            pairs.append((step(ours, images, labels), step(theirs, images, labels)))
        mine, others = zip(*pairs[1:], strict=True)  # the first is a warm-up
        ratio = statistics.median(one / other for one, other in pairs[1:])
        print(
            f"{name:18}{1e3 * statistics.median(mine):10.0f}{1e3 * statistics.median(others):18.0f}"
            f"{ratio:8.3f}",
            flush=True,
        )


def _size(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


if __name__ == "__main__":
    main()
