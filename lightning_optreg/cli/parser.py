"""The command line's parser: one readable line for what is wrong with the arguments, and exit status 2."""

import inspect
import os
import sys
from collections.abc import Callable, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, NoReturn

import yaml
from jsonargparse import ArgumentParser, Namespace, set_dumper
from lightning.pytorch.cli import LightningArgumentParser, ReduceLROnPlateau
from typing_extensions import override

from lightning_optreg.cli.actions import actions_of
from lightning_optreg.cli.config_files import check_config
from lightning_optreg.cli.explain import explain, sections
from lightning_optreg.cli.given import config_files, file_of, options
from lightning_optreg.cli.messages import one_line
from lightning_optreg.cli.whole_numbers import put_ints_first
from lightning_optreg.cli.yaml_mapping import twice
from lightning_optreg.trainer.schedule_length import length_argument

__all__ = ["Parser", "noted", "plain"]


class _Dumper(yaml.SafeDumper):
    """Writes enumerations as text, which is what they are made from again: Lightning has some as defaults."""


_Dumper.add_multi_representer(Enum, lambda dumper, member: dumper.represent_data(member.value))
set_dumper(
    "yaml",
    lambda data: yaml.dump(
        data, Dumper=_Dumper, default_flow_style=False, allow_unicode=True, sort_keys=False
    ),
)
# Text that nobody sees is written and read in C, where PyYAML has that: seven times as fast, and as safe.
_PLAIN = "lightning_optreg_plain"
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_Writer: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


class _PlainDumper(_Writer):  # type: ignore[misc]  # the one of the two that PyYAML has
    """Writes the same values."""


_PlainDumper.add_multi_representer(Enum, lambda dumper, member: dumper.represent_data(member.value))
set_dumper(_PLAIN, lambda data: yaml.dump(data, Dumper=_PlainDumper, sort_keys=False))


def plain(parser: ArgumentParser, settings: Namespace, *, skip_link_targets: bool = True) -> dict[str, Any]:
    """Return settings, which the parser has validated, as plain values.

    Args:
        parser: The parser.
        settings: The settings.
        skip_link_targets: Whether to leave out what is taken from other settings.

    Example:
        >>> parser = Parser()
        >>> _ = parser.add_argument("--shape", type=tuple[int, int])
        >>> plain(parser, parser.parse_args(["--shape=[1, 2]"]))
        {'shape': [1, 2]}
    """
    how = {"skip_unset": False, "skip_validation": True, "skip_link_targets": skip_link_targets}
    values: dict[str, Any]
    try:
        text = parser.dump(settings, format=_PLAIN, **how)
    except UnicodeEncodeError:  # half a character, as in a file's name that is not UTF-8: not in C
        values = yaml.safe_load(parser.dump(settings, format="yaml", **how))
        return values
    loader = _Loader(text)
    try:
        values = loader.get_single_data()
    finally:
        loader.dispose()
    return values


def noted(parser: ArgumentParser, settings: Namespace) -> dict[str, Any]:
    """Return what Lightning notes of a module and its data: their settings, also those taken from others.

    Lightning would make it itself, and of the trainer's settings too, after it has validated all once more.

    Args:
        parser: The command's own parser.
        settings: The command's settings, which it has validated.
    """
    others = settings.clone()
    others.pop("trainer")
    if others.model.net.get("init_args") is None:
        others.model.net.init_args = Namespace()  # it notes there what links give the network
    return plain(parser, others, skip_link_targets=False)


class Parser(LightningArgumentParser):
    """LightningCLI's parser with error messages of one line.

    A message names the key, the value, what is allowed and names that are like a wrong one. Options can't be
    abbreviated: an abbreviation may mean something else in the next version.

    Example:
        >>> parser = Parser()
        >>> _ = parser.add_argument("--epochs", type=int)
        >>> parser.parse_args(["--epochs", "3"]).epochs
        3
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, "prog": "lightning-optreg", **kwargs})
        self.args: list[str] = []  # jsonargparse puts the command line here
        self._reading: str | None = None  # the configuration file that is being read

    @override
    def parse_args(self, args: Any = None, *more: Any, **kwargs: Any) -> Namespace:  # type: ignore[override]
        """Parse a command line, after a look at what argparse and jsonargparse would take without a word."""
        slip = _slip(list(args or []))
        if slip is not None:
            self.error(slip)
        return super().parse_args(args, *more, **kwargs)

    @override
    def parse_path(self, path: str | os.PathLike[str], *args: Any, **kwargs: Any) -> Namespace:
        """Read a configuration file, after a look at what YAML lets pass."""
        shown = str(getattr(path, "relative", path))  # as it was typed
        what = f"config file {shown!r}"
        try:
            check_config(Path(path), what, sections(self))
        except (OSError, ValueError) as error:
            self.error(str(error))
        self._reading = shown
        try:
            read: Namespace = super().parse_path(path, *args, **kwargs)
        finally:
            self._reading = None
        return read

    def instantiate_classes(self, config: Namespace) -> Namespace:
        """Build what a configuration describes.

        Lightning 2.6 calls this by its old name, for which jsonargparse 4.53 has a warning.
        """
        objects: Namespace = self.instantiate(config)
        return objects

    @override
    def add_class_arguments(
        self, class_type: type, nested_key: str | None = None, *args: Any, **kwargs: Any
    ) -> list[str]:
        """Add the arguments of a class.

        A whole number stays one where it takes `int` and `float`. The length of a schedule may be left out,
        and is the run's then; so may what `ReduceLROnPlateau` watches, which is `lr_monitor` then.
        """
        name: str | None = length_argument(class_type)
        kind: type = int
        help_ = "Length of the schedule. Leave it out: it is the run's."
        if inspect.isclass(class_type) and issubclass(class_type, ReduceLROnPlateau):
            name, kind, help_ = "monitor", str, "What it watches, where this is not model.lr_monitor."
        if name is not None:
            kwargs["skip"] = {*(kwargs.get("skip") or ()), name}
        added: list[str] = super().add_class_arguments(class_type, nested_key, *args, **kwargs)
        put_ints_first(actions_of(self))
        if name is None:
            return added
        key = name if nested_key is None else f"{nested_key}.{name}"
        self.add_argument(f"--{key}", type=kind | None, default=None, help=help_)
        return [*added, key]

    @override
    def add_function_arguments(
        self,
        function: Callable[..., object],
        *args: Any,
        linked_targets: set[str] | None = None,
        **kwargs: Any,
    ) -> list[str]:
        """Add the arguments of a function that makes a network, such as `torchvision.models.resnet18`.

        jsonargparse 4.53 tells this method which of them are links' targets, as it tells its counterpart for
        classes, but its own doesn't take that argument. It looks after those targets itself afterwards.
        """
        added: list[str] = super().add_function_arguments(function, *args, **kwargs)
        put_ints_first(actions_of(self))
        return added

    @override
    def add_subclass_arguments(self, *args: Any, **kwargs: Any) -> None:
        """Add an argument that takes a class and its arguments."""
        super().add_subclass_arguments(*args, **kwargs)
        put_ints_first(actions_of(self))

    @override
    def add_argument(self, *args: Any, **kwargs: Any) -> Any:
        """Add one argument."""
        added = super().add_argument(*args, **kwargs)
        put_ints_first([added])
        return added

    @override
    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print what is wrong in one line and exit with status 2.

        The parsers that jsonargparse makes for a class's arguments are of this class too; they raise their
        message instead, and it becomes part of the outer parser's.
        """
        if not self.exit_on_error:
            super().error(message, ex)
        # jsonargparse's advice is for the programmer of a command line.
        said = one_line(explain(message, self, self._reading)).partition(
            " Add the import path to import_path_allowlist"
        )[0]
        sys.stderr.write(f"error: {said}\n")
        raise SystemExit(2)


def _slip(argv: Sequence[str]) -> str | None:
    """Say which words would be misread, and how to write them; None if there are none."""
    if any(word.partition("=")[0] == "-config" for word in argv):  # argparse reads -c with the file "onfig"
        return "unknown option -config; did you mean --config?"
    named = False
    for name, value, _ in options(argv):
        if value.startswith(("{", "[")) and (key := twice(value)) is not None:
            return f"--{name}: key {key!r} is given twice"
        named = named or name in ("trainer.callbacks", "trainer.callbacks+")
        if name.startswith("trainer.callbacks.") and name != "trainer.callbacks.help" and not named:
            if file_of([f"--config={file}" for file in config_files(argv)], "trainer.callbacks") is None:
                # jsonargparse makes the first class of it that has such an argument
                return f"--{name}: no callback is named before it; put --trainer.callbacks+=NAME in front"
            named = True
    return None
