"""The command `configs`: list, show and copy the YAML files that come with the package."""

import shutil
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from lightning_optreg import recipes
from lightning_optreg._nearest import nearest
from lightning_optreg.cli.option_parser import OptionParser, UsageError

__all__ = ["main"]

_ACTIONS = ("list", "show", "copy")
_WIDTH = 110
_KINDS = {
    "methods": "overlays: each adds a method to any recipe, fit --config RECIPE --config OVERLAY",
    "studies": "studies, for compare, tune and crossval",
    "sweeps": "sweeps, for wandb",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run `lightning-optreg configs`.

    Args:
        argv: The words after the command's name: nothing, `list`, `show NAME` or `copy NAME`, with `--output
            FILE`. Default: those of this process.

    Returns:
        Exit status: 0; 2 if the arguments are wrong, with one line on the standard error.

    Example:
        >>> main(["show", "methods/bf16"])
        # Compute in bfloat16 where that is safe, and keep weights in float32. Saves time and memory on GPUs \
from Ampere on and on
        # CPUs with AMX or AVX512-BF16.
        trainer:
          precision: bf16-mixed
        0
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    action = argv.pop(0) if argv and not argv[0].startswith("-") else "list"
    try:
        if action not in _ACTIONS:
            raise UsageError(_unknown(action))
        name = argv.pop(0) if action != "list" and argv and not argv[0].startswith("-") else None
        parser = _parser()
        options = parser.read(argv)
        if options.help:
            print(parser.format_help().rstrip())
        elif action == "list":
            print(_listing())
        else:
            file = _file(action, name)
            if action == "show":
                print(file.read_text(encoding="utf-8").rstrip())
            else:
                _copy(file, options.output or Path(file.name))
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> OptionParser:
    parser = OptionParser(
        prog="lightning-optreg configs",
        usage="lightning-optreg configs [list | show NAME | copy NAME [--output FILE]]",
        description="List the recipes, overlays and studies that come with the package, show one, or copy "
        "one to a file that you can edit. Their names work wherever a file does: --config NAME.",
        allow_abbrev=False,
        add_help=False,
    )
    parser.add_argument("-h", "--help", action="store_true", help="show this message")
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="with copy: the new file; default: its name, here"
    )
    return parser


def _listing() -> str:
    """Return all names with a line each, by folder."""
    lines: list[str] = []
    longest = max(map(len, recipes.names()))
    kind = None
    for name in recipes.names():
        folder = name.partition("/")[0]
        if folder != kind:
            kind = folder
            title = _KINDS.get(folder, "recipes, for fit and test")
            lines += ["", title] if title not in lines else [""]
        about = textwrap.shorten(recipes.head(name), _WIDTH - longest - 4, placeholder=" ...")
        lines.append(f"  {name:<{longest}}  {about}")
    return "\n".join(lines).strip()


def _file(action: str, name: str | None) -> Path:
    if name is None:
        raise UsageError(f"configs {action} needs a name, such as fashion_mnist/lenet5")
    known = recipes.known_as(name)
    if known not in recipes.names():
        raise UsageError(f"configs {action}: nothing is called {name!r}{recipes.similar(name)}")
    return recipes.FOLDER / f"{known}.yaml"


def _copy(file: Path, target: Path) -> None:
    if target.is_dir():
        target /= file.name
    if target.exists():
        raise UsageError(f"configs copy: {str(target)!r} exists; give another file with --output")
    if not target.parent.is_dir():
        raise UsageError(f"configs copy: there is no folder {str(target.parent)!r}")
    try:
        shutil.copyfile(file, target)
    except OSError as error:
        raise UsageError(f"configs copy: {error}") from error
    print(target)


def _unknown(action: str) -> str:
    if recipes.known_as(action) in recipes.names():
        return f"configs {action}: say what to do with it: configs show {action}, configs copy {action}"
    return f"unknown word {action!r}{nearest(action, _ACTIONS)}"
