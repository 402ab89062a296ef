"""Lightning's four commands as the program calls them."""

from collections.abc import Sequence
from functools import partial

from lightning.pytorch import Callback

from lightning_optreg.cli.errors import run_guarded
from lightning_optreg.cli.main_cli import run
from lightning_optreg.runs.memory import keep_freed_memory

__all__ = ["fit", "predict", "run_command", "test", "validate"]


def run_command(command: str, argv: list[str], callbacks: Sequence[Callback] = ()) -> int:
    """Run one of Lightning's commands, and return the exit status.

    Args:
        command: Its name.
        argv: The words after it.
        callbacks: Put behind those of the configuration.
    """
    keep_freed_memory()
    return run_guarded(lambda: run([command, *argv], callbacks))


fit = partial(run_command, "fit")
validate = partial(run_command, "validate")
test = partial(run_command, "test")
predict = partial(run_command, "predict")
