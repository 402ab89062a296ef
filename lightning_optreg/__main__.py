"""`python -m lightning_optreg <command>`, also installed as `lightning-optreg`."""

import difflib
import sys
from collections.abc import Sequence

from lightning_optreg import __version__

__all__ = ["main"]

_TRAINER_COMMANDS = {
    "fit": "train a network, validate it as it goes, keep the best and the last checkpoint",
    "validate": "measure a checkpoint on the validation images",
    "test": "measure a checkpoint on the test images: accuracy, likelihood, calibration",
    "predict": "write class probabilities of the test images to a file",
}
_OTHER_COMMANDS = {
    "describe": "print a network's layers: output size, memory, parameters, multiply-adds",
    "export": "write a trained network as an ONNX file",
}
_COMMANDS = {**_TRAINER_COMMANDS, **_OTHER_COMMANDS}

_HELP = """\
usage: lightning-optreg COMMAND [OPTIONS]
       lightning-optreg COMMAND --help

Optimization and regularization methods of deep learning, on PyTorch Lightning.

commands:
{commands}

options:
  -h, --help  show this and leave; after a command: that command's options
  --version   print the version and leave

examples:
  lightning-optreg fit --config configs/fashion_mnist/lenet5.yaml
  lightning-optreg test --config configs/fashion_mnist/lenet5.yaml --ckpt_path best

In place of lightning-optreg, `python -m lightning_optreg` works too."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Nothing that takes long to import is imported before it is clear what is to be done.

    Args:
        argv: The command and its options. Default: those of this process.

    Returns:
        Exit status: 0; 1 if a run failed; 2 if a command, an option or a configuration is wrong; 130 after
        Ctrl-C. What is wrong is said in one message on the standard error.

    Example:
        >>> main(["--version"])
        lightning_optreg 0.1.0
        0
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help", "help"):
        width = max(map(len, _COMMANDS))
        print(_HELP.format(commands="\n".join(f"  {name:{width}}  {what}" for name, what in _COMMANDS.items())))
        return 0
    if words[0] == "--version":
        print(f"lightning_optreg {__version__}")
        return 0
    command, options = words[0], words[1:]
    if command in _TRAINER_COMMANDS:
        from lightning_optreg.cli.errors import run_guarded
        from lightning_optreg.cli.main_cli import run

        return run_guarded(lambda: run(words))
    if command == "describe":
        from lightning_optreg.describe import main as run_describe

        return run_describe(options)
    if command == "export":
        from lightning_optreg.export import main as run_export

        return run_export(options)
    near = difflib.get_close_matches(command, _COMMANDS, n=2, cutoff=0.5)
    hint = f"; nearest: {', '.join(near)}" if near else ""
    print(f"error: unknown command {command!r}{hint}; commands: {', '.join(_COMMANDS)}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
