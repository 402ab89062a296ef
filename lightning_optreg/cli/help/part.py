"""What `fit --help NAME` prints of a part: what it does, how it is named, and its arguments.

Only the part's module is imported, so that help on a network doesn't wait for Lightning.
"""

import inspect
import re
import sys
from importlib import import_module
from typing import Any

from jsonargparse import ArgumentParser

from lightning_optreg.cli.actions import actions_of, type_of
from lightning_optreg.cli.help.page import in_columns
from lightning_optreg.cli.help.short_names import Place, names_of, part_of
from lightning_optreg.cli.help.shown_types import shown_type, shown_value
from lightning_optreg.cli.whole_numbers import put_ints_first
from lightning_optreg.trust import build_nothing_unasked, makes_network

__all__ = ["arguments_of", "describe_part", "explained", "find_class", "option_lines"]

# What the program gives, not the user.
_GIVEN: dict[str, set[str | int]] = {"optimizer": {"params"}, "lr_scheduler": {"optimizer"}}
_ROLE = re.compile(r":(?:[a-z]+:)?(?:class|meth|func|attr|paramref|ref|mod):`~?([^`<]+?)(?: *<[^>]*>)?`")
_DIRECTIVE = re.compile(r"\s*\.\. [a-z]+::.*", re.DOTALL)


def find_class(name: str) -> tuple[Any, Place | None] | None:
    """Find what a short name or a dotted path means, and the option that takes it; None if nothing.

    Args:
        name: Such as `ResNet`, or `torchvision.models.resnet18`.

    Example:
        >>> find_class("SoftmaxRegression")[0].__name__
        'SoftmaxRegression'
    """
    found = part_of(name)
    if found is not None:
        return getattr(import_module(found[0]), name), found[1]
    module, _, attribute = name.rpartition(".")
    if not module or not re.fullmatch(r"[A-Za-z]\w*(\.\w+)+", name):
        return None
    known = part_of(attribute)
    try:
        value = getattr(import_module(module), attribute, None)
    except ImportError:
        return None
    # Only what a configuration can name: no function or class of Python's own.
    is_part = isinstance(value, type) and module.partition(".")[0] not in sys.stdlib_module_names
    if value is None or not (is_part or makes_network(value)):
        return None
    if known is None and makes_network(value):
        known = part_of("MLP")  # it is named in the same place
    return value, known[1] if known is not None else None


def describe_part(name: str, part: Any, place: Place | None, command: str) -> str:
    """Return the text.

    Args:
        name: As it is named in a configuration.
        part: The class, or a function that makes one.
        place: The option that takes it, if one does.
        command: `fit`, for the examples.

    Example:
        >>> part, place = find_class("SoftmaxRegression")
        >>> describe_part("SoftmaxRegression", part, place, "fit").startswith("SoftmaxRegression: ")
        True
    """
    text = explained(inspect.getdoc(part) or "")
    lines = [f"{name}: {text}" if text else name, ""]
    key = "" if place is None else place.key
    if place is not None:
        lines += [
            f"  lightning-optreg {command} --config FILE --{place.option} {name} [--{key}.ARGUMENT ...]",
            "",
        ]
    options = [line for action in arguments_of(part, key) for line in option_lines(action)]
    where = "arguments:" if place is not None else "arguments, below init_args in a file:"
    lines += [where, *options] if options else ["It takes no arguments."]
    return "\n".join(lines)


def arguments_of(part: Any, key: str) -> list[Any]:
    """List the arguments of a part, as a parser holds them.

    Args:
        part: A class or a function.
        key: What their names begin with; empty: nothing.
    """
    build_nothing_unasked()
    parser = ArgumentParser(add_help=False)
    skip = _GIVEN.get(key, set())
    add = parser.add_class_arguments if inspect.isclass(part) else parser.add_function_arguments
    add(part, key or None, fail_untyped=False, skip=skip)
    actions = [action for action in actions_of(parser) if shown(action)]
    put_ints_first(actions)
    return actions


def shown(action: Any) -> bool:
    """Return whether an argument is one that people set, not help or a file in place of a group."""
    option = next(iter(action.option_strings), "")
    if not option.startswith("--") or " " in option or option.endswith(".help"):  # a link has an arrow in it
        return False
    return type_of(action) is not None or action.type is not None or bool(action.choices)


def option_lines(action: Any) -> list[str]:
    """Return the lines of an argument: its name and type beside its text, its default and what it takes."""
    option = action.option_strings[0]
    kind = shown_type(type_of(action)) if type_of(action) is not None else _plain_type(action)
    text = explained(str(action.help or ""), whole=True)
    if action.required:
        text = f"{text} Required.".lstrip()
    elif action.default is not None and "default:" not in text.lower():
        text = f"{text} (default: {shown_value(action.default)})".lstrip()
    names = names_of(option.lstrip("-"))
    if names:
        text = f"{text} Takes {', '.join(names)}."
    return in_columns(f"{option} {kind}".rstrip(), text)


def _plain_type(action: Any) -> str:
    if action.choices:
        return "|".join(map(str, action.choices))
    return getattr(action.type, "__name__", "")


def explained(docstring: str, *, whole: bool = False) -> str:
    """Return the first paragraph of a docstring as one line of plain text.

    Args:
        docstring: The text, which may have Sphinx's markup.
        whole: Whether to keep all paragraphs.

    Example:
        >>> explained("Stops a run, see  :class:`~torch.nn.Module`.")
        'Stops a run, see torch.nn.Module.'
    """
    text = docstring if whole else docstring.partition("\n\n")[0]
    text = _DIRECTIVE.sub("", _ROLE.sub(r"\1", text)).replace("``", "")
    return " ".join(text.split())
