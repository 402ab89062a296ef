"""YAML in which a key that is there twice is a mistake, and not a way to lose what was said first."""

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml
from typing_extensions import override

__all__ = ["read_mapping"]


class _Loader(yaml.SafeLoader):
    @override
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: dict[Hashable, int] = {}
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            line = key_node.start_mark.line + 1
            if isinstance(key, Hashable) and key in seen:
                raise _TwiceError(f"{key!r} is there twice, in lines {seen[key]} and {line}")
            if isinstance(key, Hashable):
                seen[key] = line
        return super().construct_mapping(node, deep)


class _TwiceError(Exception):
    """A key is there twice."""


def read_mapping(path: Path, what: str) -> dict[str, Any]:
    """Read a file that holds a mapping; an empty one is an empty mapping.

    Args:
        path: The file.
        what: Begins messages: "config".

    Raises:
        ValueError: If it is no YAML, holds something else, or has a key twice in one mapping.
    """
    try:
        given = yaml.load(path.read_text(), _Loader)
    except yaml.YAMLError as error:
        raise ValueError(f"{what}: {path} is no YAML: {' '.join(str(error).split())}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{what}: {path} is no YAML: it is not text in UTF-8") from error
    except _TwiceError as error:
        raise ValueError(f"{what}: {path}: {error}; remove one, or give it another name") from None
    if given is None:
        return {}
    if not isinstance(given, dict):
        raise ValueError(f"{what}: {path} must hold a mapping, got {type(given).__name__}")
    return given
