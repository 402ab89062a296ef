"""What `fit --help KEY` and `fit --help all` print: options of a command as its parser has them."""

import re
from collections.abc import Iterator
from typing import Any

from lightning_optreg._nearest import nearest
from lightning_optreg.cli.actions import actions_of
from lightning_optreg.cli.command_parser import command_parser
from lightning_optreg.cli.help.page import OPTIONS, in_columns
from lightning_optreg.cli.help.part import arguments_of, find_class, option_lines, shown
from lightning_optreg.cli.help.short_names import names_of, parts, places
from lightning_optreg.cli.placement import DEFAULT_CALLBACKS, DEFAULT_LOGGER

__all__ = ["command_actions", "describe_all", "describe_key", "unknown"]

_TITLES = {
    "": "options of the command",
    "model": "the module around the network",
    "trainer": "Lightning's Trainer",
}
# What the trainer's texts say of the default is not so here.
_STATED = re.compile(r"\s*Default: ``[^`]*``\.?")
# Options whose text is on the first page: Lightning's and jsonargparse's are of what these were elsewhere.
_FIRST = (
    *("ckpt_path", "data", "lr_scheduler", "optimizer", "seed_everything"),
    *("trainer.callbacks", "trainer.default_root_dir", "trainer.strategy"),
)
# Those that are no settings: they are not in a configuration.
_WORDS = ("config", "print_config", "safe", "allow")


def describe_all(command: str) -> str:
    """Return every option of a command, those of the trainer last.

    Args:
        command: `fit`, `validate`, `test` or `predict`.
    """
    lines = [f"usage: lightning-optreg {command} --config FILE [--option value ...]"]
    groups: dict[str, list[str]] = {name: [] for name in _TITLES}
    for option in OPTIONS:
        if option.name in _WORDS:
            groups[""] += in_columns(f"--{option.name} {option.value}".rstrip(), option.text)
    groups[""] += in_columns("--allow PACKAGE", "with --safe, also parts of this package; may be repeated")
    for action in command_actions(command):
        group = action.dest.partition(".")[0]
        groups[group if group in groups and "." in action.dest else ""] += _lines(command, action)
    for name, title in _TITLES.items():
        lines += ["", f"{title}:", *groups[name]]
    taken = [place.key for place in places() if place.key in groups or "." not in place.key]
    lines += [
        "",
        f"The arguments of {', '.join(taken)} and of other parts are those of the class that is named:",
        f"lightning-optreg {command} --help NAME lists them.",
    ]
    return "\n".join(lines)


def describe_key(command: str, key: str) -> str | None:
    """Return the options that a key means: itself, or all below it; None if there are none.

    Args:
        command: `fit`, `validate`, `test` or `predict`.
        key: Such as `trainer`, `trainer.max_epochs`, `model.net` or `optimizer.lr`.
    """
    key = key.rstrip("+")
    found = [action for action in command_actions(command) if _is_within(action.dest, key)]
    lines = [line for action in found for line in _lines(command, action)]
    if not lines:
        lines = list(_of_parts(key))
    if not lines:
        words = [each for each in OPTIONS if each.name.rstrip("+") == key and command in each.commands]
        lines = [
            line for each in words for line in in_columns(f"--{each.name} {each.value}".rstrip(), each.text)
        ]
    return "\n".join(lines) if lines else None


def unknown(command: str, name: str) -> str:
    """Return the message that a name is neither a part nor an option.

    Args:
        command: `fit`, `validate`, `test` or `predict`.
        name: The name.
    """
    keys = [*(action.dest for action in command_actions(command)), *(option.name for option in OPTIONS)]
    known = [*(part for part, _, _ in parts()), *keys, "model", "trainer", "all"]
    return f"--help: {name!r} is neither a part nor an option{nearest(name, known, few=0)}"


def _is_within(dest: str, key: str) -> bool:
    return dest == key or dest.startswith(f"{key}.")


def command_actions(command: str) -> list[Any]:
    """List the options of a command, as its parser holds them, without the arguments of parts.

    Args:
        command: `fit`, `validate`, `test` or `predict`.
    """
    return [action for action in actions_of(command_parser(command)) if shown(action)]


def _lines(command: str, action: Any) -> list[str]:
    texts = {each.name.rstrip("+"): each.text for each in OPTIONS if command in each.commands}
    if action.dest in _FIRST and action.dest in texts:
        action.help = texts[action.dest]
    elif action.help:
        action.help = _STATED.sub("", action.help)
    defaults = {"trainer.callbacks": DEFAULT_CALLBACKS, "trainer.logger": DEFAULT_LOGGER}
    if action.dest in defaults:
        names = [str(one["class_path"]).rpartition(".")[2] for one in defaults[action.dest]]
        action.default = list(dict.fromkeys(names))
    return option_lines(action)


def _of_parts(key: str) -> Iterator[str]:
    """The lines of an argument of parts, such as `optimizer.lr`, and the parts that have it."""
    place = next((each for each in places() if key.startswith(f"{each.key}.")), None)
    if place is None:
        return
    takers: dict[str, list[str]] = {}
    for name in names_of(place.key):
        found = find_class(name)
        actions = [] if found is None else arguments_of(found[0], place.key)
        for action in actions:
            if action.dest == key:
                takers.setdefault("\n".join(option_lines(action)), []).append(name)
    for text, names in takers.items():
        yield f"{', '.join(names)}:\n{text}"
