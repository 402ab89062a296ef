"""Where a key was given: on the command line, in which configuration file, or nowhere."""

import os
import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import yaml

from lightning_optreg.cli.yaml_mapping import read_mapping
from lightning_optreg.recipes import find, similar

__all__ = [
    "Option",
    "chosen",
    "config_files",
    "file_of",
    "is_given",
    "mentions",
    "names_class",
    "options",
    "plain_key",
    "tree_of",
    "typed",
    "with_found_files",
]


class Option(NamedTuple):
    """An option of a command line.

    Attributes:
        name: Without its dashes.
        value: What stands after `=`, or else the next word.
        behind: The words behind it.
    """

    name: str
    value: str
    behind: Sequence[str]


def is_given(argv: Sequence[str], key: str) -> bool:
    """Return whether a command line or one of its configuration files gives a key.

    Example:
        >>> is_given(["--model.net={class_path: MLP, init_args: {dropout: 0.5}}"], "model.net.dropout")
        True
    """
    return _in_command(argv, key) or file_of(argv, key) is not None


def file_of(argv: Sequence[str], key: str) -> str | None:
    """Name the last configuration file that gives a key; None if the command line does, or nothing.

    Args:
        argv: The command line.
        key: Such as `model.net.depth`, without `init_args`; a list's items have the list's key.
    """
    if _in_command(argv, key):
        return None
    key = plain_key(key)
    for path in reversed(config_files(argv)):
        if key in _keys(tree_of(path), ""):
            return path
    return None


def names_class(argv: Sequence[str], key: str) -> bool:
    """Return whether a command line or one of its configuration files says which class a part is of.

    Example:
        >>> names_class(["--optimizer", "Adam"], "optimizer"), names_class(["--optimizer.lr=1"], "optimizer")
        (True, False)
    """
    return chosen(argv, key) is not None


def chosen(argv: Sequence[str], key: str) -> str | None:
    """Return the class that a command line, or else the last of its configuration files, names for a part.

    Or the text that they give for another key.

    Example:
        >>> chosen(["--optimizer", "Adam", "--optimizer.lr=1"], "optimizer")
        'Adam'
    """
    found = None
    for option in options(argv):
        if option.name in (key, f"{key}.class_path"):
            found = option.value
    for path in reversed([] if found is not None else config_files(argv)):
        part = tree_of(path)
        for name in key.split("."):
            part = part.get(name) if isinstance(part, dict) else None
        if isinstance(part, dict):
            part = part.get("class_path")
        if isinstance(part, str):
            return part
    return found


def mentions(argv: Sequence[str], word: str) -> bool:
    """Return whether a word is in a command line or its configuration files, wherever, or could be.

    It could be where a file gives another file in the place of a section.

    Example:
        >>> mentions(["fit", "--trainer.strategy=ddp"], "strategy"), mentions(["fit"], "strategy")
        (True, False)
    """
    trees = [tree_of(path) for path in config_files(argv)]
    parts = [part for tree in trees if isinstance(tree, dict) for part in (tree, *tree.values())]
    sections = [part.get("trainer") for part in parts if isinstance(part, dict)]
    return (
        any(word in each for each in argv)
        or any(word in str(tree) for tree in trees)
        or any(isinstance(section, str) for section in sections)
    )


def tree_of(path: str) -> Any:
    """Return what a configuration file says; None if it can't be read, for which the parser has a message."""
    try:
        return read_mapping(path, path)
    except (OSError, ValueError):
        return None


def _in_command(argv: Sequence[str], key: str) -> bool:
    for option, text, _ in options(argv):
        name = plain_key(option)
        if name == key:
            return True
        if text.startswith("{"):  # a class and its arguments in one word
            try:
                tree = yaml.safe_load(text)
            except (yaml.YAMLError, ValueError):
                continue  # jsonargparse has a message of its own for it
            if key in _keys(tree, name):
                return True
    return False


def config_files(argv: Sequence[str]) -> list[str]:
    """List the configuration files that a command line names, in its order.

    Example:
        >>> config_files(["fit", "--config", "a.yaml", "--config=b.yaml", "-cc.yaml"])
        ['a.yaml', 'b.yaml', 'c.yaml']
    """
    return [file for _, _, file in _config_words(argv)]


def _config_words(argv: Sequence[str]) -> Iterator[tuple[int, str, str]]:
    """The places of words that give configuration files, what stands there before the file, and the file."""
    for place, (word, following) in enumerate(pairwise([*argv, ""])):
        if word in ("--config", "-c"):
            yield place + 1, "", following
        elif found := re.match(r"(--config=|-c=?)(.+)", word, re.DOTALL):
            yield place, found[1], found[2]


def with_found_files(argv: Sequence[str]) -> list[str]:
    """Return a command line with the paths of the configuration files that it names.

    Args:
        argv: The command line, in which a file that comes with the package may have its name.

    Raises:
        FileNotFoundError: If there is no such file, but one in the package with a name like it. Else the
            parser looks for such names beside the file.

    Example:
        >>> with_found_files(["fit", "--config", "methods/emma"])
        Traceback (most recent call last):
        FileNotFoundError: config: there is no file 'methods/emma'; did you mean methods/ema?
    """
    words = list(argv)
    for place, before, file in _config_words(argv):
        if place < len(words):
            words[place] = before + _found_file(file)
    return words


def _found_file(word: str) -> str:
    file = find(word)
    is_name = re.fullmatch(r"[\w.][\w./-]*", word) is not None
    if file == word and is_name and not os.path.exists(word) and similar(word):
        raise FileNotFoundError(f"config: there is no file {word!r}{similar(word)}")
    return file


def typed(argv: Sequence[str], key: str) -> str | None:
    """Return what was typed last for a key on the command line; None if it is not there.

    Example:
        >>> typed(["fit", "--trainer.max_epochs", "1e2"], "trainer.max_epochs")
        '1e2'
    """
    found = None
    for option in options(argv):
        if plain_key(option.name) == key:
            found = option.value
    return found


def options(argv: Sequence[str]) -> Iterator[Option]:
    """List the options of a command line.

    Example:
        >>> for option in options(["fit", "--data.batch_size=8", "--optimizer", "Adam"]):
        ...     print(option.name, option.value)
        data.batch_size 8
        optimizer Adam
    """
    for place, (word, following) in enumerate(pairwise([*argv, ""]), 1):
        name, equals, value = word.partition("=")
        if name.startswith("--"):
            yield Option(name[2:], value if equals else following, argv[place:])


def plain_key(key: str) -> str:
    """Return a key as one types it on the command line, without what jsonargparse puts between.

    Example:
        >>> plain_key("optimizer.init_args.lr"), plain_key("trainer.callbacks+")
        ('optimizer.lr', 'trainer.callbacks')
    """
    return ".".join(part for part in key.rstrip("+").split(".") if part not in ("init_args", "class_path"))


def _keys(tree: Any, key: str) -> Iterator[str]:
    if isinstance(tree, list):
        for item in tree:
            yield from _keys(item, key)
    elif isinstance(tree, dict):
        for part, value in tree.items():
            inner = plain_key(f"{key}.{part}" if key else str(part))
            yield inner
            yield from _keys(value, inner)
