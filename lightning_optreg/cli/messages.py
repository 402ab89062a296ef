"""jsonargparse's messages boiled down to their innermost cause.

For a value that fits none of a union's types, jsonargparse reports every type's complaint, nested as deep as
the classes are. Nearly all of it repeats that None or a class was expected; one line says what is wrong.
"""

import re
from itertools import takewhile
from typing import NamedTuple

__all__ = ["Cause", "boil_down", "cause", "kind_of", "one_line"]

# Lines that frame a complaint and say nothing themselves. A bare name may fit two classes of a union's wider
# type; that is no news after the narrower type's own complaint.
_FRAME = re.compile(
    r"Does not validate against|Subtypes: |Errors:$|Given value|Expected a path but |"
    r"Multiple subclasses with|Not a valid subclass of|Import path (?:.* )?does not|"
    r"Subclass types expect one of|a class path \(str\)|a dict with"
)
_INNER = re.compile(
    r"^( *(?:- )?)(Parser key|Problem with given class_path) [\"']([^\"']+)[\"'].*:$", re.MULTILINE
)
_EXPECTED = re.compile(r"Expected an? (?!dot import path)(.+?)(?:\. Got value: (.*))?$")
_IMPORT = re.compile(r"Expected a dot import path string:(?: (.*))?$")
_TYPE = re.compile(r"[a-z_]\w*(?:\.\w+)*\.[A-Z]\w*")
# Union members that nobody types on a command line.
_NO_CHOICE = ("torch.Tensor", "collections.")


class Cause(NamedTuple):
    """What a message of jsonargparse comes down to."""

    key: str
    """The argument, such as `data.augment.padding`; empty if the message names none."""
    class_path: str | None
    """The innermost class that was being read."""
    text: str
    """The innermost complaint; empty if it is only that the type is wrong."""
    allowed: tuple[str, ...]
    """Types and values that would do."""
    value: str | None
    """The value that was refused."""
    types: tuple[str, ...]
    """Dotted names of the classes whose subclasses would do."""
    unknown_class: str | None
    """A bare class name that led nowhere."""


def cause(message: str) -> Cause:
    """Take a message of jsonargparse apart.

    Example:
        >>> found = cause('''Parser key "model.net":
        ...   Does not validate against any of the Union subtypes
        ...   Errors:
        ...     - Problem with given class_path 'lightning_optreg.nets.ResNet':
        ...         Parser key "depth":
        ...           Expected a <class 'int'>. Got value: a
        ...     - Expected a <class 'NoneType'>''')
        >>> found.key, found.class_path, found.allowed, found.value
        ('model.net.depth', 'lightning_optreg.nets.ResNet', ('int',), 'a')
    """
    keys, class_path = [], None
    while found := _INNER.search(message):
        if found[2] == "Parser key":
            keys.append(found[3])
        else:
            class_path = found[3]
        message = _block(message[found.end() + 1 :], indent=len(found[1]))

    texts: list[str] = []
    allowed: dict[str, None] = {}
    types: dict[str, None] = {}
    value = unknown_class = None
    for line in message.splitlines():
        line = line.strip().removeprefix("- ")
        if line.startswith(("Subtypes: ", "Import path ")):
            types |= dict.fromkeys(path for path in _TYPE.findall(line) if not path.startswith(_NO_CHOICE))
        elif line.startswith("Given value: "):
            value = value or line.removeprefix("Given value: ")
        if line in ("", "-") or _FRAME.match(line):
            continue
        if found := _IMPORT.match(line):
            unknown_class = found[1] or ""
        elif found := _EXPECTED.match(line):
            allowed |= dict.fromkeys(_readable(found[1]))
            value = found[2] or value
        else:
            texts.append(line)
    text = texts[0] if texts else ""
    return Cause(".".join(keys), class_path, text, tuple(allowed), value, tuple(types), unknown_class)


def _block(text: str, indent: int) -> str:
    """The first lines of a text that are indented by more."""
    deeper = " " * (indent + 1)
    return "\n".join(takewhile(lambda line: not line or line.startswith(deeper), text.splitlines()))


def _readable(expected: str) -> list[str]:
    """What a person types for "<class 'int'>" or "typing.Literal['a', 'b']"."""
    if expected.startswith("typing.Literal["):
        return [word.strip().strip("'\"") for word in expected[len("typing.Literal[") : -1].split(",")]
    name = expected.removeprefix("<class '").removesuffix("'>")
    name = name.replace("collections.abc.Sequence", "list")
    return ["null" if name == "NoneType" else name if "[" in name else name.rpartition(".")[2]]


def boil_down(message: str) -> str:
    """Return the innermost cause of an error while classes were built; other messages as they are.

    Example:
        >>> boil_down('''Does not validate against any of the Union subtypes
        ... Errors:
        ...   - ResNet: depth must be 6n + 2, got 21
        ...   - Expected a <class 'NoneType'>
        ... Given value: {}''')
        'ResNet: depth must be 6n + 2, got 21'
    """
    if not message.startswith("Does not validate against"):
        return message.strip()
    return cause(message).text or message.strip()


def one_line(message: str) -> str:
    """Return a message with its line breaks made spaces."""
    return " ".join(message.split())


def kind_of(value: str | None) -> str:
    """Show a value that was refused; a long one by its beginning.

    Example:
        >>> kind_of("fast"), kind_of("[1, 2]")
        ("'fast'", "the list '[1, 2]'")
    """
    if value is None:
        return "nothing"
    kinds = {"[": ("]", "the list "), "{": ("}", "the mapping ")}
    end, kind = kinds.get(value[:1], ("", ""))
    kind = kind if value.endswith(end) else ""
    return f"{kind}{(value if len(value) <= 80 else f'{value[:77]}...')!r}"
