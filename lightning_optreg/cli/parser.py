"""The command line's parser: one readable line for what is wrong with the arguments, and exit status 2."""

import importlib
import inspect
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, NoReturn

import yaml
from jsonargparse import ArgumentParser, Namespace, set_dumper
from lightning.pytorch import Callback
from lightning.pytorch.cli import LightningArgumentParser
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from typing_extensions import override

from lightning_optreg.cli.given import broken_config, file_of
from lightning_optreg.cli.messages import cause, nearest, one_line
from lightning_optreg.schedule_length import length_argument

__all__ = ["Parser", "init_arguments"]


class _Dumper(yaml.SafeDumper):
    """Writes enumerations as text, which is what they are made from again: Lightning has some as defaults."""


_Dumper.add_multi_representer(Enum, lambda dumper, member: dumper.represent_data(member.value))
set_dumper(
    "yaml",
    lambda data: yaml.dump(
        data, Dumper=_Dumper, default_flow_style=False, allow_unicode=True, sort_keys=False
    ),
)


class Parser(LightningArgumentParser):
    """LightningCLI's parser with error messages of one line.

    A message names the key, the value, what is allowed and names that are like a wrong one. Options can't be
    abbreviated: an abbreviation may mean something else in the next version.

    Example:
        >>> parser = Parser()
        >>> _ = parser.add_argument("--epochs", type=int)
        >>> parser.parse_args(["--epochs", "3"]).epochs
        3
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, "prog": "lightning-optreg", **kwargs})
        self.args: list[str] = []  # jsonargparse puts the command line here

    @override
    def parse_args(self, *args: Any, **kwargs: Any) -> Namespace:  # type: ignore[override]  # passes all on
        """Parse a command line."""
        try:
            return super().parse_args(*args, **kwargs)
        except UnicodeDecodeError as error:  # jsonargparse 4.53 lets it through
            self.error(f"Problems parsing config: {error}")

    def instantiate_classes(self, config: Namespace) -> Namespace:
        """Build what a configuration describes.

        Lightning 2.6 calls this by its old name, for which jsonargparse 4.53 has a warning.
        """
        objects: Namespace = self.instantiate(config)
        return objects

    @override
    def add_class_arguments(
        self, class_type: type, nested_key: str | None = None, *args: Any, **kwargs: Any
    ) -> list[str]:
        """Add the arguments of a class; the length of a schedule may be left out, and is the run's then."""
        name = length_argument(class_type)
        if name is None:
            return list(super().add_class_arguments(class_type, nested_key, *args, **kwargs))
        kwargs["skip"] = {*(kwargs.get("skip") or ()), name}
        added = super().add_class_arguments(class_type, nested_key, *args, **kwargs)
        key = name if nested_key is None else f"{nested_key}.{name}"
        help_ = "Length of the schedule. Leave it out: it is the run's."
        self.add_argument(f"--{key}", type=int | None, default=None, help=help_)
        return [*added, key]

    @override
    def add_function_arguments(
        self,
        function: Callable[..., object],
        *args: Any,
        linked_targets: set[str] | None = None,
        **kwargs: Any,
    ) -> list[str]:
        """Add the arguments of a function that makes a network, such as `torchvision.models.resnet18`.

        jsonargparse 4.53 tells this method which of them are links' targets, as it tells its counterpart for
        classes, but its own doesn't take that argument. It looks after those targets itself afterwards.
        """
        added: list[str] = super().add_function_arguments(function, *args, **kwargs)
        return added

    @override
    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print what is wrong in one line and exit with status 2.

        The parsers that jsonargparse makes for a class's arguments are of this class too; they raise their
        message instead, and it becomes part of the outer parser's.
        """
        if not self.exit_on_error:
            super().error(message, ex)
        # jsonargparse's advice is for the programmer of a command line.
        said = one_line(self._explain(message)).partition(" Add the import path to import_path_allowlist")[0]
        sys.stderr.write(f"error: {said}\n")
        raise SystemExit(2)

    def _explain(self, message: str) -> str:
        if found := re.match(r"unrecognized arguments: (\S+)", message):
            return self._unknown_option(found[1].partition("=")[0])
        if found := re.match(r"Subcommand '(\w+)' does not accept option '(.+)'", message):
            known = self._command(found[1]).get_defaults().keys()
            return f"unknown key {found[2]}{self._where(found[2])}{nearest(found[2], known)}"
        if found := re.match(r"Option '(.+)' is not accepted$", message):  # so it is put with --print_config
            known = self.get_defaults().keys()
            return f"unknown key {found[1]}{self._where(found[1])}{nearest(found[1], known)}"
        if found := re.match(r'Linked "(.+)" must be given via "(.+)"', message):
            return f"{found[1]} is taken from {found[2]}: leave it out"
        if found := re.match(r"argument (\S+) --> (\S+): ", message):
            return f"{found[2]} is taken from {found[1]}: give --{found[1]}"
        if found := re.match(r"argument subcommand: invalid choice: '(.*)' \(choose from (.+)\)", message):
            return f"unknown command {found[1]!r}{nearest(found[1], re.findall(r'[a-z]+', found[2]))}"
        if found := re.search(r'Parser key "config": File does not exist: \'(.+)\'', message):
            return _missing_file(Path(found[1]))
        if found := re.match(r"the following arguments are required: (.+)", message):
            names = re.sub(r"\b(fit|validate|test|predict)\.", "", found[1])
            return f"missing: {names} (give it on the command line or in a --config file)"
        if found := re.match(r"(Problems parsing|Unexpected) config: ((?s:.*))", message):
            kind = "no YAML" if found[1] == "Problems parsing" else "no mapping of keys to values"
            return f"config file {broken_config(self.args)!r} is {kind}: {found[2]}"
        return self._wrong_value(message)

    def _unknown_option(self, option: str) -> str:
        if not option.startswith("-"):
            return f"unexpected argument {option!r}: options begin with --"
        known = [*self.get_defaults().keys(), "config", "print_config", "help"]
        return f"unknown option {option}{nearest(option.lstrip('-'), known, prefix='--')}"

    def _command(self, name: str) -> ArgumentParser:
        """The parser of a command."""
        # argparse has no public way from a parser to those of its subcommands.
        commands = [action.choices for action in self._actions if isinstance(action.choices, dict)]
        parser: ArgumentParser = next(parsers[name] for parsers in commands if name in parsers)
        return parser

    def _where(self, key: str) -> str:
        file = file_of(self.args, key)
        return f" (in {file})" if file is not None else ""

    def _wrong_value(self, message: str) -> str:
        key, class_path, text, allowed, value, types, unknown_class = cause(message)
        owner = class_path.rpartition(".")[2] if class_path is not None else ""
        if found := re.match(r"Option '(.+)' is not accepted", text):
            full = f"{key}.{found[1]}"
            cls = _import(class_path or "")
            known = init_arguments(cls) if inspect.isclass(cls) else []
            close = nearest(found[1], [*known, *(["init_args"] if "." in found[1] else [])])
            return f"{full}: {owner} has no argument {found[1]!r}{self._where(full)}{close}"
        if found := re.match(r"the following arguments are required: (.+)", text):
            return f"{key}: {owner} needs {found[1]}{self._where(key)}"
        start = f"{key}{f' (of {owner})' if '.' in key and owner else ''}: "
        if text.startswith(("No module named", "module '")):
            return f"{key}: cannot import {class_path!r}{self._where(key)}: {text}{_like_import(text)}"
        if text:
            return f"{start if key else ''}{text.removeprefix('argument ')}{self._where(key)}"
        bases = [base for base in map(_import, types) if inspect.isclass(base)]
        if bases and (unknown_class is not None or not allowed):
            wrong = unknown_class or value or ""
            kind = Callback if issubclass(bases[0], Callback) else bases[0]
            known_as = f"{wrong!r} is no known {kind.__name__}"
            return f"{start}{known_as}{self._where(key)}{_like_class(wrong, bases)}"
        choice = ", ".join(allowed[:-1]) + " or " * (len(allowed) > 1) + "".join(allowed[-1:])
        close = nearest(value or "", allowed, few=0)
        return f"{start}must be {choice or 'of another type'}, got {value!r}{self._where(key)}{close}"


def init_arguments(cls: type) -> list[str]:
    """List the arguments that a class takes on the command line.

    Example:
        >>> from lightning_optreg.nets import SoftmaxRegression
        >>> init_arguments(SoftmaxRegression)
        ['num_classes', 'input_shape']
    """
    given = {Optimizer: {"params"}, LRScheduler: {"optimizer"}}  # by the program, not by the user
    skip = {name for base, names in given.items() if issubclass(cls, base) for name in names}
    added: list[str] = ArgumentParser().add_class_arguments(cls, fail_untyped=False, skip=skip)
    return added


def _missing_file(path: Path) -> str:
    siblings = [other.name for other in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
    shown = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
    return f"config: there is no file {str(shown)!r}{nearest(path.name, siblings)}"


def _like_import(text: str) -> str:
    """Names like one that a module has not got."""
    found = re.search(r"module '([\w.]+)' has no attribute '(\w+)'", text)
    if found is None:
        return ""
    return nearest(found[2], [name for name in dir(sys.modules[found[1]]) if name[0] != "_"], few=0)


def _like_class(wrong: str, bases: Sequence[type]) -> str:
    """Names like a wrong one among the classes that would do; the first base's names are looked at first."""
    return next((close for base in bases if (close := nearest(wrong, _names(base)))), "")


def _names(base: type) -> set[str]:
    usable = [cls for cls in _subclasses(base) if not inspect.isabstract(cls)]
    return {cls.__name__ for cls in usable if not cls.__name__.startswith("_")}


def _subclasses(base: type) -> Iterator[type]:
    subclass: type
    for subclass in base.__subclasses__():
        yield subclass
        yield from _subclasses(subclass)


def _import(path: str) -> Any:
    module, _, name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name, None) if module else None
    except ImportError:
        return None
