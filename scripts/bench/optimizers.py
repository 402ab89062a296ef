"""Step time of each optimizer of ours against torch's `foreach` one with as many state tensors.

    python scripts/bench/optimizers.py                      # 11.7 M parameters in ResNet-18's shapes
    python scripts/bench/optimizers.py --only SWATS --rounds 31

Both step on the same gradients, taking turns; printed are the median times and the median ratio of neighbours
in time. At most 1.1 is wanted. Second-order methods, whose step is many gradients, are left out. AddSign and
PowerSign stand beside RMSprop, which like them computes a function of each element; SGD with momentum, also
of one state but of three operations, takes about 0.6 of their time. Lookahead stands beside the optimizer
that it is put around: the ratio is what the slow weights cost. FilterMuon, beside torch's Muon of matrices,
takes minutes on a CPU and is measured if --only names it.
"""

import argparse
import inspect
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torchvision
from torch import Tensor
from torch.optim import SGD, Adagrad, Adam, Adamax, Muon, NAdam, Optimizer, RMSprop

from lightning_optreg import optimizers
from lightning_optreg.runs.memory import keep_freed_memory


@dataclass(frozen=True)
class Pair:
    """An optimizer of ours and torch's beside it.

    Attributes:
        ours: Makes ours.
        torchs: Makes torch's.
        states: Tensors of a parameter's size that both keep.
        more: Those that ours keeps beyond.
        steps: Steps that are timed together, where they are not alike.
    """

    ours: Callable[[Any], Optimizer]
    torchs: Callable[[Any], Optimizer]
    states: int
    more: int = 0
    steps: int = 1


MOMENTUM = partial(SGD, lr=0.01, momentum=0.9, foreach=True)
NESTEROV = partial(SGD, lr=0.01, momentum=0.9, nesterov=True, foreach=True)
ADAGRAD = partial(Adagrad, foreach=True)
RMSPROP = partial(RMSprop, foreach=True)
ADAM = partial(Adam, foreach=True)
AMSGRAD = partial(Adam, amsgrad=True, foreach=True)


def muon_of_matrices(params: list[Tensor]) -> Optimizer:
    """Make torch's Muon, of the filters as matrices and without the other parameters."""
    matrices = []
    for parameter in params:
        if parameter.dim() > 1 and parameter.grad is not None:
            matrices.append(parameter.detach().flatten(1).requires_grad_())
            matrices[-1].grad = parameter.grad.flatten(1)
    return Muon(matrices)


def pairs() -> dict[str, Pair]:
    """What is compared."""
    found = {
        "AdaDelay": Pair(optimizers.AdaDelay, ADAGRAD, 1),
        "AdaptiveRevision": Pair(optimizers.AdaptiveRevision, AMSGRAD, 3),
        "AddSign": Pair(optimizers.AddSign, RMSPROP, 1),
        "FilterMuon": Pair(optimizers.FilterMuon, muon_of_matrices, 1),
        "HeavyBall": Pair(optimizers.HeavyBall, MOMENTUM, 1),
        "LectureAMSGrad": Pair(optimizers.LectureAMSGrad, AMSGRAD, 3),
        "LectureAdaMax": Pair(optimizers.LectureAdaMax, partial(Adamax, foreach=True), 2),
        "LectureAdam": Pair(optimizers.LectureAdam, ADAM, 2),
        "LectureAdagrad": Pair(optimizers.LectureAdagrad, ADAGRAD, 1),
        "LectureNAdam": Pair(optimizers.LectureNAdam, partial(NAdam, foreach=True), 2),
        "LectureRMSprop": Pair(optimizers.LectureRMSprop, RMSPROP, 1),
        "Lookahead": Pair(partial(optimizers.Lookahead, optimizer=MOMENTUM), MOMENTUM, 1, more=1, steps=5),
        "NAG": Pair(optimizers.NAG, NESTEROV, 1),
        "NAGConvex": Pair(optimizers.NAGConvex, NESTEROV, 1),
        "NAGStronglyConvex": Pair(optimizers.NAGStronglyConvex, NESTEROV, 1),
        "PowerSign": Pair(optimizers.PowerSign, RMSPROP, 1),
        "SWATS": Pair(partial(optimizers.SWATS, switch_eps=0.0), ADAM, 2),
    }
    public = {name for name in optimizers.__all__ if _is_first_order(getattr(optimizers, name))}
    if public != found.keys():
        raise SystemExit(f"not measured: {sorted(public ^ found.keys())}")
    return found


def _is_first_order(part: Any) -> bool:
    is_rule = inspect.isclass(part) and issubclass(part, (optimizers.UpdateRule, optimizers.Lookahead))
    return is_rule and part is not optimizers.UpdateRule


def parameters() -> list[Tensor]:
    with torch.device("meta"):
        shapes = [parameter.shape for parameter in torchvision.models.resnet18().parameters()]
    made = [torch.randn(shape) for shape in shapes]
    for parameter in made:
        parameter.requires_grad_().grad = 0.01 * torch.randn_like(parameter)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    table = pairs()
    quick = [name for name in table if name != "FilterMuon"]  # a step of it takes seconds on a CPU
    parser.add_argument("--only", nargs="+", choices=table, default=quick)
    parser.add_argument("--rounds", type=int, default=21)
    args = parser.parse_args()
    keep_freed_memory()
    torch.manual_seed(0)
    count = sum(parameter.numel() for parameter in parameters())
    print(f"{count:,} parameters, {torch.get_num_threads()} threads, medians of {args.rounds} rounds")
    print(f"{'':22}{'ours, ms':>10}{'torch, ms':>12}{'ratio':>8}  {'beside':<10}{'states':>7}")
    for name in args.only:
        pair = table[name]
        ours, torchs = pair.ours(parameters()), pair.torchs(parameters())
        # states are made first
        rounds = [(seconds(ours, pair.steps), seconds(torchs, pair.steps)) for _ in range(args.rounds + 2)][
            2:
        ]
        for optimizer, more in ((ours, pair.more), (torchs, 0)):
            if states(optimizer) != pair.states + more:
                raise SystemExit(f"{type(optimizer).__name__} keeps {states(optimizer)} states a parameter")
        mine, others = zip(*rounds, strict=True)
        ratio = statistics.median(one / other for one, other in rounds)
        times = f"{1e3 * statistics.median(mine):10.1f}{1e3 * statistics.median(others):12.1f}"
        print(f"{name:22}{times}{ratio:8.3f}  {type(torchs).__name__:<10}{pair.states:>7}", flush=True)


def seconds(optimizer: Optimizer, steps: int) -> float:
    """Of a step, a mean of several."""
    start = time.perf_counter()
    for _ in range(steps):
        optimizer.step()
    return (time.perf_counter() - start) / steps


def states(optimizer: Optimizer) -> int:
    """Tensors of its own size that are kept for the first parameter."""
    parameter = optimizer.param_groups[0]["params"][0]
    kept = optimizer.state[parameter].values()
    return sum(isinstance(value, Tensor) and value.shape == parameter.shape for value in kept)


if __name__ == "__main__":
    main()
