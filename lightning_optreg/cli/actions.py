"""The arguments that a parser has been given."""

import argparse
from typing import Any

__all__ = ["actions_of", "type_of"]


def actions_of(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """Return a parser's arguments, subcommands included.

    Example:
        >>> [action.dest for action in actions_of(argparse.ArgumentParser())]
        ['help']
    """
    return parser._actions  # private in Python 3.11: argparse has no public way to them


def type_of(action: argparse.Action) -> Any:
    """Return the type that jsonargparse reads an argument as; None for one of argparse's own.

    Example:
        >>> parser = argparse.ArgumentParser(add_help=False)
        >>> type_of(parser.add_argument("--steps", type=int))
    """
    # Private in jsonargparse 4.53: there is no public way from an argument to the type it is read as.
    return getattr(action, "_typehint", None)
