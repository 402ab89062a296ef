"""Random generators in loaders, samplers, datasets and modules, in addition to the global ones.

`DataLoader(generator=...)`, a sampler with a `numpy.random.Generator`, a module that draws its noise from a
`torch.Generator`: Lightning's checkpoints do not contain their states. They are found by searching
attributes, and named by the path to them, so that a later process finds its own at the same path.
"""

import functools
import random
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import suppress
from types import BuiltinFunctionType, FunctionType, MemberDescriptorType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import Logger
from torch import Tensor, nn
from torch.optim import Optimizer

__all__ = [
    "Generator",
    "collect_generator_states",
    "generators_of",
    "restore_generator_states",
    "set_state_of",
    "state_of",
]

Generator = torch.Generator | np.random.Generator | np.random.RandomState | random.Random

# Long lists are data, and so is everything beyond a large number of objects.
_ITEMS = 256
_OBJECTS = 20_000
_DATA = (str, bytes, int, float, complex, Tensor, np.ndarray, torch.dtype, torch.device)
_CODE = (type, BuiltinFunctionType, ModuleType)
# Parts of the surrounding program that a module's arguments may lead to: parsers, a study's storage.
_FOREIGN = (
    "argparse.",
    "jsonargparse.",
    "lightning.",
    "lightning_optreg.cli.",
    "lightning_optreg.studies.",
    "optuna.",
    "sqlalchemy.",
)
_OTHERS = (Trainer, Logger, Optimizer)
# DataLoader's running iterator is made anew; of what torch keeps in a module only its parts count.
# The names are private in torch 2.14 (_iterator, _modules) and Lightning 2.6 (_trainer, _fabric).
_SKIPPED = {"_iterator", "trainer", "_trainer", "_fabric", *vars(nn.Module())} - {"_modules"}


def collect_generator_states(roots: Mapping[str, Any]) -> dict[str, Any]:
    """Read the states of all generators in objects.

    Args:
        roots: Objects by name: loaders, modules, data modules, or lists of them.

    Returns:
        States by the path to the generator, plain types only.

    Example:
        >>> from torch.utils.data import DataLoader
        >>> loader = DataLoader(range(8), shuffle=True, generator=torch.Generator())
        >>> states = collect_generator_states({"train": [loader]})
        >>> list(states)
        ['train.0.generator']
        >>> first = list(loader)
        >>> restore_generator_states({"train": [loader]}, states)
        []
        >>> first == list(loader)
        True
    """
    return {path: state_of(generator) for path, generator in generators_of(roots)}


def restore_generator_states(roots: Mapping[str, Any], states: Mapping[str, Any]) -> list[str]:
    """Set the generators in objects to the states from `collect_generator_states`.

    Args:
        roots: The objects, by the same names.
        states: Result of `collect_generator_states`, in this or an earlier process.

    Returns:
        The paths of states without a generator now.
    """
    generators = dict(generators_of(roots))
    for path in states.keys() & generators.keys():
        set_state_of(generators[path], states[path])
    return sorted(states.keys() - generators.keys())


def generators_of(roots: Mapping[str, Any]) -> Iterator[tuple[str, Generator]]:
    """Search objects for generators, breadth first.

    Args:
        roots: The objects, by name.

    Yields:
        The path to each generator, and the generator.
    """
    waiting = deque(roots.items())
    seen: set[int] = set()
    while waiting and len(seen) < _OBJECTS:
        path, value = waiting.popleft()
        if value is None or isinstance(value, _DATA + _CODE + _OTHERS) or id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, Generator):
            yield path, value
        elif len(seen) + len(waiting) < _OBJECTS:
            waiting.extend((f"{path}.{name}", part) for name, part in _parts(value))


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    home = value.__module__ if isinstance(value, FunctionType | MethodType) else type(value).__module__
    if f"{home}.".startswith(_FOREIGN):
        return
    if isinstance(value, Mapping):
        if len(value) <= _ITEMS:
            yield from ((str(key), part) for key, part in value.items())
    elif isinstance(value, list | tuple):
        if len(value) <= _ITEMS:
            yield from ((str(index), part) for index, part in enumerate(value))
    elif isinstance(value, FunctionType):
        cells = value.__closure__ or ()
        for name, cell in zip(value.__code__.co_freevars, cells, strict=True):
            with suppress(ValueError):  # not filled yet
                yield name, cell.cell_contents
    elif isinstance(value, MethodType):
        yield "__self__", value.__self__
    elif isinstance(value, functools.partial):
        yield from (("func", value.func), ("args", value.args), ("keywords", value.keywords))
    else:
        attributes = dict(_slots(value)) | getattr(value, "__dict__", {})
        yield from ((name, part) for name, part in attributes.items() if name not in _SKIPPED)


def _slots(value: Any) -> Iterator[tuple[str, Any]]:
    for kind in type(value).__mro__:
        for name, slot in vars(kind).items():
            if isinstance(slot, MemberDescriptorType):
                with suppress(AttributeError):  # not filled yet
                    yield name, slot.__get__(value)


def state_of(generator: Generator) -> Any:
    """Read the state of a generator as plain types."""
    if isinstance(generator, torch.Generator):
        return generator.get_state().cpu()
    if isinstance(generator, random.Random):
        return generator.getstate()
    if isinstance(generator, np.random.Generator):
        return _without_arrays(generator.bit_generator.state)
    return _without_arrays(generator.get_state(legacy=False))


def set_state_of(generator: Generator, state: Any) -> None:
    """Set a generator to a state from `state_of`."""
    if isinstance(generator, torch.Generator):
        generator.set_state(state.cpu())
    elif isinstance(generator, random.Random):
        generator.setstate(state)
    elif isinstance(generator, np.random.Generator):
        generator.bit_generator.state = _with_arrays(state)
    else:
        generator.set_state(_with_arrays(state))


def _without_arrays(state: Any) -> Any:
    """Return NumPy's arrays and numbers as plain types, which `torch.load(weights_only=True)` accepts."""
    if isinstance(state, Mapping):
        return {key: _without_arrays(value) for key, value in state.items()}
    if isinstance(state, np.ndarray):
        return {"dtype": str(state.dtype), "values": state.tolist()}
    return state.item() if isinstance(state, np.generic) else state


def _with_arrays(state: Any) -> Any:
    if not isinstance(state, Mapping):
        return state
    if state.keys() == {"dtype", "values"}:
        return np.array(state["values"], dtype=state["dtype"])
    return {key: _with_arrays(value) for key, value in state.items()}
