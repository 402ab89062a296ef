"""The parser of the commands that have a few options of their own: a mistake is one line."""

import argparse
import shutil
from collections.abc import Sequence
from typing import Any, NoReturn

from typing_extensions import override

from lightning_optreg._nearest import nearest
from lightning_optreg.cli.actions import actions_of

__all__ = ["OptionParser", "UsageError", "is_too_large", "unknown_word"]


class UsageError(Exception):
    """The arguments are wrong; the message says how, in one line."""


def _formatter(prog: str) -> argparse.HelpFormatter:
    """Help as wide as the terminal, and at most 100 characters, with room for names and values."""
    width = max(60, min(100, shutil.get_terminal_size((100, 24)).columns))
    return argparse.HelpFormatter(prog, max_help_position=30, width=width)


class OptionParser(argparse.ArgumentParser):
    """A parser that raises `UsageError` at a mistake, and names the option nearest to an unknown one.

    Example:
        >>> parser = OptionParser()
        >>> _ = parser.add_argument("--steps", type=int)
        >>> parser.read(["--stops", "3"])
        Traceback (most recent call last):
        lightning_optreg.cli.option_parser.UsageError: unknown option --stops; did you mean --steps?
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"formatter_class": _formatter, **kwargs})

    @override
    def format_help(self) -> str:
        """Return the help; its usage, if none was given, names what is required and no more."""
        if self.usage is None:
            needed = [action for action in actions_of(self) if action.required and action.option_strings]
            words = [
                f"{action.option_strings[0]} {action.metavar or action.dest.upper()}" for action in needed
            ]
            self.usage = " ".join([self.prog, *words, "[options]"])
        return super().format_help()

    @override
    def error(self, message: str) -> NoReturn:
        raise UsageError(message.removeprefix("argument "))

    def read(self, argv: Sequence[str]) -> argparse.Namespace:
        """Parse the arguments.

        Args:
            argv: The words after the command's names.

        Raises:
            UsageError: If they are wrong.
        """
        actions = actions_of(self)
        known = [option for action in actions for option in action.option_strings]
        listed = [action for action in actions if action.help != argparse.SUPPRESS]
        shown = [option for action in listed for option in action.option_strings]
        for number, word in enumerate(argv):
            option = word.partition("=")[0]
            # before argparse, which first says that a required option is missing
            if (option.startswith("--") and option not in known) or (number == 0 and option[:1] != "-"):
                raise UsageError(unknown_word(word, shown))
        options, unknown = self.parse_known_args(argv)
        if unknown:
            raise UsageError(unknown_word(unknown[0], shown))
        for name, value in vars(options).items():
            if is_too_large(value):
                raise UsageError(f"--{name} must be within 64 bits, got {value}")
        return options


def is_too_large(value: object) -> bool:
    """Return whether a value is a whole number that torch and NumPy can't count with.

    Example:
        >>> is_too_large(2**63), is_too_large(2**62), is_too_large(1e30)
        (True, False, False)
    """
    return isinstance(value, int) and not -(2**63) <= value < 2**63


def unknown_word(word: str, known: Sequence[str]) -> str:
    """Say what is wrong with a word of a command line that no option takes.

    Args:
        word: The word.
        known: The options, with their dashes.

    Example:
        >>> unknown_word("a.png", ["--output", "--dpi"])
        "unexpected argument 'a.png': options begin with --; known: --output, --dpi"
    """
    names = [option[2:] for option in known if option.startswith("--") and option != "--help"]
    option = word.partition("=")[0]
    if option.startswith("-") and option.strip("-"):
        return f"unknown option {option}{nearest(option.strip('-'), [*names, 'help'], prefix='--')}"
    close = nearest(option.lstrip("\u2010\u2011\u2012\u2013\u2014\u2212"), names, prefix="--")
    return f"unexpected argument {word!r}: options begin with --{close}"
