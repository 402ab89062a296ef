"""Lightning's four commands as the program calls them.

Help on them imports no more than it needs; all else imports Lightning.
"""

import os
import sys
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from lightning_optreg.cli.help.page import asks_for_help, page, subject

if TYPE_CHECKING:
    from lightning.pytorch import Callback

__all__ = ["fit", "predict", "run_command", "test", "validate"]


def run_command(command: str, argv: list[str], callbacks: "Sequence[Callback]" = ()) -> int:
    """Run one of Lightning's commands, and return the exit status.

    Args:
        command: Its name.
        argv: The words after it.
        callbacks: Put behind those of the configuration.
    """
    if asks_for_help(argv):
        return _help(command, argv)

    if not sys.stderr.isatty():
        # read when tqdm is imported, by bars that don't say themselves whether they are shown: of downloads,
        # of Lightning's search for a learning rate
        os.environ.setdefault("TQDM_DISABLE", "1")

    from lightning_optreg.cli.errors import run_guarded
    from lightning_optreg.cli.main_cli import run
    from lightning_optreg.runs.memory import keep_freed_memory

    keep_freed_memory()
    return run_guarded(lambda: run([command, *argv], callbacks))


def _help(command: str, argv: list[str]) -> int:
    name = subject(argv)
    if name is None:
        print(page(command))
        return 0
    if "." not in name or "--safe" not in argv:  # a path is imported
        from lightning_optreg.cli.help.part import describe_part, find_class

        found = find_class(name)
        if found is not None:
            print(describe_part(name, *found, command))
            return 0
    from lightning_optreg.cli.help.options import describe_all, describe_key, unknown

    text = describe_all(command) if name == "all" else describe_key(command, name)
    if text is None:
        print(f"error: {unknown(command, name)}", file=sys.stderr)
        return 2
    print(text)
    return 0


fit = partial(run_command, "fit")
validate = partial(run_command, "validate")
test = partial(run_command, "test")
predict = partial(run_command, "predict")
