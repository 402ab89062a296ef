"""Settings in YAML, read strictly: what YAML lets pass and nobody means, as a key given twice, is refused."""

import re
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from lightning_optreg.trust import sprawl

__all__ = ["read_mapping", "read_text", "to_mapping", "twice"]


def read_mapping(path: str | Path, what: str) -> dict[str, Any]:
    """Read a file that maps keys to values.

    Args:
        path: The file.
        what: Begins the messages: "config file 'a.yaml'".

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is a folder, not text, not YAML or not a mapping, with the line if there is one.
    """
    return to_mapping(read_text(path, what), what)


def read_text(path: str | Path, what: str) -> str:
    """Read a file's text.

    Args:
        path: The file.
        what: Begins the messages.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is a folder, or not in UTF-8.
    """
    try:
        return Path(path).read_bytes().decode("utf-8")
    except IsADirectoryError:
        raise ValueError(f"{what} is a folder, not a file") from None
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{what} is not YAML in UTF-8: byte {error.start + 1} is {error.object[error.start]:#04x} "
            "(another encoding, or not text)"
        ) from None


def to_mapping(text: str, what: str, load: Callable[[str], Any] = yaml.safe_load) -> dict[str, Any]:
    r"""Read text that maps keys to values.

    Args:
        text: In YAML or JSON.
        what: Begins the messages.
        load: Makes values of the text.

    Raises:
        ValueError: If it is not YAML or not a mapping, has a key twice, contains itself, or says far more
            than it is long.

    Example:
        >>> to_mapping("a: 1\na: 2", "x.yaml")
        Traceback (most recent call last):
        ValueError: x.yaml, line 2: key 'a' is given twice
    """
    if (wrong := sprawl(text)) is not None:
        raise ValueError(f"{what}: {wrong}")
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        _refuse_slips(node, what)
        is_mapping, tree = isinstance(node, MappingNode), None if node is None else _loaded(text, what, load)
    except yaml.YAMLError as error:
        raise ValueError(_not_yaml(error, text, what)) from None
    except RecursionError:
        raise ValueError(f"{what} is nested too deeply") from None
    if tree is None:
        raise ValueError(f"{what} is empty: it must be a mapping of keys to values")
    if not is_mapping:
        kind = "a list" if isinstance(tree, list) else repr(tree)
        raise ValueError(f"{what} must be a mapping of keys to values (`key: value`), got {kind}")
    # jsonargparse's way to load makes text of a mapping without values
    return tree if isinstance(tree, dict) else yaml.safe_load(text)


def _loaded(text: str, what: str, load: Callable[[str], Any]) -> Any:
    try:
        return load(text)
    except ValueError as error:  # such as keys that are no text
        raise ValueError(f"{what}: {error}") from None


def twice(text: str) -> str | None:
    """Name a key that a mapping in YAML has twice, at any depth; None if there is none, or it is not YAML.

    Example:
        >>> twice("{class_path: Adam, init_args: {lr: 1, lr: 2}}")
        'lr'
    """
    if sprawl(text) is not None:
        return None
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError:
        return None
    found = next((key for mapping in _mappings(node) if (key := _repeated(mapping)) is not None), None)
    return None if found is None else str(found.value)


def _refuse_slips(node: Node | None, what: str) -> None:
    for mapping in _mappings(node):
        repeated = _repeated(mapping)
        if repeated is not None:
            line = repeated.start_mark.line + 1
            raise ValueError(f"{what}, line {line}: key {repeated.value!r} is given twice")
    if node is not None:
        _refuse_cycles(node, (), set(), what)


def _mappings(node: Node | None) -> list[MappingNode]:
    """All mappings of a document, each once."""
    waiting, seen, found = [node], set(), []
    while waiting:
        one = waiting.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, MappingNode):
            found.append(one)
            waiting += [part for pair in one.value for part in pair]
        elif isinstance(one, SequenceNode):
            waiting += one.value
    return sorted(found, key=lambda mapping: mapping.start_mark.index)


def _repeated(mapping: MappingNode) -> ScalarNode | None:
    seen: set[tuple[str, Hashable]] = set()
    for key, _ in mapping.value:
        if not isinstance(key, ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
            continue
        if (key.tag, key.value) in seen:
            return key
        seen.add((key.tag, key.value))
    return None


def _refuse_cycles(node: Node, above: tuple[int, ...], done: set[int], what: str) -> None:
    if id(node) in above:
        raise ValueError(f"{what}, line {node.start_mark.line + 1}: an anchor contains itself")
    if id(node) in done or not isinstance(node, (MappingNode, SequenceNode)):
        return
    parts = node.value if isinstance(node, SequenceNode) else [part for pair in node.value for part in pair]
    for part in parts:
        _refuse_cycles(part, (*above, id(node)), done, what)
    done.add(id(node))


def _not_yaml(error: yaml.YAMLError, text: str, what: str) -> str:
    """Where a text stops being YAML, and why."""
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    if mark is None:  # a character that YAML allows nowhere
        return f"{what} is not YAML: {' '.join(str(error).split())}"
    problem = " ".join(str(getattr(error, "problem", None) or error).split())
    problem = problem.replace("tag:yaml.org,2002:", "!!")
    lines = text.splitlines()
    number = min(mark.line, max(len(lines) - 1, 0))
    line = lines[number] if lines else ""
    began = getattr(error, "context_mark", None)
    since = f" (begun in line {began.line + 1})" if began is not None and began.line < number else ""
    if re.match(r"\s*\t", line) and "'\\t'" in problem:
        problem = "a tab; YAML is indented with spaces"
    elif "mapping values are not allowed" in problem and number > 0:
        problem = f"a mapping begins where line {number} has no colon, or is indented otherwise"
    shown = f": {line.strip()!r}" if line.strip() else ""
    return f"{what} is not YAML, line {number + 1}: {problem}{since}{shown[:80]}"
