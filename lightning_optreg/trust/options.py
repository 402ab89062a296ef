"""The options `--safe` and `--allow`, which only a command line can give: a file must not free itself."""

import argparse
from collections.abc import Sequence
from typing import NoReturn

from typing_extensions import override

from lightning_optreg.trust.classes import Trust

__all__ = ["SAFE_HELP", "add_allow", "add_safe", "split_options", "trust_options"]

SAFE_HELP = (
    "--safe: build only what a checkpoint may name, for configurations from strangers: classes of this "
    "package, Lightning, torch, torchvision and torchmetrics. --allow PACKAGE: with --safe, also those of "
    "that package; may be repeated. Both on the command line only."
)


def add_allow(parser: argparse.ArgumentParser, what: str = "the checkpoint") -> None:
    """Add the option `--allow` to a command's parser.

    Args:
        parser: The parser.
        what: Names classes.
    """
    parser.add_argument(
        "--allow",
        nargs="+",
        action="extend",
        default=[],
        type=_package,
        metavar="PACKAGE",
        help=f"also build classes of this package if {what} names them; may be repeated",
    )


def add_safe(parser: argparse.ArgumentParser) -> None:
    """Add the option `--safe` to a command's parser."""
    parser.add_argument(
        "--safe",
        nargs="?",
        type=_truth,
        const=True,
        default=False,
        metavar="true",
        help="build only what a checkpoint may name, for files from strangers",
    )


def split_options(argv: Sequence[str], *, safe: bool = False) -> tuple[list[str], Trust | None]:
    """Take `--safe` and `--allow` out of a command line.

    Args:
        argv: The command and its options.
        safe: Whether it is as if `--safe` were given.

    Returns:
        The rest of it, and what may be named; None without `--safe`.

    Raises:
        ValueError: If their values are wrong, or `--allow` is given without `--safe`.

    Example:
        >>> rest, trust = split_options(["fit", "--safe", "--allow", "my_package", "--config", "a.yaml"])
        >>> rest, trust.allow
        (['fit', '--config', 'a.yaml'], ('my_package',))
    """
    parser = _Parser(allow_abbrev=False, add_help=False)
    add_safe(parser)
    add_allow(parser, "a configuration")
    options, rest = parser.parse_known_args(list(argv))
    options.safe = options.safe or safe
    return rest, Trust(options.allow, bare=True) if trust_options(options) else None


def trust_options(options: argparse.Namespace) -> list[str]:
    """Write `--safe` and `--allow`, as they were parsed, as options again.

    Raises:
        ValueError: If `--allow` is given without `--safe`.

    Example:
        >>> trust_options(argparse.Namespace(safe=True, allow=["my_package"]))
        ['--safe=true', '--allow=my_package']
    """
    if options.allow and not options.safe:
        raise ValueError("--allow needs --safe: without it a configuration may name any class of yours")
    return ["--safe=true", *(f"--allow={package}" for package in options.allow)] if options.safe else []


class _Parser(argparse.ArgumentParser):
    @override
    def error(self, message: str) -> NoReturn:
        raise ValueError(message.removeprefix("argument "))


def _truth(word: str) -> bool:
    if word.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"must be true or false, got {word!r}")
    return word.lower() == "true"


def _package(word: str) -> str:
    try:
        Trust([word])
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error).removeprefix("allow: ")) from error
    return word
