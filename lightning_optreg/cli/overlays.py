"""Configuration files laid over each other: one must not silently undo what another sets.

The first `--config` is a run; each further one changes or adds something. Where two of these set one key
differently, LightningCLI takes the later one and says nothing. Here that is an error, unless the command line
sets the key itself.
"""

from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import yaml
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import StochasticWeightAveraging, WeightAveraging

from lightning_optreg.cli.given import config_files, file_of, is_given, options, plain_key, tree_of

__all__ = ["check_averages", "check_overlays"]


def check_averages(callbacks: Sequence[Callback]) -> None:
    """Refuse two of Lightning's callbacks that end a fit with averaged weights: the last one would win.

    Raises:
        MisconfigurationException: With the names of both.

    Example:
        >>> from lightning.pytorch.callbacks import EMAWeightAveraging
        >>> check_averages([EMAWeightAveraging()])
    """
    kinds = (WeightAveraging, StochasticWeightAveraging)
    names = [type(callback).__name__ for callback in callbacks if isinstance(callback, kinds)]
    if len(names) > 1:
        raise MisconfigurationException(
            f"trainer.callbacks: {' and '.join(names)} would each end with its own average; keep one"
        )


def check_overlays(argv: Sequence[str]) -> None:
    """Raise an error if a later file would undo an overlay's setting, or an option in front of the file.

    Args:
        argv: The command line, with any number of `--config FILE`.

    Raises:
        MisconfigurationException: With the key, the files and how to decide.
    """
    files = config_files(argv)
    paths = [Path(path).resolve() for path in files]
    twice = next((path for i, path in enumerate(files) if paths[i] in paths[:i]), None)
    if twice is not None:
        raise MisconfigurationException(f"config: {twice} is given twice; remove one")
    settings = {path: dict(_settings(tree_of(path) or {}, "")) for path in files}
    for option, text, behind in options(argv):
        for path in config_files(behind) if option != "config" else ():
            _check_option(option, text, path, settings[path])
    for (first, earlier), (second, later) in combinations(list(settings.items())[1:], 2):
        for key in later:
            lost = _undone(key, later[key], earlier)
            if lost is None:
                continue
            name = plain_key(lost)
            if not is_given(argv, name) or file_of(argv, name) is not None:
                raise MisconfigurationException(
                    f"{name}: {first} and {second} set it differently; use only one of them, or set it "
                    f"after them: --{name} ..."
                )


def _check_option(option: str, text: str, path: str, settings: dict[str, Any]) -> None:
    name = _plain(option)
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        value = text
    for key, other in settings.items():
        plain = _plain(key)
        if name.endswith("+"):
            plain = f"{plain}+"  # what is added is lost where the list is set
        as_class = str(value).rpartition(".")[2] if key.endswith("class_path") else value
        if plain == name and as_class == other:
            return
        if plain == name or name.startswith(f"{plain}.") or plain.startswith((f"{name}.", f"{name}+")):
            raise MisconfigurationException(
                f"--{option} stands before --config {path}, which sets {plain} again: put options after the "
                "files that they change"
            )


def _undone(key: str, value: Any, earlier: dict[str, Any]) -> str | None:
    """The key of an earlier file that this one overrides, or None."""
    if key.endswith("+"):
        return None  # it adds
    if key in earlier:
        return key if earlier[key] != value else None
    inside = [other for other in earlier if other.startswith((f"{key}.", f"{key}+"))]
    around = [other for other in earlier if key.startswith(f"{other}.")]
    return next(iter(inside + around), None)


def _settings(tree: Any, key: str) -> Iterator[tuple[str, Any]]:
    """Keys, such as `optimizer.init_args.lr`, and what they are set to; a class by its short name."""
    if isinstance(tree, dict) and tree:
        for part, value in tree.items():
            yield from _settings(value, f"{key}.{part}" if key else str(part))
    elif key.endswith("class_path"):
        yield key, str(tree).rpartition(".")[2]
    else:
        yield key, tree


def _plain(key: str) -> str:
    """The key as it is typed; a + at its end adds to a list."""
    return plain_key(key) + ("+" if key.endswith("+") else "")
