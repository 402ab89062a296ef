"""The command `describe`: build a network that the arguments name and print the table of its layers.

It needs neither Lightning nor data. The network is built on the meta device, without memory for its weights.
"""

import argparse
import importlib
import inspect
import math
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jsonargparse
import torch
from torch import nn

from lightning_optreg import nets
from lightning_optreg._nearest import nearest
from lightning_optreg.analysis.layers import describe, format_table
from lightning_optreg.cli.actions import actions_of
from lightning_optreg.cli.messages import cause, kind_of
from lightning_optreg.cli.option_parser import is_too_large, unknown_word
from lightning_optreg.cli.whole_numbers import put_ints_first
from lightning_optreg.trust import build_nothing_unasked, makes_network

__all__ = ["main"]

_COMMAND = "lightning-optreg describe"
_NETS = sorted(set(nets.__all__) - {"Network"}, key=str.lower)
_KNOWN_NETS = f"known: {', '.join(_NETS)}, or the path of a class or function: torchvision.models.resnet18"
_MODULE_ERRORS = (RuntimeError, TypeError, ValueError)  # raised by modules for wrong settings or sizes


def main(argv: Sequence[str] | None = None) -> int:
    """Run `lightning-optreg describe`: build the network that the arguments name and print its table.

    Args:
        argv: The arguments after the command's name. Default: those of this process.

    Returns:
        Exit status: 0, or 2 with one line on the standard error if the arguments are wrong.

    Example:
        >>> from lightning_optreg.commands.describe import main
        >>> main(["--net", "SoftmaxRegression", "--input_shape", "3", "32", "32"])
        SoftmaxRegression on 1x3x32x32
        layer   kind    output     activations    memory  weights  parameters  multiply-adds
        ------------------------------------------------------------------------------------
        input           1x3x32x32        3,072  12.0 KiB        0           0              0
        linear  Linear  1x10                10      40 B   30,720      30,730         30,720
        ------------------------------------------------------------------------------------
        total                            3,082  12.0 KiB   30,720      30,730         30,720
        0
    """
    try:
        print(_run(sys.argv[1:] if argv is None else argv))
    except (_UsageError, argparse.ArgumentError) as error:
        said = _boiled_down(str(error).removeprefix("argument "))
        print(f"error: {' '.join(said.split())}", file=sys.stderr)
        return 2
    return 0


class _UsageError(Exception):
    """The arguments are wrong; the message says how."""


def _boiled_down(message: str) -> str:
    found = cause(message)
    if not found.key or found.text or not found.allowed:
        return message
    return f"--{found.key}: must be {' or '.join(found.allowed)}, got {kind_of(found.value)}"


def _run(argv: Sequence[str]) -> str:
    """The text to print for these arguments."""
    build_nothing_unasked()
    parser = _own_options()
    options, net_arguments = parser.parse_known_args(argv)
    if options.net is None:
        if options.help:
            return parser.format_help().rstrip()
        if net_arguments:
            raise _UsageError(unknown_word(net_arguments[0], ["--net", "--input_shape", "--batch_size"]))
        raise _UsageError(f"--net is missing; {_KNOWN_NETS}")
    make = _find(options.net)
    net_parser = _net_options(make)
    if options.help:
        return net_parser.format_help().rstrip()
    if not options.batch_size >= 1:
        raise _UsageError(f"--batch_size must be >= 1, got {options.batch_size}")

    shape = None if options.input_shape is None else _shape(options.input_shape)
    if options.batch_size * math.prod(shape or (1,)) >= 2**60:
        raise _UsageError(
            f"--batch_size {options.batch_size}"
            f"{f' of --input_shape {shape}' if shape is not None else ''}: too many numbers for any memory"
        )
    net = _build(options.net, make, net_parser, net_arguments, shape)
    shape = getattr(net, "input_shape", None) if shape is None else shape
    if shape is None:
        raise _UsageError(f"{options.net} does not say what images it takes; give --input_shape C H W")
    sizes = "x".join(map(str, (options.batch_size, *shape)))
    try:
        rows = describe(net, shape, options.batch_size)
    except _MODULE_ERRORS as error:
        raise _UsageError(f"{options.net} cannot take an input of {sizes}: {error}") from error
    return f"{type(net).__name__} on {sizes}\n{format_table(rows)}"


def _build(
    name: str,
    make: Callable[..., Any],
    parser: jsonargparse.ArgumentParser,
    arguments: list[str],
    shape: tuple[int, int, int] | None,
) -> nn.Module:
    """Build the network on the meta device, with the images' shape if it has an argument for it."""
    keys = vars(parser.get_defaults().get("net", argparse.Namespace()))
    given = set()
    for option in (argument.partition("=")[0] for argument in arguments if argument.startswith("--")):
        key = option.removeprefix("--net.").rstrip("+").partition(".")[0]
        if not option.startswith("--net.") or key not in keys:
            names = ["input_shape", "batch_size", *(f"net.{key}" for key in keys)]
            close = nearest(option.strip("-"), names, prefix="--", few=0)
            raise _UsageError(f"unknown option {option} for {name}{close}")
        given.add(key)
    if shape is not None and "input_shape" in keys:
        if "input_shape" in given:
            raise _UsageError("give --input_shape or --net.input_shape, not both")
        arguments = [*arguments, f"--net.input_shape={list(shape)}"]
        given.add("input_shape")
    values = parser.parse_args(arguments)
    for key, value in vars(values.get("net", argparse.Namespace())).items():
        too_large = [n for n in (value if isinstance(value, (list, tuple)) else [value]) if is_too_large(n)]
        if too_large:
            raise _UsageError(f"--net.{key} must be within 64 bits, got {too_large[0]}")
    try:
        with torch.device("meta"):
            net = parser.instantiate(values).get("net")
            if not inspect.isclass(make):  # then these are the arguments; a function knows its own defaults
                net = make(**{key: net[key] for key in keys if key in given})
    except _MODULE_ERRORS as error:
        raise _UsageError(str(error)) from error
    if not isinstance(net, nn.Module):
        raise _UsageError(f"{name} makes a {type(net).__name__}, not a torch.nn.Module")
    return net


def _own_options() -> argparse.ArgumentParser:
    """The options that do not depend on the network."""
    parser = argparse.ArgumentParser(
        prog=_COMMAND,
        usage=f"{_COMMAND} --net NAME [--net.OPTION VALUE ...] [--input_shape C H W] [--batch_size N]",
        description="Print a network's layers: output size, memory, parameters and multiply-adds.",
        allow_abbrev=False,
        exit_on_error=False,
        add_help=False,
    )
    parser.add_argument("-h", "--help", action="store_true", help="with --net: list the network's options")
    parser.add_argument("--net", metavar="NAME", help=_KNOWN_NETS)
    parser.add_argument(
        "--input_shape",
        nargs="+",
        metavar="SIZE",
        help="channels, height and width of one image: 3 32 32 or [3,32,32]; default: the network's own",
    )
    parser.add_argument("--batch_size", type=int, default=1, metavar="N", help="number of images; default: 1")
    return parser


def _find(name: str) -> Callable[..., Any]:
    """The class or function that makes the network of this name."""
    if name in _NETS:
        name = f"{nets.__name__}.{name}"
    module_name, _, attribute = name.rpartition(".")
    if not module_name or not all(part.isidentifier() for part in name.split(".")):
        raise _UsageError(f"unknown network {name!r}{nearest(name, _NETS, few=0)}; {_KNOWN_NETS}")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise _UsageError(f"cannot import {module_name!r} for --net {name}: {error}") from error
    found: Callable[..., Any] | None = getattr(module, attribute, None)
    if not callable(found):
        public = [known for known in vars(module) if not known.startswith("_")]
        raise _UsageError(
            f"{module_name} has no class or function {attribute!r}{nearest(attribute, public, few=0)}"
        )
    if not makes_network(found):
        raise _UsageError(
            f"{name} is neither a torch.nn.Module nor a function that says it returns one (-> nn.Module), so "
            "nothing is built"
        )
    return found


def _net_options(make: Callable[..., Any]) -> jsonargparse.ArgumentParser:
    """A parser of the network's own options --net.*."""
    parser = jsonargparse.ArgumentParser(
        prog=_COMMAND, exit_on_error=False, allow_abbrev=False, add_help=False
    )
    if inspect.isclass(make):
        parser.add_class_arguments(make, "net", fail_untyped=False)
    else:
        parser.add_function_arguments(make, "net", fail_untyped=False)
    put_ints_first(actions_of(parser))
    return parser


def _shape(words: Sequence[str]) -> tuple[int, int, int]:
    """Channels, height and width from `3 32 32`, `3,32,32`, `[3, 32, 32]` or `3x32x32`."""
    sizes = re.split(r"[\s,x]+", " ".join(words).strip("[]() "))
    if len(sizes) != 3 or not all(size.isdecimal() and int(size) >= 1 for size in sizes):
        raise _UsageError(
            "--input_shape must be three whole numbers >= 1 (channels, height, width), such as 3 32 32, "
            f"got {' '.join(words)}"
        )
    channels, height, width = map(int, sizes)
    return channels, height, width
