"""Ranges of settings that Lightning doesn't check, so that it would fail late or do something else."""

import math
import re
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch.accelerators import AcceleratorRegistry, CUDAAccelerator, MPSAccelerator
from lightning.pytorch.strategies import StrategyRegistry

from lightning_optreg._nearest import nearest
from lightning_optreg.classifier import ImageClassifier
from lightning_optreg.cli.given import file_of
from lightning_optreg.cli.option_parser import is_too_large
from lightning_optreg.optimizers.param_groups import param_groups

__all__ = ["check_ranges", "try_optimizer"]

_AT_LEAST = {
    "seed_everything": 0,
    "trainer.accumulate_grad_batches": 1,
    "trainer.check_val_every_n_epoch": 1,
    "trainer.fast_dev_run": 0,
    "trainer.gradient_clip_val": 0,
    "trainer.log_every_n_steps": 0,
    "trainer.max_epochs": -1,
    "trainer.max_steps": -1,
    "trainer.min_epochs": 0,
    "trainer.min_steps": 0,
    "trainer.num_nodes": 1,
    "trainer.num_sanity_val_steps": -1,
    "trainer.reload_dataloaders_every_n_epochs": 0,
    "optimizer.init_args.lr": 0,
    "data.init_args.batch_size": 1,
    "data.init_args.num_workers": 0,
}
_BATCHES = (
    "limit_train_batches",
    "limit_val_batches",
    "limit_test_batches",
    "limit_predict_batches",
    "overfit_batches",
    "val_check_interval",
)
_LARGEST_SEED = 2**32 - 1
# Arguments of torch's schedules that they divide by.
_PERIODS = ("T_0", "T_max", "T_mult", "epochs", "step_size", "step_size_up", "steps_per_epoch", "total_steps")
_LINKED = ("model.optimizer", "model.lr_scheduler")  # made from `optimizer` and `lr_scheduler`
_UNITS = ("days", "seconds", "microseconds", "milliseconds", "minutes", "hours", "weeks")


def check_ranges(settings: Namespace, argv: Sequence[str] = ()) -> None:
    """Raise an error if a setting is out of range or names hardware that this machine does not have.

    Args:
        settings: The parsed configuration of a command.
        argv: The command line, from which the message names the file that holds the setting.

    Raises:
        ValueError: With the key, the allowed values and the value.

    Example:
        >>> check_ranges(Namespace({"trainer.accumulate_grad_batches": 0}))
        Traceback (most recent call last):
        ValueError: trainer.accumulate_grad_batches must be >= 1, got 0
    """
    for key, problem in _problems(settings):
        shown = key.replace(".init_args", "")
        file = file_of(argv, shown)
        raise ValueError(f"{shown} {problem}{f' (in {file})' if file is not None else ''}")


def try_optimizer(module: ImageClassifier) -> None:
    """Create the optimizer once before data are read, so that wrong settings fail early.

    Args:
        module: The module to train. Nothing is tried if its network is not built yet.

    Raises:
        ValueError: What the optimizer's class raises.
    """
    groups = param_groups(module, no_decay=False)
    if module.lr_factors and any(group["params"] for group in groups):
        groups = param_groups(module, no_decay=False, lr_factors=module.lr_factors)
    if module.make_optimizer is not None and any(group["params"] for group in groups):
        module.make_optimizer(groups[:1])


def _problems(settings: Namespace) -> Iterator[tuple[str, str]]:
    for key, value in _leaves(settings.as_dict(), ""):
        if key.startswith(_LINKED):
            continue
        if isinstance(value, float) and math.isnan(value):
            yield key, "must be a number, got nan"
        if is_too_large(value):
            yield key, f"must be within 64 bits, got {value}"
    for key, low in _AT_LEAST.items():
        value = settings.get(key)
        if isinstance(value, (int, float)) and not value >= low:
            yield key, f"must be >= {low}, got {value}"
    if (seed := settings.get("seed_everything")) is not None and not seed <= _LARGEST_SEED:
        yield "seed_everything", f"must be <= {_LARGEST_SEED}, got {seed}"
    if settings.get("optimizer.init_args.lr") == math.inf:
        yield "optimizer.init_args.lr", "must be finite, got inf"
    for key, value in _leaves(settings.as_dict().get("lr_scheduler"), "lr_scheduler"):
        if key.rpartition(".")[2] in _PERIODS and isinstance(value, int) and not value >= 1:
            yield key, f"must be >= 1, got {value}"
    for name in _BATCHES:
        yield from _batches(f"trainer.{name}", settings.get(f"trainer.{name}"))
    for key in ("trainer.max_time", "trainer.val_check_interval"):
        yield from _duration(key, settings.get(key))
    yield from _least_and_most(settings, "epochs")
    yield from _least_and_most(settings, "steps")
    for key, known in _NAMES.items():
        yield from _name(key, settings.get(key), known())
    yield from _accelerator(settings.get("trainer.accelerator"))
    yield from _devices(settings.get("trainer.devices"), settings.get("trainer.accelerator"))
    hook = settings.get("trainer.strategy.init_args.ddp_comm_hook")
    if hook is not None and (_is_cpu(settings) or not CUDAAccelerator.is_available()):
        yield (
            "trainer.strategy.init_args.ddp_comm_hook",
            "works on CUDA only: Lightning leaves it out elsewhere, without a word",
        )


def _is_cpu(settings: Namespace) -> bool:
    return str(settings.get("trainer.accelerator")) == "cpu"


def _leaves(tree: Any, key: str) -> Iterator[tuple[str, Any]]:
    if isinstance(tree, dict):
        for name, value in tree.items():
            yield from _leaves(value, f"{key}.{name}" if key else str(name))
    elif isinstance(tree, (list, tuple)):
        for value in tree:
            yield from _leaves(value, key)
    else:
        yield key, tree


def _batches(key: str, value: Any) -> Iterator[tuple[str, str]]:
    """A fraction of the batches, or a number of batches."""
    if not isinstance(value, (int, float)):
        return
    if key.endswith("val_check_interval") and not value > 0:
        yield key, f"must be > 0, a fraction or a number of batches, got {value}"
    if not (0 <= value <= 1 or (value > 1 and value % 1 == 0)):
        yield key, f"must be a fraction from 0.0 to 1.0 or a whole number of batches, got {value}"


def _duration(key: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for unit in set(value) - set(_UNITS):
            yield key, f"has an unknown unit {unit!r}{nearest(str(unit), _UNITS)}"
        value = timedelta(**{unit: number for unit, number in value.items() if unit in _UNITS})
    if isinstance(value, str) and not re.fullmatch(r"\d+:\d\d:\d\d:\d\d", value.strip()):
        yield key, f"must be days:hours:minutes:seconds, such as 00:12:00:00 for 12 hours, got {value!r}"
    if isinstance(value, timedelta) and not value > timedelta():
        yield key, f"must be > 0, got {value}"


def _least_and_most(settings: Namespace, what: str) -> Iterator[tuple[str, str]]:
    least, most = settings.get(f"trainer.min_{what}"), settings.get(f"trainer.max_{what}")
    if least is not None and most is not None and most >= 0 and least > most:
        yield f"trainer.min_{what}", f"must be <= trainer.max_{what}, {most}, got {least}"


_NAMES: dict[str, Callable[[], Sequence[str]]] = {
    "trainer.accelerator": lambda: ["auto", "gpu", *AcceleratorRegistry.available_accelerators()],
    "trainer.gradient_clip_algorithm": lambda: ["norm", "value"],
    "trainer.profiler": lambda: ["simple", "advanced", "pytorch", "xla"],
    "trainer.strategy": lambda: ["auto", *map(_shown, StrategyRegistry.available_strategies())],
}


def _shown(name: str) -> str:
    """A strategy's name in the registry; that of its class if it differs only by capitals.

    Lightning looks names up in lower case.
    """
    own: str = StrategyRegistry[name]["strategy"].__name__
    return own if own.lower() == name else name


def _name(key: str, value: Any, known: Sequence[str]) -> Iterator[tuple[str, str]]:
    if isinstance(value, str) and value not in known:
        few = [name for name in known if not re.search("find_unused|_stage_|_offload", name)]
        yield (
            key,
            f"cannot be {value!r}{nearest(value, known, few=0) or nearest(value, few, few=len(few))}",
        )


def _accelerator(name: Any) -> Iterator[tuple[str, str]]:
    if not isinstance(name, str) or name == "auto":
        return
    kinds = {
        kind: AcceleratorRegistry[kind]["accelerator"]
        for kind in AcceleratorRegistry.available_accelerators()
    }
    wanted = [CUDAAccelerator, MPSAccelerator] if name == "gpu" else [kinds[name]]
    if not any(kind.is_available() for kind in wanted):
        there = sorted(kind for kind in kinds if kinds[kind].is_available())
        yield (
            "trainer.accelerator",
            f"is {name!r}, but this machine has none; leave it out or use {' or '.join(there)}",
        )


def _devices(value: Any, accelerator: Any) -> Iterator[tuple[str, str]]:
    """A number of devices, -1 and "auto" for all, or a list of their indices."""
    key = "trainer.devices"
    allowed = "must be a number >= 1, -1 or auto for all, or a list of indices"
    if accelerator == "cpu":
        allowed = "must be a number of processes >= 1 with accelerator cpu"
        if isinstance(value, list) or (isinstance(value, str) and re.search(r"[,\[]", value)):
            yield key, f"{allowed}, got {value}"
    if isinstance(value, str) and value != "auto":
        if re.fullmatch(r"-?\d+", value.strip()):
            value = int(value)
            if is_too_large(value):
                yield key, f"must be within 64 bits, got {value}"
        elif not re.fullmatch(r"\[?\s*\d+\s*(,\s*\d+\s*)*,?\s*\]?", value.strip()):
            yield key, f"{allowed}, got {value!r}"
    if isinstance(value, int) and value != -1 and not value >= 1:
        yield key, f"{allowed}, got {value}"
    if isinstance(value, list) and (
        not value or len(set(value)) < len(value) or not all(isinstance(i, int) and i >= 0 for i in value)
    ):
        yield key, f"{allowed}, got {value}"
