"""The command `plot surface`: optimizers on a loss surface of two variables, as a picture or a film."""

from collections.abc import Sequence

from lightning_optreg.commands.plot.options import (
    ANIMATED,
    STILL,
    OptionParser,
    UsageError,
    guarded,
    read_output,
    remaining_time,
    save,
    save_film,
)

__all__ = ["main"]


def main(argv: Sequence[str]) -> int:
    """Run `lightning-optreg plot surface`.

    Args:
        argv: The arguments after the commands' names.

    Returns:
        Exit status: 0, or 2 with one line on the standard error if the arguments are wrong.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder) / "ravine.svg"
        ...     main(["--surface", "ravine", "--steps", "5", "--output", str(file)])  # doctest: +ELLIPSIS
        /...ravine.svg
        0
    """
    return guarded(lambda: _run(argv))


def _run(argv: Sequence[str]) -> None:
    from lightning_optreg.analysis.surfaces import SURFACES
    from lightning_optreg.commands.plot.named_optimizer import METHODS, STEPS, read_optimizer

    parser = OptionParser(
        prog="lightning-optreg plot surface",
        usage="lightning-optreg plot surface --output FILE [options]",
        description="Draw optimizers on a loss surface of two variables.",
        allow_abbrev=False,
    )
    parser.add_argument("--surface", choices=SURFACES, default="beale", help="the surface; default: beale")
    parser.add_argument(
        "--optimizers",
        nargs="+",
        metavar="NAME[:lr=...]",
        default=METHODS,
        help="classes of torch.optim or of this package, or Momentum, with options if the learning rate "
        "for the surface should not be the tuned one: Adam, SGD:lr=0.1,momentum=0.9 or 'Adam(lr=0.1)'; "
        f"default: {' '.join(METHODS)}",
    )
    parser.add_argument("--steps", type=int, metavar="N", help="steps of each optimizer; default: by surface")
    parser.add_argument(
        "--view",
        choices=("contours", "3d"),
        help="from above, or in three dimensions; default: 3d for the saddle, contours for the others",
    )
    parser.add_argument(
        "--fps", type=int, default=15, metavar="N", help="frames per second of a film; default: 15"
    )
    parser.add_argument("--dpi", type=int, metavar="N", help="dots per inch; default: 150, a film's 80")
    parser.add_argument(
        "--output",
        metavar="FILE",
        help=f"the file to write: {', '.join(STILL)}, or a film {', '.join(ANIMATED)}",
    )
    options = parser.read(argv)
    path = read_output(options.output, (*STILL, *ANIMATED))
    film = path.suffix in ANIMATED
    steps = STEPS[options.surface] if options.steps is None else options.steps
    dpi = (80 if film else 150) if options.dpi is None else options.dpi
    for name, number in (("steps", steps), ("fps", options.fps), ("dpi", dpi)):
        if not number >= 1:
            raise UsageError(f"--{name} must be >= 1, got {number}")

    from lightning_optreg.analysis.trajectories import follow
    from lightning_optreg.figures.optimizer_paths import View, animate_surface, draw_surface

    surface = SURFACES[options.surface]
    ways = {}
    followed = remaining_time("optimizers")
    for number, text in enumerate(options.optimizers, 1):
        try:
            optimizer = read_optimizer(text, surface.name)
        except ValueError as error:
            raise UsageError(f"--optimizers: {error}") from error
        try:  # raised by optimizers for wrong settings, or for what they cannot do
            ways[optimizer.label] = follow(surface, optimizer, steps)
        except (TypeError, ValueError, RuntimeError) as error:
            raise UsageError(f"--optimizers {text}: {error}") from error
        followed(number, len(options.optimizers))
    usual: View = "contours" if surface.minima else "3d"
    view: View = usual if options.view is None else options.view
    if film:
        save_film(animate_surface(surface, ways, view, frames=121), path, dpi=dpi, fps=options.fps)
    else:
        save(draw_surface(surface, ways, view), path, dpi=dpi)
