"""The first page of help of `fit`, `validate`, `test` and `predict`: what people set, and where to find more.

It imports neither torch nor Lightning, so that it is there at once. The whole list of options is in
`options.py`, one part's arguments in `part.py`.
"""

import shutil
import textwrap
from typing import NamedTuple

from lightning_optreg.cli.help.short_names import names_of
from lightning_optreg.recipes import names as recipes

__all__ = ["OPTIONS", "asks_for_help", "in_columns", "page", "subject"]

_COLUMN = 34  # where the text begins


class Option(NamedTuple):
    """A line of the page.

    Attributes:
        name: The option without dashes.
        value: What it takes.
        text: What it does.
        default: What holds where it is not given, as its place in the configuration says it; None: the text
            says it, or nothing.
        commands: The commands that show it.
    """

    name: str
    value: str
    text: str
    default: str | None = None
    commands: tuple[str, ...] = ("fit", "validate", "test", "predict")


_FIT, _OTHERS = ("fit",), ("validate", "test", "predict")
OPTIONS = (
    Option("config", "FILE", "a recipe, an overlay or your file; repeat it to add or change"),
    Option(
        "ckpt_path", "auto|last|FILE", "go on with a run; auto: if there is one to go on with", None, _FIT
    ),
    Option("ckpt_path", "best|last|FILE", "the checkpoint: of the newest run, or a file", None, _OTHERS),
    Option("model.net", "NAME", "the network; or a path: torchvision.models.resnet18"),
    Option("model.loss", "NAME", "the loss; default: CrossEntropyLoss", None, _FIT),
    Option("data", "NAME", ", ".join(names_of("data"))),
    Option("data.data_dir", "DIR", "where the images are; default: searched for, or downloaded"),
    Option("data.batch_size", "N|full", "images of a batch of one process", "128"),
    Option("data.augment+", "NAME", "a random change of training images; its arguments follow", None, _FIT),
    Option("optimizer", "NAME", "the optimizer; default: SGD, lr 0.1, momentum 0.9", None, _FIT),
    Option("optimizer.lr", "X", "its learning rate; its other arguments likewise", None, _FIT),
    Option("lr_scheduler", "NAME", "the learning rate's schedule; default: a constant rate", None, _FIT),
    Option("trainer.max_epochs", "N", "passes over the training images; default: 1000", None, _FIT),
    Option("trainer.accelerator", "cpu|gpu", "the kind of device", "auto"),
    Option("trainer.devices", "N|[0,1]", "how many devices, or which", "auto"),
    Option("trainer.strategy", "NAME", "how processes share the work: ddp, LocalSGD, ...", "auto", _FIT),
    Option("trainer.precision", "NAME", "bf16-mixed, 16-mixed, 64-true, ...; default: 32-true"),
    Option("trainer.callbacks+", "NAME", "a method or a record to add; its arguments follow"),
    Option("trainer.default_root_dir", "DIR", "where runs are kept, a folder or a URL", "runs"),
    Option("seed_everything", "N", "seed of weights and of every random choice", "0"),
    Option("print_config", "", "show the whole configuration that results, and run nothing"),
    Option("safe", "", "build only known parts, for a file from a stranger"),
)
_WHAT = {
    "fit": "Trains a network. A recipe says everything; options change any of its settings.",
    "validate": "Measures a checkpoint on the validation images.",
    "test": "Measures a checkpoint on the test images.",
    "predict": "Writes a checkpoint's predictions to predictions.csv in the run's folder.",
}
_OWN_SETTINGS = "Without a recipe, settings are the run's own, which the checkpoint holds."
_LISTS = {"networks": "model.net", "optimizers": "optimizer", "schedules": "lr_scheduler"}


def asks_for_help(words: list[str]) -> bool:
    """Return whether a command line asks for help.

    Example:
        >>> asks_for_help(["--config", "a.yaml", "--help"]), asks_for_help(["--model.net.help=MLP"])
        (True, False)
    """
    return any(word in ("-h", "--help") or word.startswith("--help=") for word in words)


def subject(words: list[str]) -> str | None:
    """Return what help is asked about: the word after `--help`, or None for the page.

    Example:
        >>> subject(["--help", "ResNet"]), subject(["--help=all"]), subject(["--help"])
        ('ResNet', 'all', None)
    """
    for place, word in enumerate(words):
        if word.startswith("--help="):
            return word.partition("=")[2] or None
        if word in ("-h", "--help"):
            following = next(iter(words[place + 1 :]), "")
            is_option = following.startswith("--") and following[2:] in ("config", "ckpt_path", "safe")
            return None if is_option else following.lstrip("-") or None
    return None


def page(command: str) -> str:
    """Return the page.

    Args:
        command: `fit`, `validate`, `test` or `predict`.

    Example:
        >>> print(page("test").splitlines()[0])
        usage: lightning-optreg test --ckpt_path best [--config FILE] [--option value ...]
    """
    of_what = "--config FILE" if command == "fit" else "--ckpt_path best [--config FILE]"
    lines = [f"usage: lightning-optreg {command} {of_what} [--option value ...]", ""]
    lines += [_WHAT[command], *([] if command == "fit" else [_OWN_SETTINGS]), ""]
    for option in OPTIONS:
        if command in option.commands:
            text = option.text if option.default is None else f"{option.text}; default: {option.default}"
            lines += in_columns(f"--{option.name} {option.value}".rstrip(), text)
    lines.append("")
    if command == "fit":
        for title, key in _LISTS.items():
            lines += in_columns(title, ", ".join(names_of(key)), column=14)
        callbacks = f"{', '.join(names_of('trainer.callbacks', own=True))}, and Lightning's"
        lines += in_columns("callbacks", callbacks, column=14)
        methods = ", ".join(name.partition("/")[2] for name in recipes() if name.startswith("methods/"))
        lines += in_columns("overlays", f"--config methods/NAME: {methods}", column=14)
        lines.append("")
    lines += [
        f"lightning-optreg {command} --help NAME: a part's arguments (ResNet, FashionMNISTDataModule),",
        "or an option with all that it takes (trainer.strategy, data.augment); NAME may be all.",
        "lightning-optreg configs: every recipe and overlay, and what it is for.",
    ]
    return "\n".join(lines)


def in_columns(head: str, text: str, *, column: int = _COLUMN) -> list[str]:
    """Set a name and its text side by side, as wide as the terminal but at most 110 characters.

    Args:
        head: The name.
        text: What it does.
        column: Where the text begins.

    Example:
        >>> in_columns("--steps N", "how many", column=13)
        ['  --steps N  how many']
    """
    width = max(60, min(110, shutil.get_terminal_size((100, 24)).columns))
    indent = " " * column
    lines = textwrap.wrap(text, width - column, break_long_words=False, break_on_hyphens=False)
    start = f"  {head}"
    if len(start) > column - 2 or not lines:
        return [start, *(indent + line for line in lines)]
    return [f"{start:<{column}}{lines[0]}", *(indent + line for line in lines[1:])]
