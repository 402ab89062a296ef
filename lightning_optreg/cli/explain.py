"""Turn jsonargparse's long error messages into one line."""

import importlib
import inspect
import re
import sys
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser
from lightning.pytorch import Callback, LightningDataModule
from lightning.pytorch.strategies import Strategy, StrategyRegistry
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lightning_optreg._nearest import nearest
from lightning_optreg.cli.actions import actions_of
from lightning_optreg.cli.given import chosen, file_of, typed
from lightning_optreg.cli.messages import Cause, cause, kind_of

__all__ = ["explain", "init_arguments", "sections"]

_DASHES = "-\u2010\u2011\u2012\u2013\u2014\u2212"
# Names of options in other programs.
_ELSEWHERE = {
    "checkpoint": "ckpt_path",
    "resume": "ckpt_path",
    "resume_from_checkpoint": "ckpt_path",
    "dataset": "data",
    "gpus": "trainer.devices",
    "learning_rate": "optimizer.lr",
    "output_dir": "trainer.default_root_dir",
    "scheduler": "lr_scheduler",
}
# Arguments whose class adds options of its own.
_PARTS: dict[str, type] = {
    "data": LightningDataModule,
    "model.net": nn.Module,
    "optimizer": Optimizer,
    "lr_scheduler": LRScheduler,
    "trainer.strategy": Strategy,
}


def explain(message: str, parser: ArgumentParser, reading: str | None = None) -> str:
    """Explain an error message of jsonargparse in one line.

    Args:
        message: The message.
        parser: The parser that raised it; its `args` are the command line.
        reading: The configuration file that was being read, if any.
    """
    return _Explanation(parser, reading).of(message)


class _Explanation:
    def __init__(self, parser: ArgumentParser, reading: str | None) -> None:
        self.parser, self.reading, self.args = parser, reading, list(parser.args)

    def of(self, message: str) -> str:
        if found := re.match(r"unrecognized arguments: (.*)", message, re.DOTALL):
            return self._unknown_word(found[1])
        if found := re.match(r"Subcommand '(\w+)' does not accept option '(.+)'", message):
            return self._unknown_key(found[2], _options(self._command(found[1]), self.args))
        if found := re.match(r"Option '(.+)' is not accepted$", message):  # its words with --print_config
            command = self.args[0] if self.args and "subcommand" in self.parser.get_defaults() else None
            parser = self.parser if command is None else self._command(command)
            return self._unknown_key(found[1], _options(parser, self.args))
        if found := re.match(r"Group '(.+)' does not accept option '(.+)'$", message):
            return self._unknown_key(f"{found[1]}.{found[2]}", _options(self.parser, self.args))
        if found := re.match(r'Linked "(.+)" must be given via "(.+)"', message):
            return f"{found[1]} is taken from {found[2]}: leave it out"
        if found := re.match(r"argument (\S+) --> (\S+): ", message):
            return f"{found[2]} is taken from {found[1]}: give --{found[1]}"
        if found := re.match(r"argument subcommand: invalid choice: '(.*)' \(choose from (.+)\)", message):
            return f"unknown command {found[1]!r}{nearest(found[1], re.findall(r'[a-z]+', found[2]))}"
        if found := re.search(r'Parser key "config": File does not exist: \'(.*)\'', message):
            return _missing_file(Path(found[1]))
        if found := re.search(r'Parser key "config": Path is not a file: \'(.*)\'', message):
            return f"config: {_shown(Path(found[1]))!r} is a folder, not a file"
        if found := re.search(
            r'Parser key "config": (?:Problems parsing|Unexpected) config: ((?s:.*))', message
        ):
            return f"config: {found[1]!r} is neither a file nor a mapping of keys to values"
        if found := re.match(r"(?:Problems parsing|Unexpected) config: ((?s:.*))", message):
            where = f"config file {self.reading!r}" if self.reading is not None else "config"
            return f"{where} must be a mapping of keys to values, got {found[1][:60]!r}"
        if found := re.match(r"the following arguments are required: (.+)", message):
            names = re.sub(r"\b(fit|validate|test|predict)\.", "", found[1])
            return f"missing: {names} (give it on the command line or in a --config file)"
        if found := re.match(r"argument (--\S+): expected ", message):
            return f"{self._without_value(found[1])}: {message.partition(': ')[2]}"
        if found := re.match(r"--(\S+)\.help: Expected a dot import path string: (.*)", message):
            base = _PARTS.get(found[1])
            close = "" if base is None else nearest(found[2], _names(base), few=0)
            return f"--{found[1]}.help: there is no class {found[2]!r}{close}"
        if found := re.search(r'Parser key "([\w.]+)":\s+Unable to load config ["\'](.*)["\']', message):
            return self._no_section(found[1], found[2])
        return self._wrong_value(cause(message))

    def _unknown_word(self, words: str) -> str:
        first = words.split(" ")[0]
        word = next((one for one in self.args if one and words.startswith(one)), first)
        option, equals, _ = word.partition("=")
        name = option.lstrip(_DASHES)
        known = [*_options(self.parser, self.args), "config", "print_config", "help", "safe", "allow"]
        if option.startswith("-") and name:
            meant = _ELSEWHERE.get(name)
            close = f"; did you mean --{meant}?" if meant in known else nearest(name, known, prefix="--")
            return f"unknown option {option}{close}"
        if option == "--":
            rest = words.removeprefix("--").split()
            return f"unexpected argument '--': write --{rest[0] if rest else 'option'}, without a space"
        if re.search(r"\.ya?ml$|\.json$", word):
            return f"unexpected argument {word!r}; did you mean --config {word}?"
        # suggest options only for words that look like one, not for a 5
        close = nearest(name, known, prefix="--", few=0) if option != name or equals or "." in name else ""
        return f"unexpected argument {word!r}: options begin with --{close}"

    def _without_value(self, option: str) -> str:
        """The option as it was typed: jsonargparse names only the class's part of it."""
        for word, following in pairwise([*self.args, "--"]):
            if word.startswith(f"{option}.") and "=" not in word and following.startswith("--"):
                return word
        return option

    def _unknown_key(self, key: str, known: Sequence[str]) -> str:
        return f"unknown key {key}{self._where(key)}{nearest(key, known)}"

    def _no_section(self, key: str, value: str) -> str:
        some = ", ".join(f"--{key}.{name}" for name in sections(self.parser).get(key, ())[:2])
        return f"{key}: must be given by its settings, such as {some}, got {value!r}{self._where(key)}"

    def _command(self, name: str) -> ArgumentParser:
        """The parser of a command."""
        commands = [action.choices for action in actions_of(self.parser) if isinstance(action.choices, dict)]
        parser: ArgumentParser = next(parsers[name] for parsers in commands if name in parsers)
        return parser

    def _where(self, key: str) -> str:
        file = self.reading if self.reading is not None else file_of(self.args, key)
        return f" (in {file})" if file is not None else ""

    def _wrong_value(self, found: Cause) -> str:
        key, class_path, text, allowed, value, types, unknown_class = found
        owner = class_path.rpartition(".")[2] if class_path is not None else ""
        if match := re.match(r"Option '(.+)' is not accepted", text):
            full = f"{key}.{match[1]}"
            cls = _import(class_path or "")
            known = init_arguments(cls) if inspect.isclass(cls) else []
            close = nearest(match[1], [*known, *(["init_args"] if "." in match[1] else [])])
            return f"{full}: {owner} has no argument {match[1]!r}{self._where(full)}{close}"
        if match := re.match(r"Group '(.+)' does not accept option", text):
            return (
                f"{key}: {match[1]!r} is not a setting{self._where(key)}; a class is written "
                f"class_path: {match[1]}, with its arguments below init_args"
            )
        if match := re.match(r"the following arguments are required: (.+)", text):
            return f"{key}: {owner} needs {match[1]}{self._where(key)}"
        start = f"{key}{f' (of {owner})' if '.' in key and owner else ''}: "
        if text.startswith(("No module named", "module '")):
            return f"{key}: cannot import {class_path!r}{self._where(key)}: {text}{_like_import(text)}"
        if text:
            return f"{start if key else ''}{text.removeprefix('argument ')}{self._where(key)}"
        bases = [base for base in map(_import, types) if inspect.isclass(base)]
        kinds = list(
            dict.fromkeys((Callback if issubclass(base, Callback) else base).__name__ for base in bases)
        )
        wrong = unknown_class or value or ""
        is_name = wrong == "" or re.match(r"[\[{]|-?\d+(\.\d*)?$|True$|False$", wrong) is None
        if Strategy in bases and wrong in ("auto", *StrategyRegistry):
            return f"{start}{_without_class(wrong)}{self._where(key)}"
        if bases and is_name and (unknown_class is not None or not set(allowed) - {"null"}):
            known_as = f"{wrong!r} is not a known {kinds[0]}"
            return f"{start}{known_as}{self._where(key)}{_like_class(wrong, bases)}"
        if kinds and not set(allowed) - {"null", "list"}:
            allowed = (f"a class ({kinds[0]})", *allowed)
        choice = ", ".join(allowed[:-1]) + " or " * (len(allowed) > 1) + "".join(allowed[-1:])
        given = None if self.reading is not None else typed(self.args, key)
        shown = value if given is None or given.startswith("{") else given
        close = nearest(shown or "", [one for one in allowed if one not in _TYPE_NAMES], few=0)
        return f"{start}must be {choice or 'of another type'}, got {kind_of(shown)}{self._where(key)}{close}"


_TYPE_NAMES = ("bool", "dict", "float", "int", "list", "str", "tuple", "Sequence", "Path_fr")


def sections(parser: ArgumentParser) -> dict[str, list[str]]:
    """Return the groups of settings that are not a choice of a class, trainer and model, with their keys."""
    keys = list(parser.get_defaults(skip_validation=True).keys())
    groups: dict[str, list[str]] = {}
    for group in parser.groups or ():
        names = [key[len(group) + 1 :] for key in keys if key.startswith(f"{group}.")]
        if names and group not in keys and "class_path" not in names:
            groups[group] = names
    return groups


def _options(parser: ArgumentParser, argv: Sequence[str]) -> list[str]:
    """The options of a command and those of the chosen classes."""
    defaults = list(parser.get_defaults(skip_validation=True).keys())
    keys = [key.replace(".init_args", "") for key in defaults]
    for part, base in _PARTS.items():
        name = chosen(argv, part)
        if name is None or not any(key == part or key.startswith(f"{part}.") for key in keys):
            continue
        found = _import(name) or next((cls for cls in _subclasses(base) if cls.__name__ == name), None)
        if inspect.isclass(found):
            keys += [f"{part}.{argument}" for argument in init_arguments(found)]
    return [key for key in keys if not key.endswith("class_path")]


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
    siblings = sorted(other.name for other in path.parent.glob("*.y*ml")) if path.parent.is_dir() else []
    return f"config: there is no file {_shown(path)!r}{nearest(path.name, siblings)}"


def _shown(path: Path) -> str:
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def _without_class(name: str) -> str:
    """Say why a strategy's short name has no arguments, and what to write instead."""
    if name == "auto":
        return "no strategy is named that could have arguments; put --trainer.strategy NAME in front"
    made = StrategyRegistry[name]["strategy"].__name__
    return f"{name!r} is a name without arguments; to set some, name its class, {made}"


def _like_import(text: str) -> str:
    """Suggest names of a module that are close to a missing one."""
    found = re.search(r"module '([\w.]+)' has no attribute '(\w+)'", text)
    if found is None:
        return ""
    there = vars(sys.modules[found[1]]).items()
    classes = [name for name, one in there if name[0] != "_" and callable(one)]
    modules = [name for name, one in there if name[0] != "_" and inspect.ismodule(one)]
    return nearest(found[2], classes, few=0) or nearest(found[2], modules, few=0)


def _like_class(wrong: str, bases: Sequence[type]) -> str:
    """Suggest subclasses whose names are close to a wrong one, those of the first base first."""
    like = [close for base in bases if (close := nearest(wrong, _names(base), few=0))]
    return next(iter(like), None) or next(
        (close for base in bases if (close := nearest(wrong, _names(base)))), ""
    )


def _names(base: type) -> list[str]:
    usable = [cls for cls in _subclasses(base) if not inspect.isabstract(cls)]
    return sorted({cls.__name__ for cls in usable if not cls.__name__.startswith("_")})


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
