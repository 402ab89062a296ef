"""Completion of the command line by the shell: a script that knows commands, options and their values."""

import argparse
import io
import re
from collections.abc import Iterable
from contextlib import redirect_stdout, suppress
from types import ModuleType
from typing import Any, Literal, Union, get_args, get_origin

from lightning_optreg import recipes
from lightning_optreg.cli.actions import type_of
from lightning_optreg.cli.help.options import command_actions
from lightning_optreg.cli.help.part import arguments_of, find_class
from lightning_optreg.cli.help.short_names import names_of, places
from lightning_optreg.commands import COMMANDS

__all__ = ["completion_script"]

_PROGRAM = "lightning-optreg"
_LIGHTNING = ("fit", "validate", "test", "predict")
_HELP_LINE = re.compile(r"^  (?:-\w, )?(--[\w.]+)(?: (?P<value>\S+(?: \S+)*))?(?:  |$)", re.MULTILINE)
_STRATEGIES = ("auto", "ddp", "ddp_fork", "ddp_spawn", "deepspeed", "fsdp")
# Function names that end so tell shtab's script that they give files.
_CONFIGS, _CHECKPOINTS = "lightning_optreg_config_file", "lightning_optreg_ckpt_file"
_PREAMBLE = """\
{configs}() {{
  compgen -W "{names}" -- "$1"
  compgen -f -- "$1"
}}
{checkpoints}() {{
  compgen -W "best last auto" -- "$1"
  compgen -f -- "$1"
}}"""


def completion_script(shell: str) -> str:
    """Return the script for a shell.

    Args:
        shell: `bash`, `zsh` or another that shtab knows.

    Raises:
        ModuleNotFoundError: If shtab is not installed.
        ValueError: If it doesn't know the shell.
    """
    shtab = _shtab()
    if shell not in shtab.SUPPORTED_SHELLS:
        raise ValueError(f"--print_completion must be {' or '.join(shtab.SUPPORTED_SHELLS)}, got {shell!r}")
    names = " ".join(recipes.names())
    preamble = _PREAMBLE.format(configs=_CONFIGS, checkpoints=_CHECKPOINTS, names=names)
    script: str = shtab.complete(_program(shtab), shell, preamble={"bash": preamble})
    return script


def _shtab() -> ModuleType:
    try:
        import shtab
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "--print_completion needs the package shtab: pip install 'lightning-optreg[completion]'"
        ) from error
    return shtab


def _program(shtab: ModuleType) -> argparse.ArgumentParser:
    """The program as one parser, for its options' names only."""
    program = argparse.ArgumentParser(prog=_PROGRAM)
    program.add_argument("--version", action="store_true", help="print the version")
    commands = program.add_subparsers()
    settings = {name: _settings(name) for name in _LIGHTNING}
    for command in COMMANDS:
        parser = commands.add_parser(command.name, help=command.summary, add_help=False)
        if command.name == "plot":
            kinds = parser.add_subparsers()
            for kind, what in re.findall(r"^  ([a-z]+)  +(\S.*)", _help_of(command.load(), []), re.MULTILINE):
                one = kinds.add_parser(kind, help=what, add_help=False)
                _add_listed(one, shtab, _help_of(command.load(), [kind]))
        elif command.name in settings:
            _add(parser, shtab, "--help", ["all", *(n for place in places() for n in names_of(place.key))])
            _add_settings(parser, shtab, settings[command.name])
        else:
            _add_listed(parser, shtab, _help_of(command.load(), []))
            if command.name == "attack":  # it takes those of `test` too
                _add_settings(parser, shtab, settings["test"])
            if command.name == "configs":
                parser.add_argument("what", choices=("list", "show", "copy"))
                parser.add_argument("name", choices=recipes.names())
    return program


def _help_of(main: Any, words: list[str]) -> str:
    """What a command says of itself."""
    said = io.StringIO()
    with redirect_stdout(said), suppress(SystemExit):  # argparse ends the program after its help
        main([*words, "--help"])
    return said.getvalue()


def _add_listed(parser: argparse.ArgumentParser, shtab: ModuleType, text: str) -> None:
    """Add the options that a command's help lists."""
    for option, value in _HELP_LINE.findall(text):
        choices = re.match(r"\{(.+)\}$", value)
        names = choices[1].split(",") if choices else names_of("model.net") if option == "--net" else []
        several: int | str | None = "+" if value.endswith("...]") else len(value.split()) or None
        _add(
            parser,
            shtab,
            option,
            names,
            value.split(" ")[0],
            1 if several is None else several,
            flag=not value,
        )


def _settings(command: str) -> dict[str, list[str]]:
    """The options of one of Lightning's commands, and of all parts, with the values that they have."""
    found: dict[str, list[str]] = {"--config": [], "--print_config": [], "--safe": [], "--allow": []}
    actions = command_actions(command)
    for place in places():
        if place.option.endswith("+"):
            found[f"--{place.option}"] = names_of(place.key)
        for name in names_of(place.key):
            part = find_class(name)
            actions += [] if part is None else arguments_of(part[0], place.key)
    for action in actions:
        option = str(action.option_strings[0])
        names = names_of(action.dest) or _values(type_of(action))
        if action.dest == "trainer.strategy":
            names = [*_STRATEGIES, *names]
        found[option] = list(dict.fromkeys([*found.get(option, []), *names]))
    return found


def _add_settings(parser: argparse.ArgumentParser, shtab: ModuleType, settings: dict[str, list[str]]) -> None:
    for option, names in settings.items():
        flag = option in ("--print_config", "--safe")
        folder = option.endswith(("dir", "dirpath"))
        _add(parser, shtab, option, names, "DIR" if folder else "", flag=flag)


def _add(
    parser: argparse.ArgumentParser,
    shtab: ModuleType,
    option: str,
    names: Iterable[str] = (),
    value: str = "",
    count: int | str = 1,
    *,
    flag: bool = False,
) -> None:
    """Add an option; what it takes is a name, a file or a folder, or nothing to complete."""
    if flag:
        parser.add_argument(option, action="store_true", help="")
        return
    choices = tuple(names) or None
    added: Any = parser.add_argument(option, nargs=None if count == 1 else count, choices=choices, help="")
    if option == "--config":
        added.complete = {**shtab.FILE, "bash": _CONFIGS}
    elif option == "--ckpt_path":
        added.complete = {**shtab.FILE, "bash": _CHECKPOINTS}
    elif value in ("DIR", "FOLDER"):
        added.complete = shtab.DIRECTORY
    elif value in ("FILE", "OUTPUT"):
        added.complete = shtab.FILE


def _values(hint: Any) -> list[str]:
    """What can be typed for a type, if that is little."""
    if hint is bool:
        return ["true", "false"]
    if get_origin(hint) is Literal:
        return [str(value) for value in get_args(hint)]
    if get_origin(hint) is Union or type(hint).__name__ == "UnionType":
        return [value for each in get_args(hint) for value in _values(each)]
    return []
