"""The arguments that a parser has been given."""

import argparse

__all__ = ["actions_of"]


def actions_of(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """Return a parser's arguments, subcommands included.

    Example:
        >>> [action.dest for action in actions_of(argparse.ArgumentParser())]
        ['help']
    """
    return parser._actions  # private in Python 3.11: argparse has no public way to them
