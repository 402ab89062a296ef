"""`--safe`: a command line and its configuration files held to what a checkpoint may name."""

import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from lightning_optreg.classifier import ImageClassifier
from lightning_optreg.cli.given import config_files
from lightning_optreg.cli.trainer import Trainer
from lightning_optreg.files import check_inside, leaves_folder
from lightning_optreg.trust import Place, Trust, UntrustedError, check_values, read_yaml

__all__ = ["check_command", "check_names", "check_settings"]

_GROUPS: dict[str, Any] = {
    "model": ImageClassifier,
    "trainer": Trainer,
    **dict.fromkeys(
        (
            "ckpt_path",
            "oversubscribe",
            "reset_optimizer",
            "return_predictions",
            "seed_everything",
            "verbose",
            "weights_only",
        ),
        Place.PLAIN,
    ),
}
_COMMANDS = ("fit", "validate", "test", "predict")
# Arguments that say where something is written.
_WRITTEN = ("default_root_dir", "save_dir", "dirpath", "folder", "cache_dir", "filename", "path")
# Arguments that say whom to connect to: who leads a Ray cluster runs code on its members.
_MACHINES = ("address",)


def check_command(argv: Sequence[str], trust: Trust) -> None:
    """Refuse a command line that names what may not be built, in itself or in its configuration files.

    Nothing is imported or built for it. Configuration files may not say either that something is written
    elsewhere than below the working directory, or to which machines to connect; the command line may.

    Args:
        argv: The command and its options.
        trust: What may be named.

    Raises:
        UntrustedError: With file, key, class and the way out.
        ValueError: If a configuration file is not YAML.
    """
    for word in config_files(argv):
        file, tree = _settings_of(word)
        what = "command line: config" if file is None else f"config file {word!r}"
        for part in _commands(tree):
            folder = None if file is None else file.parent
            check_values(part, trust=trust, what=what, groups=_GROUPS, folder=folder)
            if file is not None:
                _check_file(part, what)
    for key, value in _options(argv):
        check_values({key: value}, trust=trust, what="command line", groups=_GROUPS)


def _check_file(tree: Any, what: str) -> None:
    """Refuse plain values of a file that would reach outside: to other folders, or to other machines."""
    for key, value in _texts(tree):
        name = key.rpartition(".")[2].rstrip("+")
        if name in _WRITTEN and leaves_folder(value):
            raise UntrustedError(
                f"{what}: {key} is {value!r}, and with --safe a file may only let it be written "
                "below the working directory; give it on the command line"
            )
        if name in _MACHINES:
            raise UntrustedError(
                f"{what}: {key} is {value!r}, and with --safe a file may not say which machines take part; "
                "give it on the command line"
            )


def check_settings(settings: Any, trust: Trust) -> None:
    """Refuse a parsed configuration that names what may not be built.

    Parsing has made full paths of short names and has read what files it was told to.

    Args:
        settings: The configuration as plain values.
        trust: What may be named.

    Raises:
        UntrustedError: With key, class and the way out.
    """
    check_values(settings, trust=Trust(trust.allow), what="configuration", groups=_GROUPS)


def check_names(trainer: Mapping[str, Any]) -> None:
    """Refuse names of files and folders that leave the run's, of callbacks, loggers and profilers.

    Lightning joins them to a folder as they are; this package's own parts look at theirs themselves.

    Args:
        trainer: The trainer's part of the configuration, as plain values.

    Raises:
        ValueError: With key and name.

    Example:
        >>> check_names({"logger": {"class_path": "a.CSVLogger", "init_args": {"name": "../b"}}})
        Traceback (most recent call last):
        ValueError: trainer.logger: name of CSVLogger must be inside its folder, without .. and not \
absolute, got '../b'
    """
    named = {"callbacks": ("filename",), "profiler": ("filename",), "logger": ("name", "version", "sub_dir")}
    for key, arguments in named.items():
        parts = trainer.get(key)
        for part in parts if isinstance(parts, list) else [parts]:
            if not isinstance(part, Mapping):
                continue
            owner = str(part.get("class_path")).rpartition(".")[2]
            for argument in arguments:
                name = (part.get("init_args") or {}).get(argument)
                if isinstance(name, str) and name:
                    check_inside(name, f"trainer.{key}: {argument} of {owner}")


def _settings_of(word: str) -> tuple[Path | None, Any]:
    """The file that jsonargparse reads for `--config`, None if the word itself is YAML; and what it says."""
    what, path = f"config file {word!r}", os.path.expanduser(word)
    if "://" in word or "::" in word:
        raise UntrustedError(f"{what} is an address, and with --safe only files are read; download it")
    if word == "-" or (os.path.exists(path) and not os.path.isfile(path)):
        raise UntrustedError(f"{what} is not a file that can be read first, as --safe requires")
    file = Path(path) if os.path.isfile(path) else None
    try:
        tree = read_yaml(word if file is None else file.read_text())
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(f"{what} is not YAML of plain values: {' '.join(str(error).split())}") from error
    # Text in place of a mapping is a file that is not there; the parser has a message of its own for it.
    return file, None if isinstance(tree, str) else tree


def _commands(tree: Any) -> Iterator[Any]:
    """A file's settings; in one for all commands those of each."""
    if not isinstance(tree, Mapping):
        yield tree
        return
    own = {key: value for key, value in tree.items() if key not in _COMMANDS}
    yield own
    for key in _COMMANDS:
        if key in tree:
            yield tree[key]


def _options(argv: Sequence[str]) -> Iterator[tuple[str, str]]:
    for word, following in pairwise([*argv, ""]):
        option, equals, value = word.partition("=")
        if not option.startswith("-"):
            continue
        key = option.lstrip("-").rstrip("+")
        if key not in ("config", "c", "print_config"):
            yield key, value if equals else following


def _texts(tree: Any) -> Iterator[tuple[str, str]]:
    """All values that are text, with their keys."""
    waiting: list[tuple[str, Any]] = [("", tree)]
    seen = set()
    while waiting:
        key, value = waiting.pop()
        if isinstance(value, str):
            yield key, value
            value = _yaml_in(value)
        if not isinstance(value, (Mapping, list)) or id(value) in seen:
            continue
        seen.add(id(value))
        for name, inner in value.items() if isinstance(value, Mapping) else enumerate(value):
            waiting.append((f"{key}.{name}" if key else str(name), inner))


def _yaml_in(text: str) -> Any:
    """Text that is YAML is read like the rest of a file."""
    try:
        return read_yaml(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        return None
