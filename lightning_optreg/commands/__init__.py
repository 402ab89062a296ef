"""The commands of the program: one registry, which the program, the documentation and the tests read.

A further command is one file with a function `main` here, and one line in `COMMANDS`.
"""

from collections.abc import Callable
from importlib import import_module
from typing import NamedTuple

__all__ = ["COMMANDS", "Command"]


class Command(NamedTuple):
    """A command: what the first word after the program's name asks for.

    Attributes:
        name: The word.
        summary: What it does, in a line of `--help`.
        entry: `module:function` of this package. The function takes the words after the name and returns the
            exit status; its module is imported when the command is asked for, so that help and mistakes
            answer at once.
        elsewhere: What other programs call it.
    """

    name: str
    summary: str
    entry: str
    elsewhere: tuple[str, ...] = ()

    def load(self) -> Callable[[list[str]], int]:
        """Import the function."""
        module, function = self.entry.split(":")
        main: Callable[[list[str]], int] = getattr(import_module(f"lightning_optreg.{module}"), function)
        return main


COMMANDS = (
    Command(
        "fit",
        "train a network: lightning-optreg fit --config FILE [--key value ...]",
        "cli.entry:fit",
        ("train",),
    ),
    Command("validate", "measure a checkpoint on the validation images", "cli.entry:validate"),
    Command("test", "measure a checkpoint on the test images", "cli.entry:test", ("eval", "evaluate")),
    Command("predict", "write a checkpoint's predictions to a file", "cli.entry:predict", ("infer",)),
    Command("attack", "test a checkpoint on images that attacks have changed", "commands.attack:main"),
    Command(
        "configs",
        "list the recipes, overlays and studies of this package: configs [show | copy NAME]",
        "commands.configs:main",
        ("recipes",),
    ),
    Command(
        "describe",
        "print a network's layers: output size, memory, parameters, multiply-adds",
        "commands.describe:main",
        ("summary",),
    ),
    Command("export", "write a checkpoint's network for use without this package", "commands.export:main"),
    Command(
        "compare",
        "run methods on one problem, tuned alike, and draw how they compare",
        "commands.compare:main",
    ),
    Command(
        "tune",
        "search for the settings of a recipe that work best",
        "commands.tune:main",
        ("sweep", "optimize"),
    ),
    Command(
        "crossval",
        "train on all folds of the images but one, in turn, and compare fold by fold",
        "commands.crossval:main",
    ),
    Command(
        "plot",
        "draw a picture: plot surface | dynamics | landscape | privacy | scaling | transport",
        "commands.plot:main",
    ),
)
