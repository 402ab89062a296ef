"""Lightning's four commands as the program calls them."""

from functools import partial

from lightning_optreg.cli.errors import run_guarded
from lightning_optreg.cli.main_cli import run
from lightning_optreg.runs.memory import keep_freed_memory

__all__ = ["fit", "predict", "test", "validate"]


def _main(command: str, argv: list[str]) -> int:
    keep_freed_memory()
    return run_guarded(lambda: run([command, *argv]))


fit = partial(_main, "fit")
validate = partial(_main, "validate")
test = partial(_main, "test")
predict = partial(_main, "predict")
