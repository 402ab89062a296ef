"""The options of the commands that run a study."""

import argparse
import math
from pathlib import Path

from lightning_optreg.cli.option_parser import OptionParser
from lightning_optreg.places import place_of
from lightning_optreg.recipes import find
from lightning_optreg.studies.workers import STORAGE
from lightning_optreg.trust import add_allow, add_safe

__all__ = ["check_numbers", "study_options"]


def study_options(name: str, description: str, *, folds: bool) -> OptionParser:
    """Return the parser of a command that runs a study.

    Args:
        name: The command's name.
        description: What `--help` says of it.
        folds: Whether one fold alone can be asked for.
    """
    parser = OptionParser(prog=f"lightning-optreg {name}", description=description, allow_abbrev=False)
    parser.add_argument(
        "--config",
        type=lambda word: Path(find(word)),
        required=True,
        metavar="FILE",
        help="the study: a YAML, or the name of one of the package, such as studies/quick",
    )
    parser.add_argument(
        "--output",
        type=place_of,
        metavar="FOLDER",
        help="for runs and report, a path or a URL; default: runs/studies/NAME",
    )
    parser.add_argument(
        "--storage",
        metavar="URL",
        help=f"of the database; default: the variable {STORAGE} of the environment, which keeps a "
        "password out of the command line, else SQLite in the output folder",
    )
    parser.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="processes on this machine, which share its cores; default: one, without a GPU one per core",
    )
    parser.add_argument(
        "--oversubscribe", action="store_true", help="allow more workers than there are cores"
    )
    parser.add_argument(
        "--storage_wait",
        type=float,
        default=300.0,
        metavar="SECONDS",
        help="how long to wait for a database that stops answering; default: %(default)g",
    )
    parser.add_argument("--plan", action="store_true", help="print what would be run, and run nothing")
    parser.add_argument("--report_only", action="store_true", help="write the report of the runs done so far")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    parser.set_defaults(fold=None)
    if folds:
        parser.add_argument(
            "--fold", type=int, metavar="K", help="only with this one of the study's folds held out"
        )
    add_safe(parser)
    add_allow(parser, "a study held to --safe")
    return parser


def check_numbers(args: argparse.Namespace) -> None:
    """Check the numbers among the options.

    Args:
        args: The options.

    Raises:
        ValueError: If one is out of its range.
    """
    from lightning_optreg.cli.processes import count_cores  # imports Lightning

    if args.workers is not None and not args.workers >= 1:
        raise ValueError(f"workers: must be >= 1, got {args.workers}")
    if args.workers is not None and args.workers > count_cores() and not args.oversubscribe:
        raise ValueError(
            f"workers must be <= {count_cores()}, this machine's CPU cores, got {args.workers}; "
            "--oversubscribe allows more"
        )
    if not 0.0 <= args.storage_wait < math.inf:
        raise ValueError(f"storage_wait: must be a number of seconds >= 0, got {args.storage_wait}")
