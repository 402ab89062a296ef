"""The known names closest to a wrong one: how every message of the package ends that refuses a name.

Only the standard library is imported: the program answers a mistyped command with it, before torch is loaded.
"""

import difflib
from collections.abc import Iterable

__all__ = ["close_names", "nearest"]

_MOST = 3


def close_names(name: str, known: Iterable[str]) -> list[str]:
    """Return up to three known names that are close to a wrong one, the closest first.

    Case does not count. A dotted name also matches by its last part, and a longer one by containing the name.

    Args:
        name: The wrong name.
        known: The names that exist.

    Example:
        >>> close_names("adm", ["SGD", "Adam", "AdamW"])
        ['Adam', 'AdamW']
    """
    name = name.lower()
    by_lower_case = {other.lower(): other for other in known}
    near = [other for other in by_lower_case if other.rpartition(".")[2] == name != other]
    near += difflib.get_close_matches(name, by_lower_case, n=_MOST, cutoff=0.6)
    if not near or near[0].rpartition(".")[2] == name:
        near += [other for other in by_lower_case if len(name) > 3 and name in other]
    return [by_lower_case[other] for other in dict.fromkeys(near)][:_MOST]


def nearest(name: str, known: Iterable[str], *, prefix: str = "", few: int = 12) -> str:
    """Return the end of an error message: the names close to a wrong one, or all names if they are few.

    Args:
        name: The wrong name.
        known: The names that exist, in the order they are listed.
        prefix: Put before each name.
        few: If no name is close, all are listed up to this number of them.

    Returns:
        Text that begins with a semicolon; empty if there is nothing to say.

    Example:
        >>> nearest("dpeth", ["depth", "size"]), nearest("x", ["depth", "size"])
        ('; did you mean depth?', '; known: depth, size')
    """
    known = list(dict.fromkeys(known))
    near = close_names(name, known)
    if near:
        return f"; did you mean {' or '.join(prefix + other for other in near)}?"
    if 0 < len(known) <= few:
        return f"; known: {', '.join(prefix + other for other in known)}"
    return ""
