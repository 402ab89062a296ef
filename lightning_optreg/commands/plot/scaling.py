"""The command `plot scaling`: simulated parallel SGD with few and many workers, against time and bytes."""

import argparse
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from lightning_optreg.cli.meter import Meter
from lightning_optreg.commands.plot.named_method import METHODS, NamedMethod, read_method
from lightning_optreg.commands.plot.options import (
    STILL,
    OptionParser,
    UsageError,
    add_output,
    guarded,
    read_output,
    save,
)

if TYPE_CHECKING:
    from lightning_optreg.analysis.scaling import ScalingRun
    from lightning_optreg.analysis.speeds import Interconnect, StepTimes
    from lightning_optreg.analysis.workload import Workload
    from lightning_optreg.figures.scaling import ScalingCurve

__all__ = ["main", "make_workload"]

_CLEARLY = 0.01  # a higher accuracy, given a few thousand examples for evaluation
_USUAL = ("DDP", "LocalSGD", "ElasticAveraging", "Downpour", "Hogwild")
_PARTS: tuple[Literal["train", "val"], ...] = ("train", "val")
_ROW = "{:<24} {:>7} {:>8} {:>10} {:>10} {:>9} {:>10} {:>8} {:>8}"


def main(argv: Sequence[str]) -> int:
    """Run `lightning-optreg plot scaling`.

    Args:
        argv: The arguments after the commands' names.

    Returns:
        Exit status: 0, or 2 with one line on the standard error if the arguments are wrong.
    """
    return guarded(lambda: _run(argv))


def _parser() -> OptionParser:
    parser = OptionParser(
        prog="lightning-optreg plot scaling",
        usage="lightning-optreg plot scaling --output FILE [options]",
        description="Simulate parallel SGD with few and many workers in one process, and draw accuracy "
        "against time and against the bytes sent, or the speed-up. The updates are computed for real; only "
        "time and traffic are simulated, from the options below.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add(
        "--methods",
        nargs="+",
        metavar="NAME[:key=...]",
        default=_USUAL,
        help=f"{', '.join(METHODS)}, with options such as LocalSGD:period=50, ElasticAveraging:beta=0.5, "
        f"Downpour:n_fetch=5,optimizer=Adagrad or DDP:lr=0.5,momentum=0.9; default: {' '.join(_USUAL)}",
    )
    add(
        "--workers",
        type=int,
        nargs="+",
        default=(2, 10, 100, 1000),
        metavar="N",
        help="how many workers, a curve for each number; default: 2 10 100 1000",
    )
    add(
        "--model",
        choices=("softmax", "mlp", "sparse"),
        default="softmax",
        help="softmax regression or an MLP with 128 hidden units on Fashion-MNIST, or logistic regression on "
        "made-up sparse features; default: softmax",
    )
    add("--images", type=int, default=600_000, metavar="N", help="of all workers together; default: 600000")
    add("--batch_size", type=int, default=32, metavar="N", help="of one worker; default: 32")
    add(
        "--lr",
        type=float,
        nargs="+",
        default=(0.01,),
        metavar="X",
        help="learning rate; of several, each curve takes the first, unless another ends more than a "
        "percentage point more accurate; default: 0.01",
    )
    add("--step_time", type=float, default=0.01, metavar="S", help="mean seconds of a step; default: 0.01")
    kinds = ("constant", "lognormal", "exponential")
    add("--distribution", choices=kinds, default="constant", help="of step times; default: constant")
    add("--sigma", type=float, default=0.25, metavar="X", help="of log times if lognormal; default: 0.25")
    add("--stragglers", type=float, default=0.0, metavar="X", help="share of slow workers; default: 0")
    add("--slowdown", type=float, default=5.0, metavar="X", help="how much slower they are; default: 5")
    add("--latency", type=float, default=1e-4, metavar="S", help="mean delay of a message; default: 0.0001")
    add(
        "--bandwidth",
        type=float,
        default=1.25e9,
        metavar="B",
        help="bytes per second of each machine; default: 1.25e9, that is 10 Gbit/s",
    )
    add("--latencies", choices=kinds, default="constant", help="distribution of delays; default: constant")
    add("--shards", type=int, default=1, metavar="N", help="parameter servers; default: 1")
    add("--seed", type=int, default=0, metavar="N", help="of times, batches and weights; default: 0")
    add(
        "--view",
        choices=("curves", "speedup"),
        default="curves",
        help="accuracy, or the speed-up; default: curves",
    )
    add(
        "--accuracy",
        type=float,
        default=0.8,
        metavar="X",
        help="what the speed-up is measured at, from 0 to 1; default: 0.8",
    )
    add(
        "--measured",
        metavar="FILE",
        help="table of real runs to draw as marks: a .csv with the columns method, workers, seconds, images, "
        "bytes, accuracy, such as scripts/experiments/scaling.py writes",
    )
    add("--data_dir", metavar="DIR", help="folder of Fashion-MNIST, if not where it is searched for")
    add_output(parser, dpi=110)
    return parser


def _run(argv: Sequence[str]) -> None:
    options = _parser().read(argv)
    path = read_output(options.output, STILL)
    for name, value in (("workers", min(options.workers)), ("batch_size", options.batch_size)):
        if not value >= 1:
            raise UsageError(f"--{name} must be >= 1, got {value}")
    for name, value, least in (
        ("shards", options.shards, 1),
        ("dpi", options.dpi, 1),
        ("seed", options.seed, 0),
    ):
        if not value >= least:
            raise UsageError(f"--{name} must be >= {least}, got {value}")
    if not all(0.0 < lr < math.inf for lr in options.lr):
        raise UsageError(f"--lr must be in (0, inf), got {' '.join(map(str, options.lr))}")
    if not 0.0 < options.accuracy < 1.0:
        raise UsageError(f"--accuracy must be in (0, 1), got {options.accuracy}")
    workers = sorted({*options.workers, *((1,) if options.view == "speedup" else ())})
    if not options.images >= (least := max(workers) * options.batch_size):
        raise UsageError(f"--images must be at least a batch for each worker, {least}, got {options.images}")

    from lightning_optreg.figures.scaling import draw_scaling, draw_speedup

    measured = _measured(options.measured)
    times, wires = _speeds(options)
    methods = [_method(text) for text in options.methods]
    try:
        workload = make_workload(options.model, seed=options.seed, data_dir=options.data_dir)
    except (OSError, ValueError) as error:
        raise UsageError(f"--data_dir: {error}") from error
    print(
        _ROW.format(
            "method", "workers", "rate", "time (s)", "MB sent", "accuracy", "mean delay", "waiting", "sending"
        )
    )
    pairs = [(method, number) for method in methods for number in workers]
    simulated = Meter("curves")
    curves: list[ScalingCurve] = []
    for method, number in pairs:
        simulated(len(curves), len(pairs))
        curves.append(_simulated(method, number, workload, times, wires, options, simulated))
    caption = _caption(options)
    if options.view == "curves":
        figure = draw_scaling(curves, measured, caption=caption)
    else:
        try:
            figure = draw_speedup(curves, options.accuracy, measured, caption=caption)
        except ValueError as error:
            raise UsageError(
                f"--accuracy {options.accuracy:g}: no method reaches it with one worker"
            ) from error
    save(figure, path, dpi=options.dpi)


def _measured(path: str | None) -> "list[ScalingCurve]":
    from lightning_optreg.figures.scaling import read_scaling

    try:
        return [] if path is None else read_scaling(path)
    except ValueError as error:
        raise UsageError(f"--measured: {str(error).removeprefix('read_scaling: ')}") from error


def _speeds(options: argparse.Namespace) -> "tuple[StepTimes, Interconnect]":
    """Times and network; what is wrong with one is said in the options' names."""
    from lightning_optreg.analysis.speeds import Interconnect, StepTimes

    try:
        return (
            StepTimes(
                options.step_time, options.distribution, options.sigma, options.stragglers, options.slowdown
            ),
            Interconnect(
                options.latency, options.bandwidth, options.latencies, options.sigma, options.shards
            ),
        )
    except ValueError as error:
        said = str(error).partition(": ")[2]
        raise UsageError(f"--{said.replace('mean', 'step_time', 1)}") from error


def _method(text: str) -> NamedMethod:
    try:
        return read_method(text)
    except ValueError as error:
        raise UsageError(f"--methods: {error}") from error


def make_workload(model: str, *, seed: int = 0, data_dir: str | None = None) -> "Workload":
    """Make what the simulated workers train, with images as tensors.

    Args:
        model: "softmax" or "mlp", for Fashion-MNIST and evaluated on its validation split, or "sparse".
        seed: Seed of the weights, or of the made-up data.
        data_dir: Folder of the images; None: where the data module finds them.

    Raises:
        OSError: If the images are not found.
        ValueError: If they are damaged.
    """
    import torch

    from lightning_optreg.analysis.workload import Workload, sparse_logistic_regression

    if model == "sparse":
        return sparse_logistic_regression(seed=seed)

    from lightning_optreg.data import FashionMNISTDataModule
    from lightning_optreg.nets import MLP, SoftmaxRegression

    data = FashionMNISTDataModule(data_dir=data_dir, batch_size=5000, shuffle="never")
    data.prepare_data()
    data.setup("fit")
    training, evaluation = (
        [torch.cat(tensors) for tensors in zip(*data.batches(part), strict=True)] for part in _PARTS
    )
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        net = SoftmaxRegression() if model == "softmax" else MLP(hidden=[128])
    return Workload(
        net, torch.nn.CrossEntropyLoss(), (training[0], training[1]), (evaluation[0], evaluation[1])
    )


def _simulated(
    method: NamedMethod,
    workers: int,
    workload: "Workload",
    times: "StepTimes",
    wires: "Interconnect",
    options: argparse.Namespace,
    meter: Meter,
) -> "ScalingCurve":
    """A curve, at the chosen learning rate; its numbers are printed."""
    from lightning_optreg.analysis.scaling import simulate
    from lightning_optreg.figures.scaling import ScalingCurve

    best: tuple[float, float, ScalingRun] | None = None
    for lr in options.lr if "lr" not in method.options else (method.options["lr"],):
        try:
            run = simulate(
                method.method,
                workload,
                method.optimizer(lr),
                workers=workers,
                images=options.images,
                batch_size=options.batch_size,
                step_times=times,
                wires=wires,
                seed=options.seed,
            )
        except (TypeError, ValueError, RuntimeError) as error:  # of optimizers, for what they cannot do
            raise UsageError(f"--methods {method.label}: {error}") from error
        last = [moment.accuracy for moment in run.moments[-5:]]
        level = sum(last) / len(last)
        if best is None or level > best[0] + _CLEARLY:
            best = level, lr, run
    assert best is not None
    _, lr, run = best
    moments = run.moments
    numbers = (
        f"{lr:g}",
        f"{run.seconds:.3f}",
        f"{moments[-1].bytes / 1e6:.1f}",
        f"{moments[-1].accuracy:.4f}",
    )
    shares = (f"{run.mean_delay:.1f}", f"{run.waiting_share:.1%}", f"{run.sending_share:.1%}")
    meter.clear()
    print(_ROW.format(method.label, workers, *numbers, *shares), flush=True)
    return ScalingCurve(
        method.label,
        workers,
        [moment.seconds for moment in moments],
        [moment.bytes for moment in moments],
        [moment.accuracy for moment in moments],
        lr,
    )


def _caption(options: argparse.Namespace) -> str:
    """What the simulation was given."""
    model = {
        "softmax": "softmax regression, Fashion-MNIST",
        "mlp": "MLP, Fashion-MNIST",
        "sparse": "sparse logistic regression",
    }
    slow = f", {options.stragglers:.0%} of them {options.slowdown:g} x slower" if options.stragglers else ""
    return (
        f"{model[options.model]}; {options.images:,} images, batches of {options.batch_size}; steps of "
        f"{1000 * options.step_time:g} ms, {options.distribution}{slow}; {1e6 * options.latency:g} µs and "
        f"{options.bandwidth / 1e6:g} MB/s"
    )
