"""YAML that says far more than it is long: anchors that multiply, nesting without end, numbers of a page.

Ten lines of anchors can stand for more values than there is memory, and PyYAML takes minutes for a thousand
brackets. So the text's events, of which each is small, are counted before anything is made of them.
"""

import re
from functools import lru_cache

import yaml
from yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent, ScalarEvent

__all__ = ["sprawl"]

_DEPTH = 64  # levels
_REPEATED = 20_000  # values that anchors stand for
_DIGITS = 100
_NUMBER = re.compile(r"[-+]?([0-9._:]+|0[xob][0-9a-fA-F_]+)")


@lru_cache(maxsize=64)
def sprawl(text: str) -> str | None:
    """Say why a text in YAML should not be read, as the end of a sentence about it; None if it may be.

    Args:
        text: The text; whether it is YAML is not said.

    Example:
        >>> sprawl("a: [1, 2]")
        >>> sprawl("[" * 100)
        'it is nested more than 64 levels deep'
        >>> sprawl("a: " + "9" * 1000)
        'it has a number of 1000 digits'
    """
    sizes: dict[str, int] = {}  # of what anchors stand for
    above: list[tuple[str | None, int]] = []  # anchors of what is open, and values until then
    values = written = 0
    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            if isinstance(event, CollectionEndEvent):
                anchor, before = above.pop()
                if anchor is not None:
                    sizes[anchor] = values - before
            elif isinstance(event, CollectionStartEvent):
                above.append((event.anchor, values))
                values, written = values + 1, written + 1
            elif isinstance(event, ScalarEvent):
                values, written = values + 1, written + 1
                if len(event.value) > _DIGITS and event.implicit[0] and _NUMBER.fullmatch(event.value):
                    return f"it has a number of {len(event.value)} digits"
            elif isinstance(event, AliasEvent):
                values += sizes.get(str(event.anchor), 1)  # 1: it is within what it names
            if len(above) > _DEPTH:
                return f"it is nested more than {_DEPTH} levels deep"
            if values - written > _REPEATED:
                return f"its anchors stand for more than {_REPEATED} values"
    except yaml.YAMLError:
        pass  # who reads it has a better message
    return None
