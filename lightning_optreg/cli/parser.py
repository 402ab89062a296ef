"""The command line's parser: one readable line for whatever is wrong with the arguments, and exit status 2."""

import importlib
import inspect
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, NoReturn

from jsonargparse import ArgumentParser, Namespace
from lightning.pytorch import Callback, LightningDataModule
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.loggers import Logger
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from typing_extensions import override

from lightning_optreg.cli.given import Entry, broken_config, classes, entries, locate
from lightning_optreg.cli.messages import cause, nearest, one_line
from lightning_optreg.nets import Network

__all__ = ["Parser"]

# Whose subclasses configurations name by their bare names.
_BASES: tuple[type, ...] = (Network, LightningDataModule, Callback, Logger, Optimizer, LRScheduler, nn.Module)


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

    _argv: ClassVar[Sequence[str]] = ()
    """The command line. It is the class's because parsers of subcommands are not told of it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, "prog": "lightning-optreg", **kwargs})

    @override
    def parse_args(self, args: Sequence[str] | None = None, *more: Any, **kwargs: Any) -> Namespace:  # type: ignore[override]  # Lightning gives the first only
        """Parse a command line."""
        Parser._argv = sys.argv[1:] if args is None else args
        return super().parse_args(args, *more, **kwargs)

    def instantiate_classes(self, config: Namespace) -> Namespace:
        """Build what a configuration describes.

        Lightning 2.6 calls this by its old name, for which jsonargparse 4.53 has a warning.
        """
        return self.instantiate(config)

    @override
    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print what is wrong in one line and exit with status 2."""
        if not self.exit_on_error:
            super().error(message, ex)
        sys.stderr.write(f"error: {one_line(self._explain(message))}\n")
        raise SystemExit(2)

    def _explain(self, message: str) -> str:
        given = entries(self._argv)
        if found := re.match(r"unrecognized arguments: (\S+)", message):
            return self._unknown_option(found[1].partition("=")[0])
        if found := re.match(r"Subcommand '\w+' does not accept option '(.+)'", message):
            return self._unknown_key(given, found[1])
        if found := re.match(r"Option '(.+)' is not accepted", message):
            return _unknown_argument(given, found[1])
        if found := re.match(r"the following arguments are required: (.+)", message):
            return _missing(given, found[1])
        if found := re.match(r'Linked "(.+)" must be given via "(.+)"', message):
            return f"{found[1]} is taken from {found[2]}: leave it out"
        if found := re.match(r"argument subcommand: invalid choice: '(.*)' \(choose from (.+)\)", message):
            return f"unknown command {found[1]!r}{nearest(found[1], re.findall(r'[a-z]+', found[2]))}"
        if found := re.search(r'Parser key "config": File does not exist: \'(.+)\'', message):
            return _missing_file(Path(found[1]))
        if message.startswith(("Problems parsing config", "Unexpected config")):
            what = message.partition(": ")[2]
            kind = "no YAML" if message.startswith("Problems") else "no mapping of keys to values"
            return f"config file {broken_config(self._argv)!r} is {kind}: {what}"
        return self._wrong_value(given, message)

    def _unknown_option(self, option: str) -> str:
        if not option.startswith("-"):
            return f"unexpected argument {option!r}: options begin with --"
        return f"unknown option {option}{nearest(option.lstrip('-'), self._keys(), prefix='--')}"

    def _unknown_key(self, given: Sequence[Entry], key: str) -> str:
        place = locate(given, key)
        return f"unknown key {key}{_where(place)}{nearest(key, self._keys())}"

    def _keys(self) -> list[str]:
        """All keys of the parser, or of the parser of the command that was given."""
        # argparse has no public way from a parser to those of its subcommands.
        commands = [action.choices for action in self._actions if isinstance(action.choices, dict)]
        for parsers in commands:
            for word in self._argv:
                if word in parsers:
                    return list(parsers[word].get_defaults().keys())
        return [*self.get_defaults().keys(), "config", "print_config", "help"]

    def _wrong_value(self, given: Sequence[Entry], message: str) -> str:
        found = cause(message)
        place = locate(given, found.key) if found.key else None
        key = (place.key if place else found.key) or ""
        of = f" (of {place.owner.rpartition('.')[2]})" if place and place.owner else ""
        start = f"{key}{of}: " if key else ""
        bases = [base for base in map(_import, found.types) if inspect.isclass(base)]
        if found.text:
            return f"{start}{found.text}{_like_import(found.text)}{_where(place)}"
        if bases and (found.unknown_class or not found.allowed):
            wrong = found.unknown_class or found.value or ""
            kind = bases[-1].__name__ if bases[-1] is not nn.Module else "network or module"
            return f"{start}{wrong!r} is no known {kind}{_where(place)}{_like_class(wrong, bases)}"
        if found.allowed:
            allowed = ", ".join(found.allowed[:-1]) + " or " * (len(found.allowed) > 1) + found.allowed[-1]
            close = nearest(found.value or "", found.allowed, few=0)
            return f"{start}must be {allowed}, got {found.value!r}{_where(place)}{close}"
        return f"{start}{message.removeprefix('argument ')}"


def _unknown_argument(given: Sequence[Entry], name: str) -> str:
    place = locate(given, name)
    if place is None or place.owner is None:
        return f"{place.key if place else name} is not accepted{_where(place)}"
    owner = find_class(place.owner)
    known = init_arguments(owner) if owner is not None else []
    short = place.owner.rpartition(".")[2]
    return f"{place.key}: {short} has no argument {name!r}{_where(place)}{nearest(name, known)}"


def _missing(given: Sequence[Entry], names: str) -> str:
    missing = [re.sub(r"^(fit|validate|test|predict)\.", "", name) for name in names.split(", ")]
    if missing[0] in ("model.net", "data"):
        return f"missing: {', '.join(missing)} (on the command line or in a --config file)"
    for place in classes(given):
        owner = find_class(str(place.value))
        if owner is not None and all(name in _required(owner) for name in missing):
            return f"{place.key}: {place.value} needs {', '.join(missing)}{_where(place)}"
    return f"missing: {', '.join(missing)}"


def _missing_file(path: Path) -> str:
    siblings = [other.name for other in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
    shown = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
    return f"config: there is no file {str(shown)!r}{nearest(path.name, siblings)}"


def _where(place: Entry | None) -> str:
    return f" (in {place.file})" if place is not None and place.file is not None else ""


def _like_import(text: str) -> str:
    """Names like one that a module has not got."""
    found = re.search(r"module '([\w.]+)' has no attribute '(\w+)'", text)
    module = sys.modules.get(found[1]) if found else None
    return (
        nearest(found[2], [name for name in dir(module) if name[0] != "_"], few=0) if found and module else ""
    )


def _like_class(wrong: str, bases: Sequence[type]) -> str:
    """Names like a wrong one among the classes that would do; the first base's names are looked at first."""
    for base in bases:
        close = nearest(wrong, _names(base))
        if close:
            return close
    return ""


def _names(base: type) -> set[str]:
    return {
        cls.__name__ for cls in _subclasses(base) if cls.__name__[0] != "_" and not inspect.isabstract(cls)
    }


def _subclasses(base: type) -> Iterator[type]:
    for cls in base.__subclasses__():
        yield cls
        yield from _subclasses(cls)


def _import(path: str) -> Any:
    module, _, name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name, None) if module else None
    except ImportError:
        return None


def find_class(name: str) -> type | None:
    """Find a class by its path, or by its bare name among the parts that configurations are made of.

    Example:
        >>> find_class("LeNet5").__module__
        'lightning_optreg.nets.lenet5'
    """
    if "." in name:
        found = _import(name)
        return found if inspect.isclass(found) else None
    for base in _BASES:
        for cls in _subclasses(base):
            if cls.__name__ == name:
                return cls
    return None


def init_arguments(cls: type) -> list[str]:
    """List the arguments that a class takes on the command line.

    Example:
        >>> from lightning_optreg.nets import SoftmaxRegression
        >>> init_arguments(SoftmaxRegression)
        ['num_classes', 'input_shape']
    """
    skip = (
        {"params"} if issubclass(cls, Optimizer) else {"optimizer"} if issubclass(cls, LRScheduler) else set()
    )
    added: list[str] = ArgumentParser().add_class_arguments(cls, fail_untyped=False, skip=skip)
    return added


def _required(cls: type) -> list[str]:
    parameters = inspect.signature(cls).parameters.values()
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return [p.name for p in parameters if p.default is inspect.Parameter.empty and p.kind in kinds]
