"""Types and values as one types them on the command line."""

import inspect
import types
from collections.abc import Iterable, Mapping
from enum import Enum
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from jsonargparse import Namespace

__all__ = ["shown_type", "shown_value"]

_TEXTS = (str, Path, bytes)


def shown_type(hint: Any) -> str:
    """Return a type in a few words.

    Args:
        hint: The type.

    Example:
        >>> shown_type(int | None), shown_type(Literal["A", "B"]), shown_type(list[int]), shown_type(bool)
        ('int|null', 'A|B', '[int, ...]', 'true|false')
    """
    if hint is None or hint is type(None):
        return "null"
    if hint is bool:
        return "true|false"
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return "|".join(shown_value(value) for value in arguments)
    if origin in (Union, types.UnionType):
        return "|".join(dict.fromkeys(word for each in _without_kinds(arguments) for word in _words(each)))
    if inspect.isclass(origin):
        return _container(origin, arguments)
    if inspect.isclass(hint):
        return _class(hint)
    return "VALUE" if hint is Any else str(getattr(hint, "__name__", "VALUE"))


def _words(hint: Any) -> list[str]:
    """A member of a union; the values of a Literal one by one, for two may have the same."""
    return (
        [shown_value(value) for value in get_args(hint)]
        if get_origin(hint) is Literal
        else [shown_type(hint)]
    )


def _without_kinds(arguments: Iterable[Any]) -> list[Any]:
    """The members of a union, without those whose base is one too; null last."""
    given = list(arguments)
    classes = [each for each in given if inspect.isclass(each)]
    kept = [
        each
        for each in given
        if not (
            inspect.isclass(each)
            and each is not bool  # which is an int to Python, and not to a reader
            and any(other is not each and issubclass(each, other) for other in classes)
        )
    ]
    return sorted(kept, key=lambda each: each is type(None))


def _container(origin: Any, arguments: tuple[Any, ...]) -> str:
    if issubclass(origin, Mapping):
        return "{NAME: VALUE, ...}" if not arguments else f"{{{', '.join(map(shown_type, arguments[:2]))}}}"
    if issubclass(origin, tuple) and Ellipsis not in arguments:
        return f"[{', '.join(map(shown_type, arguments))}]"
    if issubclass(origin, Iterable):
        return f"[{shown_type(arguments[0]) if arguments else 'VALUE'}, ...]"
    return "NAME"  # a function that makes something


def _class(hint: type) -> str:
    if issubclass(hint, Enum):
        return "|".join(member.name for member in hint)
    if hint in (int, float):
        return hint.__name__
    if hint is dict:
        return "{NAME: VALUE, ...}"
    if hint in (list, tuple, set):
        return "[VALUE, ...]"
    return "TEXT" if issubclass(hint, _TEXTS) or hint.__module__ == "jsonargparse.typing" else "NAME"


def shown_value(value: Any) -> str:
    """Return a value as one types it.

    Example:
        >>> shown_value(None), shown_value(True), shown_value((1, 28, 28)), shown_value("A")
        ('null', 'true', '[1, 28, 28]', 'A')
    """
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Enum):
        return str(value.name)
    if isinstance(value, Namespace):
        value = value.as_dict()
    if isinstance(value, Mapping) and "class_path" in value:
        arguments = value.get("init_args") or {}
        inside = ", ".join(f"{name}={shown_value(each)}" for name, each in dict(arguments).items())
        return f"{str(value['class_path']).rpartition('.')[2]}{f'({inside})' if inside else ''}"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{name}: {shown_value(each)}' for name, each in value.items())}}}"
    if isinstance(value, list | tuple | set | frozenset):
        return f"[{', '.join(map(shown_value, value))}]"
    return str(value)
