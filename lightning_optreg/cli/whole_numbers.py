"""Whole numbers stay whole where a type takes `int` and `float`.

typing keeps one of each pair of types that it holds to be equal, and `Union[float, int]` equals `Union[int,
float]`: which order an annotation has depends on who was imported first. jsonargparse tries the types of a
union in their order, so 1 may become 1.0, and to Lightning a limit of 1 is one batch and 1.0 is all of them.
"""

import functools
import operator
import types
from collections.abc import Iterable
from typing import Any, Union, get_args, get_origin

__all__ = ["ints_first", "put_ints_first"]

_CONTAINERS = (list, tuple, dict, set, frozenset)


def ints_first(typehint: Any) -> Any:
    """Return a type with `int` before `float` in its unions, inside of containers too.

    Example:
        >>> ints_first(float | list[float | int] | int | None)
        int | float | list[int | float] | None
    """
    arguments, origin = get_args(typehint), get_origin(typehint)
    if not arguments:
        return typehint
    if origin is Union or origin is types.UnionType:
        ordered = [ints_first(argument) for argument in arguments]
        if float in ordered and int in ordered:
            ordered.remove(int)
            ordered.insert(ordered.index(float), int)
        if all(new is old for new, old in zip(ordered, arguments, strict=True)):
            return typehint
        try:
            return functools.reduce(operator.or_, ordered)  # which is not kept, as `Union[...]` is
        except TypeError:  # some member is not a type
            return typehint
    if isinstance(origin, type) and (issubclass(origin, _CONTAINERS) or issubclass(origin, Iterable)):
        ordered = [ints_first(argument) for argument in arguments]
        if any(new is not old for new, old in zip(ordered, arguments, strict=True)):
            return types.GenericAlias(origin, tuple(ordered))
    return typehint


def put_ints_first(actions: Iterable[Any]) -> None:
    """Let arguments of jsonargparse's parsers try `int` before `float`.

    Args:
        actions: The arguments, as the parser holds them.
    """
    for action in actions:
        # Private in jsonargparse 4.53: there is no public way from an argument to the type it is read as.
        if hasattr(action, "_typehint"):
            action._typehint = ints_first(action._typehint)
