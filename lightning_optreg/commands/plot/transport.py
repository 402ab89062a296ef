"""The command `plot transport`: a residual network as a transport equation, with and without noise."""

import argparse
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lightning_optreg.commands.plot.options import (
    STILL,
    OptionParser,
    UsageError,
    add_output,
    guarded,
    read_output,
    remaining_time,
    save,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

    from lightning_optreg.analysis.transport import TransportProblem

__all__ = ["main"]

_HALF = 1.5  # the window is [-1.5, 1.5]^2: the given fields and the spirals are of this size
_FIELDS = ("trained", "rotation", "shear", "swirl", "contraction")  # the given ones are TRANSPORTS
_SIGMAS = {"solution": (0.0, 0.01, 0.1), "stability": (0.05, 0.1, 0.2, 0.4)}
_DOUBLINGS = 8  # depths of the view of Euler's order: 2 to 256, or a network's depth to 128 times as deep


def main(argv: Sequence[str]) -> int:
    """Run `lightning-optreg plot transport`.

    Args:
        argv: The arguments after the commands' names.

    Returns:
        Exit status: 0, or 2 with one line on the standard error if the arguments are wrong.
    """
    return guarded(lambda: _run(argv))


def _parser() -> OptionParser:
    parser = OptionParser(
        prog="lightning-optreg plot transport",
        usage="lightning-optreg plot transport --output FILE [options]",
        description="Draw the solution u(x, 0) of the transport equation of a residual network on points of "
        "the plane, with the diffusion that noise in its layers adds: by Feynman and Kac's mean over noisy "
        "paths and by finite differences; or how much u changes with x; or how far the network is from its "
        "differential equation.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add(
        "--field",
        choices=_FIELDS,
        default="trained",
        help="F of a network that is trained on two spirals first, or a given one; default: trained",
    )
    add(
        "--view",
        choices=("solution", "stability", "euler"),
        default="solution",
        help="u(x, 0); max |u(x + d, 0) - u(x, 0)| against |d| / sigma; |x_L - x(1)| against the number of "
        "layers L; default: solution",
    )
    add(
        "--sigmas",
        type=float,
        nargs="+",
        metavar="X",
        help="standard deviations of the noise in a unit of time; default: 0 0.01 0.1, for the stability "
        "0.05 0.1 0.2 0.4",
    )
    add("--paths", type=int, default=200, metavar="N", help="noisy paths from each node; default: 200")
    add("--steps", type=int, default=40, metavar="N", help="of a path; default: 40")
    add("--grid", type=int, default=81, metavar="N", help="nodes along an axis; default: 81")
    add("--depth", type=int, default=10, metavar="N", help="layers of the trained network; default: 10")
    add("--seed", type=int, default=0, metavar="N", help="of points, weights and paths; default: 0")
    add_output(parser)
    return parser


def _run(argv: Sequence[str]) -> None:
    options = _parser().read(argv)
    path = read_output(options.output, STILL)
    _check(options)

    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)  # faster for small tensors, and one result on every machine of a kind
    try:
        figure = _draw(options)
    finally:
        torch.set_num_threads(before)
    save(figure, path, dpi=options.dpi)


def _check(options: argparse.Namespace) -> None:
    for name, value, least in (
        ("paths", options.paths, 2),
        ("steps", options.steps, 1),
        ("grid", options.grid, 17),  # so that |d| of 8 nodes fits in
        ("depth", options.depth, 1),
        ("seed", options.seed, 0),
        ("dpi", options.dpi, 1),
    ):
        if not value >= least:
            raise UsageError(f"--{name} must be >= {least}, got {value}")
    if options.field == "trained" and options.steps % options.depth:
        raise UsageError(f"--steps must be a multiple of --depth {options.depth}, got {options.steps}")
    if options.sigmas is None:
        options.sigmas = _SIGMAS.get(options.view, ())
    elif options.view == "euler":
        raise UsageError("--sigmas has no meaning for --view euler, which has no noise")
    given = " ".join(f"{sigma:g}" for sigma in options.sigmas)
    if options.view == "stability":
        if not all(0.0 < sigma <= 1.0 for sigma in options.sigmas):
            raise UsageError(f"--sigmas must be in (0, 1] for --view stability, got {given}")
    elif not all(0.0 <= sigma <= 1.0 for sigma in options.sigmas):
        raise UsageError(f"--sigmas must be in [0, 1], got {given}")


def _draw(options: argparse.Namespace) -> "Figure":
    import torch

    from lightning_optreg.analysis.transport_problems import TRANSPORTS

    data = None
    if options.field == "trained":
        problem, data = _trained(options)
        title = f"a residual network with {options.depth} layers, trained on two spirals"
    else:
        problem = TRANSPORTS[options.field]
        title = f"{problem.name}: ${problem.formula}$"
    axis = torch.linspace(-_HALF, _HALF, options.grid, dtype=torch.float64)
    if options.view == "solution":
        return _draw_solution(problem, axis, data, title, options)
    if options.view == "stability":
        return _draw_stability(problem, axis, title, options)
    return _draw_euler(problem, axis, title)


def _trained(options: argparse.Namespace) -> "tuple[TransportProblem, tuple[Tensor, Tensor]]":
    from lightning_optreg.analysis.transport_problems import train_point_resnet, two_spirals

    points, labels = two_spirals(seed=options.seed)
    net = train_point_resnet(
        points, labels, depth=options.depth, seed=options.seed, progress=remaining_time("training steps")
    )
    right = float((net(points).argmax(1) == labels).double().mean())
    print(f"trained on two spirals: {len(points)} points, {right:.1%} of them classified correctly")
    return net.problem(), (points, labels)


def _draw_solution(
    problem: "TransportProblem",
    axis: "Tensor",
    data: "tuple[Tensor, Tensor] | None",
    title: str,
    options: argparse.Namespace,
) -> "Figure":
    import torch

    from lightning_optreg.analysis.transport import feynman_kac
    from lightning_optreg.analysis.transport_measures import compute_transport
    from lightning_optreg.figures.transport import draw_transport

    solutions = compute_transport(
        problem,
        axis,
        axis,
        options.sigmas,
        paths=options.paths,
        steps=options.steps,
        seed=options.seed,
        progress=remaining_time("parts"),
    )
    row = "{:>6} {:>12} {:>12} {:>12} {:>12}"
    print("Monte Carlo and finite differences: |difference|, and Monte Carlo's standard error")
    print(row.format("sigma", "largest", "mean", "largest s.e.", "mean s.e."))
    for each in solutions:
        numbers = (
            value(part)
            for part in (each.difference, each.standard_error)
            for value in (torch.max, torch.mean)
        )
        print(row.format(f"{each.sigma:g}", *(f"{float(number):.5f}" for number in numbers)))
    nodes = torch.cartesian_prod(axis, axis)
    coarse, fine = (feynman_kac(problem, nodes, 0.0, steps=k * options.steps)[0] for k in (1, 2))
    change = (fine - coarse).abs()
    print(
        f"{2 * options.steps} instead of {options.steps} steps of the paths, at sigma 0, change u by "
        f"{float(change.max()):.5f} at most and {float(change.mean()):.5f} on average"
    )
    caption = (
        f"{options.grid} x {options.grid} nodes; {options.paths} paths of {options.steps} steps from each"
    )
    return draw_transport(solutions, data=data, title=title, caption=caption)


def _draw_stability(
    problem: "TransportProblem", axis: "Tensor", title: str, options: argparse.Namespace
) -> "Figure":
    from lightning_optreg.analysis.transport_measures import measure_stability
    from lightning_optreg.figures.transport import draw_stability

    try:
        found = measure_stability(problem, axis, axis, options.sigmas, progress=remaining_time("solutions"))
    except ValueError as error:
        raise UsageError(f"--sigmas: {str(error).partition(': ')[2]}") from error
    row = "{:>6} {:>8} {:>10} {:>20}"
    print(row.format("sigma", "|d|", "|d|/sigma", "largest difference"))
    for i, sigma in enumerate(found.sigmas.tolist()):
        for j, distance in enumerate(found.distances.tolist()):
            ratio, difference = float(found.ratios[i, j]), float(found.differences[i, j])
            print(row.format(f"{sigma:g}", f"{distance:.4g}", f"{ratio:.3g}", f"{difference:.5f}"))
    low = float(found.ratios.min())
    print(
        f"C (|d|/sigma)^alpha, fitted for |d|/sigma from {low:.3g} to {found.up_to:g}: alpha = "
        f"{found.alpha:.3f}, C = {found.constant:.3f}, R^2 = {found.r_squared:.4f}\n"
        f"an upper bound of all of them, with this alpha: C = {found.bound:.3f}"
    )
    caption = "The theorem promises an upper bound of this form, not that the differences reach it."
    return draw_stability(found, title=title, caption=caption)


def _draw_euler(problem: "TransportProblem", axis: "Tensor", title: str) -> "Figure":
    import torch

    from lightning_optreg.analysis.transport_measures import measure_euler
    from lightning_optreg.figures.transport import draw_euler

    first = problem.pieces if problem.pieces > 1 else 2
    depths = [first * 2**k for k in range(_DOUBLINGS)]
    step = math.ceil((len(axis) - 1) / 16)
    found = measure_euler(problem, torch.cartesian_prod(axis[::step], axis[::step]), depths)
    row = "{:>8} {:>16}"
    print(row.format("layers", "max |x_L - x(1)|"))
    for depth, error in zip(found.depths, found.errors, strict=True):
        print(row.format(depth, f"{error:.3g}"))
    print(f"order of the deeper half: {found.order:.3f}")
    return draw_euler(found, title=title)
