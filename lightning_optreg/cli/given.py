"""Where a key was given: on the command line, in which configuration file, or nowhere."""

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

__all__ = ["broken_config", "config_files", "file_of", "is_given", "names_class"]


def is_given(argv: Sequence[str], key: str) -> bool:
    """Tell whether a command line or one of its configuration files gives a key.

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
    for path in reversed(config_files(argv)):
        try:
            tree = yaml.safe_load(Path(path).read_text())
        except (OSError, yaml.YAMLError, UnicodeDecodeError):
            continue  # jsonargparse has a message of its own for it
        if key in _keys(tree, ""):
            return path
    return None


def names_class(argv: Sequence[str], key: str) -> bool:
    """Tell whether a command line or one of its configuration files says which class a part is of.

    Example:
        >>> names_class(["--optimizer", "Adam"], "optimizer"), names_class(["--optimizer.lr=1"], "optimizer")
        (True, False)
    """
    if any(word.partition("=")[0] in (f"--{key}", f"--{key}.class_path") for word in argv):
        return True
    for path in config_files(argv):
        try:
            part = yaml.safe_load(Path(path).read_text())
        except (OSError, yaml.YAMLError, UnicodeDecodeError):
            continue  # jsonargparse has a message of its own for it
        for name in key.split("."):
            part = part.get(name) if isinstance(part, dict) else None
        if isinstance(part, str) or (isinstance(part, dict) and "class_path" in part):
            return True
    return False


def broken_config(argv: Sequence[str]) -> str | None:
    """Name the first configuration file that is no YAML, or no mapping."""
    for path in config_files(argv):
        try:
            if not isinstance(yaml.safe_load(Path(path).read_text()), dict):
                return path
        except (OSError, yaml.YAMLError, UnicodeDecodeError):
            return path
    return None


def _in_command(argv: Sequence[str], key: str) -> bool:
    for word, following in pairwise([*argv, ""]):
        option, equals, value = word.partition("=")
        if not option.startswith("--"):
            continue
        name = _plain(option[2:])
        if name == key:
            return True
        text = value if equals else following
        if text.startswith("{"):  # a class and its arguments in one word
            try:
                tree = yaml.safe_load(text)
            except yaml.YAMLError:
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
    files = []
    for word, following in pairwise([*argv, ""]):
        if word in ("--config", "-c"):
            files.append(following)
        elif word.startswith("--config="):
            files.append(word.partition("=")[2])
        elif re.match("-c.", word):
            files.append(word[2:].removeprefix("="))
    return files


def _plain(key: str) -> str:
    return ".".join(part for part in key.rstrip("+").split(".") if part not in ("init_args", "class_path"))


def _keys(tree: Any, key: str) -> Iterator[str]:
    if isinstance(tree, list):
        for item in tree:
            yield from _keys(item, key)
    elif isinstance(tree, dict):
        for part, value in tree.items():
            inner = _plain(f"{key}.{part}" if key else str(part))
            yield inner
            yield from _keys(value, inner)
