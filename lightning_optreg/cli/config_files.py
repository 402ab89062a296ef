"""A configuration file, looked through before jsonargparse reads it, which takes some mistakes silently."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_optreg._nearest import nearest
from lightning_optreg.cli.yaml_mapping import read_text, to_mapping
from lightning_optreg.trust import read_yaml

__all__ = ["check_config"]

_SPECIFICATION = ("class_path", "init_args", "dict_kwargs")


def check_config(path: Path, what: str, sections: Mapping[str, Sequence[str]]) -> None:
    """Refuse a file that is not a mapping, has a key twice, or puts something else in a section's place.

    Args:
        path: The file.
        what: Begins the messages: "config file 'a.yaml'".
        sections: The keys that are groups of settings, such as `trainer`, and some settings of each.

    Raises:
        ValueError: With the file, the key and what belongs there.
        FileNotFoundError: If there is no such file.

    Example:
        >>> import tempfile
        >>> with tempfile.NamedTemporaryFile("w") as file:
        ...     _ = file.write("trainer: 3")
        ...     file.flush()
        ...     check_config(Path(file.name), "config file 'a.yaml'", {"trainer": ["max_epochs"]})
        Traceback (most recent call last):
        ValueError: config file 'a.yaml': 'trainer' must be a mapping of settings, such as max_epochs, got 3
    """
    tree = to_mapping(read_text(path, what), what, read_yaml)
    for key, settings in sections.items():
        value = tree.get(key, {})
        is_other_file = isinstance(value, str) and (path.parent / value).is_file()
        if value is None:
            raise ValueError(f"{what}: {key!r} has nothing below it: indent its settings, or leave it out")
        if not isinstance(value, dict) and not is_other_file:
            some = f", such as {', '.join(settings[:3])}" if settings else ""
            raise ValueError(f"{what}: {key!r} must be a mapping of settings{some}, got {_kind(value)}")
    for key in _SPECIFICATION:
        if key in tree:
            raise ValueError(
                f"{what}: {key!r} stands alone; it belongs below a part such as optimizer or data, indented"
            )
    for key in tree:
        root, _, rest = str(key).partition(".")
        if rest and isinstance(tree.get(root), dict) and rest.partition(".")[0] in tree[root]:
            raise ValueError(f"{what}: {key!r} is given twice: as it is, and below {root!r}")
    _check_specifications(tree, "", what)


def _check_specifications(tree: Any, key: str, what: str) -> None:
    """Refuse a class that is written otherwise than as `class_path` and `init_args`."""
    if isinstance(tree, list):
        for item in tree:
            _check_specifications(item, key, what)
    if not isinstance(tree, dict):
        return
    if "class_path" in tree or "init_args" in tree:
        for name in tree:
            if name in _SPECIFICATION:
                continue
            if "class_path" in tree:
                raise ValueError(f"{what}: {key}: {name!r} belongs below init_args, beside class_path")
            raise ValueError(
                f"{what}: {key}: unknown key {name!r} beside init_args{nearest(str(name), ['class_path'])}"
            )
        path, arguments = tree.get("class_path", ""), tree.get("init_args")
        if not isinstance(path, str):
            raise ValueError(f"{what}: {key}.class_path must be the name of a class, got {_kind(path)}")
        if arguments is not None and not isinstance(arguments, dict):
            raise ValueError(
                f"{what}: {key}.init_args must be a mapping of arguments, got {_kind(arguments)}"
            )
    for name, value in tree.items():
        plain = key if name in _SPECIFICATION else f"{key}.{name}" if key else str(name)
        _check_specifications(value, plain, what)


def _kind(value: Any) -> str:
    return "a list" if isinstance(value, list) else "a mapping" if isinstance(value, dict) else repr(value)
