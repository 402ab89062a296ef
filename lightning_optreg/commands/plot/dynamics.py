"""The command `plot dynamics`: accelerated methods beside their differential equations."""

import math
from collections.abc import Sequence

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

__all__ = ["main"]

_HALVINGS = 6  # steps at which deviations are measured, each a quarter of the one before


def main(argv: Sequence[str]) -> int:
    """Run `lightning-optreg plot dynamics`.

    Args:
        argv: The arguments after the commands' names.

    Returns:
        Exit status: 0, or 2 with one line on the standard error if the arguments are wrong.
    """
    return guarded(lambda: _run(argv))


def _run(argv: Sequence[str]) -> None:
    parser = OptionParser(
        prog="lightning-optreg plot dynamics",
        usage="lightning-optreg plot dynamics --output FILE [options]",
        description="Draw heavy ball, NAG-SC and NAG-C on a quadratic beside their low- and high-resolution "
        "differential equations, and the distance between them as the step shrinks.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--eigenvalues",
        type=float,
        nargs=2,
        default=(0.1, 2.0),
        metavar="X",
        help="of the quadratic; default: 0.1 2",
    )
    parser.add_argument(
        "--start",
        type=float,
        nargs=2,
        default=(1.0, 1.0),
        metavar="X",
        help="where the methods begin; default: 1 1",
    )
    parser.add_argument(
        "--step", type=float, default=0.1, metavar="S", help="step s of the curves; default: 0.1"
    )
    parser.add_argument(
        "--time", type=float, default=10.0, metavar="T", help="how long: k sqrt(s) up to T; default: 10"
    )
    add_output(parser)
    options = parser.read(argv)
    path = read_output(options.output, STILL)
    if not all(0.0 < value < math.inf for value in options.eigenvalues):
        raise UsageError(f"--eigenvalues must be in (0, inf), got {' '.join(map(str, options.eigenvalues))}")
    if not all(map(math.isfinite, options.start)) or not any(options.start):
        raise UsageError(f"--start must be finite and not the minimum 0 0, got {options.start}")
    largest = 1.0 / max(options.eigenvalues)
    if not 0.0 < options.step <= largest:
        raise UsageError(
            f"--step must be in (0, {largest:g}], one over the larger eigenvalue, got {options.step}"
        )
    if not math.sqrt(options.step) <= options.time <= 1e4 * math.sqrt(options.step):
        raise UsageError(f"--time must be 1 to 10000 times the square root of --step, got {options.time}")
    if not options.dpi >= 1:
        raise UsageError(f"--dpi must be >= 1, got {options.dpi}")

    from lightning_optreg.analysis.deviations import compute_dynamics
    from lightning_optreg.analysis.odes import Method, Problem
    from lightning_optreg.figures.accelerated_methods import draw_dynamics

    problem = Problem(tuple(options.eigenvalues), tuple(options.start))
    methods: tuple[Method, ...] = ("heavy_ball", "nag_sc", "nag_c")
    steps = [options.step / 4**i for i in range(_HALVINGS)]
    curves = []
    computed = remaining_time("methods")
    for number, method in enumerate(methods, 1):
        curves.append(compute_dynamics(problem, method, options.step, options.time, steps))
        computed(number, len(methods))
    save(draw_dynamics(curves), path, dpi=options.dpi)
