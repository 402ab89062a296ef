"""What a process has parsed before: of many runs that are alike only the first is parsed from the start.

jsonargparse looks up the arguments of every class that a configuration names, and tries each value with all
types that it may have. For a small run that takes longer than its training. From one run of a study to the
next a seed changes, or a few numbers.
"""

import io
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stderr
from copy import deepcopy
from typing import Any, NamedTuple

import yaml
from jsonargparse import ArgumentParser, Namespace

from lightning_optreg.cli.given import config_files
from lightning_optreg.cli.parser import noted, plain
from lightning_optreg.trust import read_yaml

__all__ = ["Parsed", "ParsedBefore"]

_FOLDER = "--trainer.default_root_dir="
_MOST = 256  # configurations, of some 20 KB each


class Parsed(NamedTuple):
    """What a command line was parsed to.

    Attributes:
        config: The configuration, with the command's name.
        plain: The command's settings as plain values.
        noted: Those that Lightning notes; see `noted`.
    """

    config: Namespace
    plain: dict[str, Any]
    noted: dict[str, Any]

    @classmethod
    def of(cls, config: Namespace, parser: ArgumentParser) -> "Parsed":
        """Add the plain values to a configuration.

        Args:
            config: The configuration.
            parser: The command's own parser.
        """
        settings = config[config.subcommand]
        return cls(config, plain(parser, settings), noted(parser, settings))


class ParsedBefore:
    """Parsers and configurations for a process that runs a command many times, such as a study's worker.

    A run gets copies, and nothing of it comes back here. A configuration is copied if it differs from an
    earlier one in the run's seed and folder at most; these are put in. If it differs in other numbers too,
    the sections with these are parsed, and the whole is validated. All else is parsed from the start: other
    words or keys, and configurations that name a file, which may have changed. Files are not searched for
    slips as those of people are, such as a key given twice: they must be a program's.

    Example:
        >>> before = ParsedBefore()
        >>> before.made("fit", lambda: {"parser": ["trainer"]}), before.made("fit", dict)
        ({'parser': ['trainer']}, {'parser': ['trainer']})
    """

    def __init__(self) -> None:
        self._made: dict[str, dict[str, Any]] = {}
        self._same: dict[str, Parsed] = {}
        self._alike: dict[str, tuple[dict[str, Any], Parsed]] = {}

    def made(self, command: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Return a copy of what was made for a command, which is made now if that is the first time.

        Args:
            command: Its name.
            make: Makes its parsers, by name.
        """
        if command not in self._made:
            self._made[command] = make()
        return deepcopy(self._made[command])  # together: the parser holds those of its commands

    def find(self, argv: Sequence[str], parser: ArgumentParser) -> Parsed | None:
        """Return what a command line is parsed to; None if that is not known from earlier ones.

        Args:
            argv: The command and its options.
            parser: The command's own parser.
        """
        it = _understand(argv)
        if it is None:
            return None
        if it.same not in self._same:
            parsed = self._parse_numbers(it, parser)
            if parsed is None:
                return None
            self._keep(it, parsed)
        found = deepcopy(self._same[it.same])
        settings = found.config[it.command]
        if it.seed is not None:
            settings.seed_everything = it.seed
            found.plain["seed_everything"] = found.noted["seed_everything"] = it.seed
        if it.folder is not None:
            settings.trainer.default_root_dir = found.plain["trainer"]["default_root_dir"] = it.folder
        settings.config = [type(file)(it.file, mode=file.mode) for file in settings.config]
        return found

    def _parse_numbers(self, it: "_Understood", parser: ArgumentParser) -> Parsed | None:
        """Parse the sections of which numbers differ from those of an earlier configuration."""
        if it.alike not in self._alike:
            return None
        tree, earlier = self._alike[it.alike]
        config = deepcopy(earlier.config)
        changed = {key: value for key, value in it.tree.items() if repr(value) != repr(tree[key])}
        try:
            with redirect_stderr(io.StringIO()):
                config[it.command] = parser.parse_object(
                    deepcopy(changed), config[it.command], defaults=False
                )
        except SystemExit:  # parsed from the start it gets a message that names the file
            return None
        return Parsed.of(config, parser)

    def keep(self, argv: Sequence[str], config: Namespace, parser: ArgumentParser) -> None:
        """Remember what a command line was parsed to.

        Args:
            argv: The command and its options.
            config: The configuration, of which a copy is kept.
            parser: The command's own parser.
        """
        it = _understand(argv)
        if it is None:
            return
        settings = config[it.command]
        put_in = {"seed_everything": it.seed, "trainer.default_root_dir": it.folder}
        if all(value is None or repr(settings.get(key)) == repr(value) for key, value in put_in.items()):
            self._keep(it, deepcopy(Parsed.of(config, parser)))

    def _keep(self, it: "_Understood", parsed: Parsed) -> None:
        if len(self._same) >= _MOST:
            del self._same[next(iter(self._same))]
        self._same[it.same] = parsed
        if not it.adds and len(self._alike) < _MOST:
            self._alike.setdefault(it.alike, (it.tree, parsed))


class _Understood(NamedTuple):
    """A command line with one configuration file, taken apart.

    Attributes:
        command: Its first word.
        file: The configuration file.
        tree: What that says.
        seed: The run's seed, if the file has one.
        folder: The run's root folder, if it is given as one word.
        adds: Whether the file adds to a list, or has keys that reach into a section.
        same: Equal for equal settings but for seed and folder.
        alike: Equal for settings that differ in numbers only.
    """

    command: str
    file: str
    tree: dict[str, Any]
    seed: int | None
    folder: str | None
    adds: bool
    same: str
    alike: str


def _understand(argv: Sequence[str]) -> _Understood | None:
    """Take a command line apart; None if it, or its file, says what can't be compared with others."""
    words = list(argv)
    if words.count("--config") != 1 or len(config_files(words)) != 1:
        return None
    place = words.index("--config")
    file = words[place + 1]
    rest = words[:place] + words[place + 2 :]
    folders = [word for word in rest if word.startswith(_FOLDER)]
    folder = folders[0].removeprefix(_FOLDER) if len(folders) == 1 else None
    if folder is not None:
        rest.remove(folders[0])
        if not _is_itself(folder):
            return None
    try:
        with open(file, encoding="utf-8") as stream:
            tree = read_yaml(stream.read())
    except (OSError, ValueError, yaml.YAMLError):
        return None
    if not isinstance(tree, dict) or not all(isinstance(key, str) for key in tree):
        return None
    seed = tree.get("seed_everything")
    if seed is True:  # Lightning takes one from elsewhere
        return None
    seed = seed if type(seed) is int else None
    others = {**tree, "seed_everything": "given"} if seed is not None else tree
    beside = os.path.dirname(file)
    texts = [*_texts(tree), *(word.partition("=")[2] or word for word in rest)]
    if any(os.path.isfile(text) or os.path.isfile(os.path.join(beside, text)) for text in texts):
        return None
    adds = any(key.endswith("+") for key in _keys(tree)) or any("." in key for key in tree)
    same, alike = (repr((rest, folder is None, settings)) for settings in (others, _without_numbers(tree)))
    return _Understood(rest[0], file, tree, seed, folder, adds, same, alike)


def _is_itself(text: str) -> bool:
    """Whether an option's value stays the text that it is."""
    try:
        return bool(read_yaml(text) == text)
    except (ValueError, yaml.YAMLError):
        return False


def _texts(tree: Any) -> Iterator[str]:
    if isinstance(tree, str):
        yield tree
    elif isinstance(tree, (dict, list)):
        for part in tree.values() if isinstance(tree, dict) else tree:
            yield from _texts(part)


def _keys(tree: Any) -> Iterator[str]:
    for part in tree if isinstance(tree, list) else tree.values() if isinstance(tree, dict) else ():
        yield from _keys(part)
    if isinstance(tree, dict):
        yield from map(str, tree)


def _without_numbers(tree: Any) -> Any:
    """Settings with the types of numbers in the place of these."""
    if isinstance(tree, dict):
        return {key: _without_numbers(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_without_numbers(value) for value in tree]
    return type(tree) if isinstance(tree, (int, float)) and not isinstance(tree, bool) else tree
