"""Configuration files laid over each other: what one adds, the next must not take away without a word.

The first `--config` is a run; each further one changes or adds something. Where two of these set one key
differently, LightningCLI takes the later one and says nothing. Here that is an error, unless the command line
sets the key itself.
"""

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import StochasticWeightAveraging, WeightAveraging

from lightning_optreg.cli.given import config_files, file_of, is_given, tree_of

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
            f"trainer.callbacks: {' and '.join(names)} would each end with an average of their own; leave one"
        )


def check_overlays(argv: Sequence[str]) -> None:
    """Refuse two overlays of which one undoes what the other sets.

    Args:
        argv: The command line, with any number of `--config FILE`.

    Raises:
        MisconfigurationException: With the key, both files and how to decide.
    """
    overlays = [(path, dict(_settings(tree_of(path) or {}, ""))) for path in config_files(argv)[1:]]
    for (first, earlier), (second, later) in combinations(overlays, 2):
        for key in later:
            lost = _undone(key, later[key], earlier)
            if lost is None:
                continue
            name = _plain(lost).rstrip("+")
            if not is_given(argv, name) or file_of(argv, name) is not None:
                raise MisconfigurationException(
                    f"{name}: {first} and {second} set it differently; lay only one of them over, or decide "
                    f"on the command line: --{name} ..."
                )


def _undone(key: str, value: Any, earlier: dict[str, Any]) -> str | None:
    """The key of an earlier file that this one makes ineffective; None if there is none."""
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
    return ".".join(part for part in key.split(".") if part not in ("init_args", "class_path"))
