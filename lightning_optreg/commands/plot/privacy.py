"""The command `plot privacy`: what epsilon private runs have spent, and how accurate they were then."""

from collections.abc import Sequence

from lightning_optreg.commands.plot.options import (
    STILL,
    OptionParser,
    UsageError,
    add_output,
    guarded,
    read_output,
    save,
)
from lightning_optreg.places import place_of

__all__ = ["main"]


def main(argv: Sequence[str]) -> int:
    """Run `lightning-optreg plot privacy`.

    Args:
        argv: The arguments after the commands' names.

    Returns:
        Exit status: 0, or 2 with one line on the standard error if the arguments are wrong.
    """
    return guarded(lambda: _run(argv))


def _run(argv: Sequence[str]) -> None:
    parser = OptionParser(
        prog="lightning-optreg plot privacy",
        usage="lightning-optreg plot privacy --runs FOLDER ... --output FILE [options]",
        description="Draw epsilon over the steps of private runs, and their accuracy against epsilon.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--runs", nargs="+", metavar="FOLDER", help="folders of runs with the callback DifferentialPrivacy"
    )
    parser.add_argument("--names", nargs="+", metavar="NAME", help="their names; default: the folders")
    parser.add_argument(
        "--metric", default="val/accuracy", metavar="COLUMN", help="the accuracy; default: val/accuracy"
    )
    add_output(parser)
    options = parser.read(argv)
    for name in ("output", "runs"):
        if getattr(options, name) is None:
            raise UsageError(f"--{name} is missing")
    path = read_output(options.output, STILL)
    names = options.names or options.runs
    if len(names) != len(options.runs) or len(set(names)) != len(names):
        raise UsageError(
            f"--names must be one name for each of {len(options.runs)} runs, got {' '.join(names)}"
        )
    if not options.dpi >= 1:
        raise UsageError(f"--dpi must be >= 1, got {options.dpi}")

    from lightning_optreg.figures.privacy import draw_privacy, read_private

    try:
        runs = {
            name: read_private(place_of(folder) / "metrics.csv", options.metric)
            for name, folder in zip(names, options.runs, strict=True)
        }
        quantity = "accuracy on validation images" if options.metric == "val/accuracy" else options.metric
        figure = draw_privacy(runs, quantity)
    except ValueError as error:
        raise UsageError(str(error).partition(": ")[2]) from error
    save(figure, path, dpi=options.dpi)
