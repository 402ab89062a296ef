"""The command `plot`: pictures of optimizers at work.

Its first word names the kind of picture. Each kind is a module, which is imported only when needed.
"""

import importlib
import sys
from collections.abc import Sequence

from lightning_optreg._nearest import close_names, nearest

__all__ = ["main"]

_KINDS = {
    "surface": "optimizers on a loss surface of two variables: contours, 3-D view, animation",
    "dynamics": "heavy ball and Nesterov's methods beside their differential equations",
    "landscape": "the loss around a trained checkpoint, with the path of training",
    "privacy": "what epsilon private runs have spent, and how accurate they were then",
    "transport": "a residual network as a transport equation: its solution, with and without noise",
    "scaling": "parallel SGD with 2 to 1,000 workers, simulated: accuracy against time and bytes",
}
_USAGE = """\
usage: lightning-optreg plot KIND --output FILE [options]

{kinds}

examples:
  lightning-optreg plot surface --surface beale --output beale.png
  lightning-optreg plot surface --surface saddle --output saddle.gif
  lightning-optreg plot dynamics --output dynamics.svg

lightning-optreg plot KIND --help lists a kind's options.\
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run `lightning-optreg plot`: draw the picture that the arguments name.

    Args:
        argv: The arguments after the command's name. Default: those of this process.

    Returns:
        Exit status: 0, or 2 with one line on the standard error if the arguments are wrong.

    Example:
        >>> from lightning_optreg.commands.plot import main
        >>> main(["--help"])  # doctest: +ELLIPSIS
        usage: lightning-optreg plot KIND --output FILE [options]
        ...
        0
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv:
        print(f"error: plot needs a kind of picture: {', '.join(_KINDS)}", file=sys.stderr)
        return 2
    kind = argv[0]
    if kind in ("-h", "--help", "help"):
        print(_USAGE.format(kinds="\n".join(f"  {name:<11}{what}" for name, what in _KINDS.items())))
        return 0
    if kind in _KINDS:  # imported only now: the kinds need different, heavy libraries
        status: int = importlib.import_module(f"lightning_optreg.commands.plot.{kind}").main(argv[1:])
        return status
    if close_names(kind, ["--help"]):
        print(f"error: unknown option {kind!r}; did you mean --help?", file=sys.stderr)
        return 2
    if kind.startswith("-"):
        print(
            f"error: plot: the kind of picture comes first, {', '.join(_KINDS)}; got {kind!r}",
            file=sys.stderr,
        )
        return 2
    print(f"error: unknown kind of picture {kind!r}{nearest(kind, _KINDS)}", file=sys.stderr)
    return 2
