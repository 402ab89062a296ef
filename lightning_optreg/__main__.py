"""The program `lightning-optreg`, also `python -m lightning_optreg`: dispatches on its first word.

Nothing heavy is imported before the command is known, so help, version and mistakes answer at once.
"""

import os
import sys

from lightning_optreg import __version__
from lightning_optreg._nearest import close_names, nearest
from lightning_optreg.commands import COMMANDS

__all__ = ["main"]

_COMMANDS = {command.name: command for command in COMMANDS}
_OPTIONS = ("--help", "--version", "--print_completion")
_ELSEWHERE = {word: command.name for command in COMMANDS for word in command.elsewhere}
_USAGE = """\
usage: lightning-optreg COMMAND [options]

{commands}

examples:
  lightning-optreg fit --config configs/fashion_mnist/lenet5.yaml --trainer.max_epochs 5
  lightning-optreg test --config configs/fashion_mnist/lenet5.yaml --ckpt_path best

lightning-optreg COMMAND --help lists a command's options; --version prints the version;
--print_completion bash (or zsh) prints a script by which the shell completes commands and options.\
"""


def main(argv: list[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: The command and its options. Default: those of this process.

    Returns:
        Exit status: 0; 2 if arguments or settings are wrong; 1 if the run failed; 130 after an interrupt, 143
        after SIGTERM; 141 if whoever reads the output closes it, as `| head` does.

    Example:
        >>> main(["--version"])
        lightning-optreg 0.2.0
        0
    """
    try:
        status = _run(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what Python still has to flush
        return 141
    except KeyboardInterrupt:  # while something is imported; a command has its own message
        print("error: interrupted", file=sys.stderr)
        return 130


def _run(argv: list[str]) -> int:
    command = argv[0] if argv else "--help"
    if command in ("-h", "--help", "help"):
        print(_USAGE.format(commands="\n".join(f"  {each.name:<10}{each.summary}" for each in COMMANDS)))
        return 0
    if command == "--version":
        print(f"lightning-optreg {__version__}")
        return 0
    if command.partition("=")[0] == "--print_completion":
        return _print_completion(command.partition("=")[2] or "".join(argv[1:2]))
    if command in _COMMANDS:
        return _COMMANDS[command].load()(argv[1:])
    print(f"error: {_unknown(command, argv[1:])}", file=sys.stderr)
    return 2


def _print_completion(shell: str) -> int:
    from lightning_optreg.commands.completion import completion_script  # imports Lightning

    try:
        print(completion_script(shell))
    except (ModuleNotFoundError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _unknown(word: str, following: list[str]) -> str:
    """Say what is wrong with a first word that is not a command."""
    what = "option" if word.startswith("-") else "command"
    later = next((other for other in following if other in _COMMANDS), None)
    if what == "option" and later is not None:
        return f"unknown option {word!r} before the command; write {later} first: {later} {word} ..."
    if word.endswith((".yaml", ".yml", ".json")):
        return f"unknown command {word!r}; did you mean fit --config {word}?"
    name = word.lower().lstrip("-")
    if what == "option" and close_names(word, _OPTIONS):
        return f"unknown option {word!r}{nearest(word, _OPTIONS)}"
    meant = _ELSEWHERE.get(name, name)  # a name that another program has for a command is the closest
    return f"unknown {what} {word!r}{nearest(meant, _COMMANDS, few=len(_COMMANDS))}"


if __name__ == "__main__":
    sys.exit(main())
