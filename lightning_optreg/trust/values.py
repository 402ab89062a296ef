"""Check every value of a file before jsonargparse sees it: it may only build what is trusted.

jsonargparse builds an object from any mapping with `class_path`. Where a class or a function is expected, it
also imports a bare string, reads a settings file that a string names, and parses a string as YAML. So each
string is checked by the type that the class declares for this argument; arguments declared as text, numbers
or paths are left alone.
"""

import argparse
import enum
import importlib.util
import inspect
import os
import re
import sys
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import get_loader

from lightning_optreg.trust.classes import Trust, UntrustedError
from lightning_optreg.trust.extent import sprawl

__all__ = ["Place", "check_values", "read_yaml"]


_load = get_loader("yaml")


def read_yaml(text: str) -> Any:
    """Parse YAML as jsonargparse does, which accepts some text that PyYAML refuses, such as 30 February.

    Args:
        text: The text.

    Raises:
        yaml.YAMLError: If it is no YAML.
        ValueError: If it says far more than it is long, or its keys are no text.
    """
    if (wrong := sprawl(text)) is not None:
        raise ValueError(wrong)
    try:
        return _load(text)
    except TypeError:  # of jsonargparse 4.53, over a key without a value that is no text
        raise ValueError("its keys must be text") from None


class Place(enum.Enum):
    """What a value is for."""

    PLAIN = "text, numbers, paths"
    FREE = "anything, and nothing is built from it"
    OPEN = "a class may be built from it"


_DOTTED_NAME = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")
_PATHS = ("class_path", "_class_path")  # the second is what Lightning 2.6 writes to checkpoints
_DOWNLOADS = ("weights", "weights_backbone", "pretrained", "pretrained_backbone")  # of torchvision's makers
_COLLECTIONS = (list, tuple, set, frozenset, dict, Mapping, Sequence, Iterable)


def check_values(
    values: Any,
    *,
    trust: Trust,
    what: str,
    owner: Any = None,
    groups: Mapping[str, Any] | None = None,
    folder: Path | None = None,
) -> None:
    """Raise an error if a value would import or build something that is not trusted.

    Args:
        values: Nested mappings, lists and plain values, as YAML or a checkpoint holds them.
        trust: What may be named.
        what: The file, for the start of the message.
        owner: Class that the values are arguments of, if any.
        groups: Without an owner: for keys of the outermost mapping, the class that their values are arguments
            of, or the `Place` of their values.
        folder: Folder of the file that the values come from, where jsonargparse looks for further files;
            None if they don't come from a file.

    Raises:
        UntrustedError: With the file, the key, the class, and how to trust it.

    Example:
        >>> evil = {"net": {"class_path": "torch.nn.ReLU", "init_args": {"x": {"class_path": "os.system"}}}}
        >>> check_values(evil, trust=Trust(), what="a.ckpt")
        Traceback (most recent call last):
        lightning_optreg.trust.classes.UntrustedError: a.ckpt: net.x: os.system is not of lightning_optreg, \
Lightning, torch, torchvision or torchmetrics, so nothing of it is imported or built (--allow PACKAGE adds a \
package of yours)
    """
    check = _Check(trust, what, [Path(), *([] if folder is None else [folder])])
    mapping = _as_mapping(values)
    if owner is not None and mapping is not None and "_class_path" not in mapping:
        check.arguments(mapping, [owner], "")
    elif groups is not None and mapping is not None:
        for name, inner in _nested(mapping):
            group = groups.get(name, Place.OPEN)
            if isinstance(group, Place):
                check.visit(inner, group, str(name))
            else:
                check.arguments(inner, [group], str(name))
    else:
        check.visit(values, Place.OPEN, "")


class _Check:
    """A walk through the values of one file."""

    def __init__(self, trust: Trust, what: str, folders: Sequence[Path]) -> None:
        self.trust, self.what, self.folders = trust, what, folders
        self.seen: dict[tuple[int, Place], Any] = {}  # visited once: YAML's aliases may repeat or form loops

    def refuse(self, key: str, reason: object) -> typing.NoReturn:
        key = "".join(
            c if c.isprintable() else "?" for c in key
        )  # it comes from the file and is printed to a terminal
        raise UntrustedError(": ".join(part for part in (self.what, key, str(reason)) if part))

    def find(self, path: str, key: str) -> list[Any]:
        try:
            return self.trust.find(path)
        except UntrustedError as error:
            self.refuse(key, error)

    def visit(self, value: Any, place: Place, key: str) -> None:
        if isinstance(value, str):
            if place is not Place.PLAIN:
                self.text(value, place, key)
            return
        mapping = _as_mapping(value)
        if mapping is None and not isinstance(value, (list, tuple, set, frozenset)):
            return
        if (id(value), place) in self.seen:
            return
        self.seen[id(value), place] = value
        if mapping is None:
            for number, item in enumerate(value):
                self.visit(item, place, f"{key}[{number}]")
            return
        pairs = _nested(mapping)
        paths = [inner for name, inner in pairs if name in _PATHS]
        if paths:
            self.specification(paths, [pair for pair in pairs if pair[0] not in _PATHS], key)
            return
        for name, inner in pairs:
            # Without a class path they may still be arguments of a class that another file names.
            self.visit(inner, Place.FREE if place is Place.FREE else Place.OPEN, _joined(key, name))

    def specification(self, paths: list[Any], pairs: list[tuple[Any, Any]], key: str) -> None:
        """A class and its arguments."""
        found: list[Any] = []
        for path in paths:
            if not isinstance(path, str):
                self.refuse(key, f"class_path must be a string, got {path!r}")
            found += self.find(path, key)
        for name, inner in pairs:
            self.arguments(inner if name in ("init_args", "dict_kwargs") else {name: inner}, found, key)

    def arguments(self, value: Any, owners: list[Any], key: str) -> None:
        """Arguments that one of these classes or functions gets."""
        mapping = _as_mapping(value)
        if mapping is None:
            self.visit(value, Place.OPEN, key)
            return
        for name, inner in _nested(mapping):
            where = _joined(key, name)
            if name in _DOWNLOADS and inner not in (None, False) and self.downloads(owners):
                self.refuse(where, f"{inner!r} would be downloaded{self.trust.hint('torchvision')}")
            self.visit(inner, _place(owners, str(name)), where)

    def downloads(self, owners: list[Any]) -> bool:
        """Return whether they are torchvision's and the user has not allowed it."""
        homes = [str(getattr(owner, "__module__", "")) for owner in owners]
        theirs = any(home.startswith("torchvision.") for home in homes)
        return theirs and not any(map(self.trust.is_allowed, owners))

    def text(self, value: str, place: Place, key: str) -> None:
        word = value.strip()
        if "://" in word or "::" in word:  # marks of fsspec's addresses, which jsonargparse would fetch
            self.refuse(key, f"{word!r} is an address, and what lies there may not say what is built")
        if place is Place.OPEN and any(_is_file(folder, word) for folder in self.folders):
            self.refuse(key, f"{word!r} is a file, which may not say here what is built")
        if _DOTTED_NAME.fullmatch(word):
            if place is Place.OPEN and ("." not in word or self.trust.is_home(word) or _is_importable(word)):
                self.find(word, key)
            return
        try:
            inner = read_yaml(value)
        except yaml.YAMLError:
            return
        except ValueError as error:  # not a number, or too much
            self.refuse(key, f"it cannot be read: {error}")
        except RecursionError:
            self.refuse(key, "it is nested too deeply")
        if not isinstance(inner, str):
            self.visit(inner, place, key)


def _joined(key: str, name: Any) -> str:
    return f"{key}.{name}" if key else str(name)


def _as_mapping(value: Any) -> Mapping[Any, Any] | None:
    if isinstance(value, Mapping):
        return value
    return vars(value) if isinstance(value, argparse.Namespace) else None  # jsonargparse's are of that class


def _nested(value: Mapping[Any, Any]) -> list[tuple[Any, Any]]:
    """Pairs as jsonargparse reads them: `a.b` is b of a, and `a+` adds to a."""
    pairs = []
    for key, inner in value.items():
        first, _, rest = key.partition(".") if isinstance(key, str) else (key, "", "")
        first = first.rstrip("+") if isinstance(first, str) else first
        pairs.append((first, {rest: inner} if rest else inner))
    return pairs


def _is_file(folder: Path, word: str) -> bool:
    """Return whether something can be read there, including a pipe."""
    try:
        path = folder / os.path.expanduser(word)
        return path.exists() and not path.is_dir()
    except (OSError, ValueError):  # too long, or not a possible file name
        return False


def _is_importable(path: str) -> bool:
    top = path.partition(".")[0]
    # Finding the top-level name imports nothing.
    return top in sys.modules or importlib.util.find_spec(top) is not None


def _place(owners: list[Any], name: str) -> Place:
    """Return what an argument may hold, over all classes or functions that could receive it."""
    declared = [annotation for owner in owners for annotation in _annotations(owner, name)]
    if not declared:
        return Place.OPEN
    if all(annotation is Any for annotation in declared):
        return Place.FREE
    return Place.PLAIN if all(map(_is_plain, declared)) else Place.OPEN


def _annotations(owner: Any, name: str) -> Iterator[Any]:
    """Types that a class's constructors, or a function, declare for an argument; Any if they declare none."""
    functions = [vars(c).get("__init__") for c in owner.__mro__] if inspect.isclass(owner) else [owner]
    for function in functions:
        if not inspect.isfunction(function):
            continue
        parameter = inspect.signature(function).parameters.get(name)
        if parameter is None or parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            continue
        try:
            declared = typing.get_type_hints(function).get(name)
        except (NameError, TypeError, AttributeError):
            declared = object  # unknown, so anything may be built
        if declared is None:
            default = parameter.default
            declared = (
                Any if default is parameter.empty or default is None or _is_plain(type(default)) else object
            )
        yield declared


def _is_plain(annotation: Any) -> bool:
    """Return whether a type means text, numbers, paths, or collections of them."""
    origin = typing.get_origin(annotation)
    if origin is typing.Literal:
        return True
    if origin in (typing.Union, types.UnionType) or origin in _COLLECTIONS:
        return all(part is Ellipsis or _is_plain(part) for part in typing.get_args(annotation))
    if annotation is None or annotation is type(None):
        return True
    if origin is PathLike:
        return True
    return inspect.isclass(annotation) and issubclass(
        annotation, (str, int, float, complex, bytes, PathLike, enum.Enum)
    )
