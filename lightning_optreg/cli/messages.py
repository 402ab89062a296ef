"""jsonargparse's messages boiled down to their innermost cause, and names that are like a wrong one.

For a value that fits none of a union's types, jsonargparse reports every type's complaint, nested as deep as
the classes are. Nearly all of it repeats that None or a class was expected; one line says what is wrong.
"""

import difflib
import re
from collections.abc import Iterable
from typing import NamedTuple

__all__ = ["Cause", "boil_down", "cause", "nearest", "one_line"]

# Lines that frame a complaint and say nothing themselves.
_FRAME = re.compile(
    r"Does not validate against|Subtypes: |Errors:$|Given value type: |Given value: |Expected a path but |"
    r"Subclass types expect one of|a class path \(str\)|a dict with|Not a valid subclass of|Import path does not"
)
_EXPECTED = re.compile(r"Expected an? (?!dot import path)(.+?)(?:\. Got value: (.*))?$")
_IMPORT = re.compile(r"Expected a dot import path string: (.+)$")
_CLASS_PATH = re.compile(r"Problem with given class_path '(.+)':$")
_KEY = re.compile(r'Parser key "([^"]+)"(?: element \d+)?:\s*')
_TYPE = re.compile(r"[A-Za-z_][\w]*(?:\.\w+)*\.[A-Z]\w*")


class Cause(NamedTuple):
    """What a message of jsonargparse comes down to."""

    text: str
    """The innermost complaint; empty if it is one about types."""
    key: str | None
    """The argument, as far as the message names it."""
    allowed: tuple[str, ...]
    """Types and values that would do."""
    value: str | None
    """The value that was refused."""
    unknown_class: str | None
    """A class name that led nowhere."""
    types: tuple[str, ...]
    """Dotted names of the types that were expected."""


def cause(message: str) -> Cause:
    """Take a message of jsonargparse apart.

    Example:
        >>> cause('Parser key "max_epochs":\\n  Does not validate against any of the Union subtypes\\n'
        ...       "  Subtypes: [<class 'int'>, <class 'NoneType'>]\\n  Errors:\\n    - Expected a <class 'int'>\\n"
        ...       "    - Expected a <class 'NoneType'>\\n  Given value type: <class 'str'>\\n  Given value: x")
        Cause(text='', key='max_epochs', allowed=('int', 'null'), value='x', unknown_class=None, types=())
    """
    keys = _KEY.findall(message)
    allowed: dict[str, None] = {}
    types: dict[str, None] = {}
    texts: dict[str, None] = {}
    value = unknown_class = None
    lines = [line.strip() for line in _KEY.sub("\n", message).splitlines()]
    for i, line in enumerate(lines):
        line = line.removeprefix("- ")
        if line.startswith("Subtypes: ") or line.startswith("Import path does not"):
            types |= dict.fromkeys(_TYPE.findall(line))
        if line.startswith("Given value: ") and value is None:
            value = line.removeprefix("Given value: ")
        if not line or _FRAME.match(line):
            continue
        if found := _IMPORT.match(line):
            unknown_class = unknown_class or found[1]
        elif found := _EXPECTED.match(line):
            allowed |= dict.fromkeys(_readable(found[1]))
            value = found[2] or value
        elif found := _CLASS_PATH.match(line):
            following = lines[i + 1] if i + 1 < len(lines) else ""
            if following.startswith(("module ", "No module ")):
                texts[f"cannot import {found[1]!r}"] = None
        else:
            texts[line] = None
    types.pop("torch.Tensor", None)  # learning rates may be tensors: nothing to type on a command line
    return Cause(
        "; ".join(_first_kind(texts)),
        keys[-1] if keys else None,
        tuple(allowed),
        value,
        unknown_class,
        tuple(types),
    )


def _first_kind(texts: Iterable[str]) -> list[str]:
    """The first complaint, and the reason why an import failed."""
    texts = list(texts)
    return texts[:2] if texts and texts[0].startswith("cannot import") else texts[:1]


def _readable(expected: str) -> list[str]:
    """What a person types for "<class 'int'>" or "typing.Literal['a', 'b']"."""
    if expected.startswith("typing.Literal["):
        return [word.strip().strip("'\"") for word in expected[len("typing.Literal[") : -1].split(",")]
    name = expected.removeprefix("<class '").removesuffix("'>")
    return ["null" if name == "NoneType" else name.rpartition(".")[2]]


def boil_down(message: str) -> str:
    """Return the innermost cause in a message of jsonargparse; other messages as they are.

    Example:
        >>> boil_down("Does not validate against any of the Union subtypes\\nSubtypes: [<class 'a.Net'>]\\n"
        ...           "Errors:\\n  - ResNet: depth must be 6n + 2, got 21\\n  - Expected a <class 'NoneType'>\\n"
        ...           "Given value type: <class 'dict'>\\nGiven value: {}")
        'ResNet: depth must be 6n + 2, got 21'
    """
    if not _FRAME.search(message):
        return message.strip()
    found = cause(message)
    if found.text:
        return found.text
    return f"must be {' or '.join(found.allowed) or 'another type'}, got {found.value}"


def one_line(message: str) -> str:
    """Return a message with its line breaks made spaces."""
    return " ".join(message.split())


def nearest(name: str, known: Iterable[str], *, prefix: str = "", few: int = 12) -> str:
    """Return the end of an error message: names like a wrong one, or all if they are few.

    Args:
        name: The wrong name.
        known: The right ones.
        prefix: Put before each name.
        few: So many names are shown when none is like the wrong one.

    Example:
        >>> nearest("dpeth", ["depth", "width"]), nearest("x", ["depth", "width"])
        ('; did you mean depth?', '; known: depth, width')
    """
    by_lower_case = {other.lower(): other for other in known}
    near = difflib.get_close_matches(name.lower(), by_lower_case, n=3, cutoff=0.6)
    near = near or [other for other in by_lower_case if len(name) > 3 and name.lower() in other][:3]
    if near:
        return f"; did you mean {' or '.join(prefix + by_lower_case[other] for other in near)}?"
    if 0 < len(by_lower_case) <= few:
        return f"; known: {', '.join(prefix + other for other in sorted(by_lower_case.values()))}"
    return ""
