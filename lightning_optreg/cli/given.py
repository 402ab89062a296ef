"""What a user gave, on the command line and in configuration files, by key.

jsonargparse's complaints about a class's arguments name the argument but not the class or where it was given.
This finds both again. It only serves error messages.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

__all__ = ["Entry", "broken_config", "classes", "entries", "locate"]


class Entry(NamedTuple):
    """One thing that was given."""

    key: str
    """Such as `model.net.depth`: without `init_args`, and a list's items under the list's key."""
    value: Any
    owner: str | None
    """The class whose argument it is, as the user named it."""
    file: str | None
    """The configuration file; None for the command line."""


def entries(argv: Sequence[str]) -> list[Entry]:
    """List all that a command line and its configuration files give."""
    options = list(_options(argv))
    found: list[Entry] = []
    for key, value in options:
        if key == "config":
            try:
                found += _walk(yaml.safe_load(Path(value).read_text()), "", None, value)
            except (OSError, yaml.YAMLError, UnicodeDecodeError):
                continue  # jsonargparse's own message is about this
    for key, value in options:
        found.append(Entry(key, value, None, None))
    named = {entry.key: entry.value for entry in classes(found)}
    return [
        entry._replace(owner=named.get(entry.key.rpartition(".")[0])) if entry.owner is None else entry
        for entry in found
    ]


def _options(argv: Sequence[str]) -> Iterator[tuple[str, str]]:
    for i, word in enumerate(argv):
        if not word.startswith("--"):
            continue
        key, equals, value = word[2:].partition("=")
        if not equals:
            value = argv[i + 1] if i + 1 < len(argv) and not argv[i + 1].startswith("--") else ""
        key = key.rstrip("+").replace(".init_args.", ".").removesuffix(".init_args")
        yield key.removesuffix(".class_path"), value


def _walk(tree: Any, key: str, owner: str | None, file: str) -> Iterator[Entry]:
    if isinstance(tree, list):
        for item in tree:
            yield from _walk(item, key, None, file)
    elif not isinstance(tree, dict):
        yield Entry(key, tree, owner, file)
    else:
        name = tree.get("class_path")
        if isinstance(name, str):
            yield Entry(key, name, owner, file)
        for part, value in tree.items():
            if part == "class_path":
                continue
            part = str(part).rstrip("+")
            inner = key if part == "init_args" else f"{key}.{part}" if key else part
            if part == "init_args" and isinstance(value, dict):
                for argument, given in value.items():
                    yield from _walk(given, f"{inner}.{argument}", name, file)
            else:
                yield from _walk(value, inner, name if isinstance(name, str) else None, file)


def classes(found: Sequence[Entry]) -> list[Entry]:
    """Pick the entries that could name a class."""
    return [
        entry
        for entry in found
        if isinstance(entry.value, str) and entry.value.rpartition(".")[2][:1].isupper() and entry.key
    ]


def locate(found: Sequence[Entry], name: str) -> Entry | None:
    """Find where an argument was given: the last entry whose key ends with its name."""
    fitting = [entry for entry in found if entry.key == name or entry.key.endswith(f".{name}")]
    with_owner = [entry for entry in fitting if entry.owner is not None]
    return (with_owner or fitting or [None])[-1]


def broken_config(argv: Sequence[str]) -> str | None:
    """Name the first configuration file that is no YAML, or is no mapping."""
    for key, value in _options(argv):
        if key == "config" and Path(value).is_file():
            try:
                if not isinstance(yaml.safe_load(Path(value).read_text()), dict):
                    return value
            except (yaml.YAMLError, UnicodeDecodeError):
                return value
    return None
