"""Members of EnResNet in three ways, side by side in one run: loop, vmap, grouped convolutions.

    python scripts/bench/en_resnet.py                  # ResNet-20, 2 and 3 members, batch 128, 32 x 32 x 3

loop      one member after the other, as `EnResNet.forward` has it
vmap      `torch.func.stack_module_state` and `vmap`: the members as one batched computation
grouped   one network as wide as all members, whose convolutions have a group for each

Timed are forward and backward. All take turns, and a round's ratio compares neighbours in time, so it holds
on a machine whose speed drifts. Printed are medians over the rounds.
"""

import argparse
import copy
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call, stack_module_state, vmap

from lightning_optreg.nets import EnResNet
from lightning_optreg.runs.memory import keep_freed_memory


def vmapped(net: EnResNet) -> tuple[Callable[[Tensor], Tensor], list[Tensor]]:
    """The mean score with all members in one call, and its parameters."""
    stacked, buffers = stack_module_state(list(net.members))
    parameters = {name: value.detach().requires_grad_() for name, value in stacked.items()}
    member = copy.deepcopy(net.members[0]).to("meta")

    def scores(x: Tensor) -> Tensor:
        def one(parameters: dict[str, Tensor], buffers: dict[str, Tensor]) -> Tensor:
            return functional_call(member, (parameters, buffers), (x,))

        return vmap(one, randomness="different")(parameters, buffers).mean(0)

    return scores, list(parameters.values())


def grouped(net: EnResNet, noise: float = 0.1) -> tuple[Callable[[Tensor], Tensor], list[Tensor]]:
    """The mean score of one wide network with a group a member, and its parameters."""
    members, n = list(net.members), len(net.members)

    def joined(name: str, value: Tensor) -> Tensor:
        if value.dim() == 0:
            return value
        return torch.cat([member.state_dict()[name] for member in members])

    w = {name: joined(name, value) for name, value in members[0].state_dict().items()}
    parameters = [w[name].requires_grad_() for name, _ in members[0].named_parameters()]

    def activate(x: Tensor, name: str) -> Tensor:
        mean, var = w[f"{name}.running_mean"], w[f"{name}.running_var"]
        weight, bias = w[f"{name}.weight"], w[f"{name}.bias"]
        return F.relu(F.batch_norm(x, mean, var, weight, bias, training=True), inplace=True)

    def scores(x: Tensor) -> Tensor:
        x = F.conv2d(x, w["conv.weight"], padding=1)
        for stage in (1, 2, 3):
            for i in range(len(members[0].get_submodule(f"stage{stage}"))):
                name, stride = f"stage{stage}.{i}", 2 if stage > 1 and i == 0 else 1
                a = activate(x, f"{name}.bn1")
                y = F.conv2d(a, w[f"{name}.conv1.weight"], stride=stride, padding=1, groups=n)
                y = F.conv2d(activate(y, f"{name}.bn2"), w[f"{name}.conv2.weight"], padding=1, groups=n)
                y += F.conv2d(a, w[f"{name}.shortcut.weight"], stride=2, groups=n) if stride == 2 else x
                y = y.unflatten(1, (n, -1))
                std = y.std((2, 3, 4), keepdim=True)
                x = (y + noise * std * torch.randn_like(y)).flatten(1, 2)
        x = activate(x, "final_bn").mean((2, 3)).unflatten(1, (n, -1))
        weight, bias = (w[f"linear.{kind}"].unflatten(0, (n, -1)) for kind in ("weight", "bias"))
        return (torch.einsum("bnc,nkc->bnk", x, weight) + bias).mean(1)

    return scores, parameters


def main() -> None:
    parser = argparse.ArgumentParser(description="Members of EnResNet in three ways.")
    parser.add_argument("--members", type=int, nargs="+", default=[2, 3])
    parser.add_argument("--depth", type=int, default=20)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    images = torch.randn(options.batch, 3, 32, 32)
    labels = torch.randint(10, (options.batch,))
    print(f"{'layout':14} members  " + "".join(f"{way:>24}" for way in ("loop", "vmap", "grouped")))
    for layout in (torch.contiguous_format, torch.channels_last):
        for n in options.members:
            net = EnResNet(10, (3, 32, 32), depth=options.depth, members=n).to(memory_format=layout)
            ways = [(net, list(net.parameters())), vmapped(net), grouped(net)]
            seconds: list[list[float]] = [[] for _ in ways]
            for _ in range(options.rounds + 1):
                for way, taken in zip(ways, seconds, strict=True):
                    taken.append(step(*way, images.to(memory_format=layout), labels))
            cells = []
            for taken in seconds:  # the first round warms up
                ratio = statistics.median(a / b for a, b in zip(taken[1:], seconds[0][1:], strict=True))
                cells.append(f"{1000 * statistics.median(taken[1:]):14.0f} ms x {ratio:4.2f}")
            print(f"{str(layout).removeprefix('torch.'):17} {n:4d}  " + "".join(cells), flush=True)


def step(scores: Callable[[Tensor], Tensor], parameters: list[Tensor], x: Tensor, y: Tensor) -> float:
    """Seconds of one forward and backward pass."""
    for parameter in parameters:
        parameter.grad = None
    start = time.perf_counter()
    F.cross_entropy(scores(x), y).backward()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
