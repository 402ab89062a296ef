"""Read checkpoints, and compare their configuration with the one given; every difference is reported."""

import pickle
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from packaging.version import InvalidVersion, Version
from torch import nn

from lightning_optreg.classifier import ImageClassifier
from lightning_optreg.places import Place, local_copy
from lightning_optreg.runs.kept import advised
from lightning_optreg.trust import why_unreadable
from lightning_optreg.trust.torch_files import DamagedFileError, check_whole, is_archive, reading

__all__ = ["check_states_fit", "differences", "load_classifier", "misfits", "read_checkpoint", "report"]

# Settings that may differ between a run and its continuation without a message.
_UNIMPORTANT = (
    "ckpt_path",
    "weights_only",
    "reset_optimizer",
    "oversubscribe",
    "config",
    "trainer.default_root_dir",
    "trainer.logger",
)

# The entries that Lightning writes, with their types.
_STATES = ("optimizer_states", "lr_schedulers")
_KINDS: dict[str, type] = {
    **dict.fromkeys(("state_dict", "hyper_parameters", "callbacks", "loops"), dict),
    **dict.fromkeys(_STATES, list),
    **dict.fromkeys(("epoch", "global_step"), int),
    "pytorch-lightning_version": str,
}

# Parts whose settings a resumed run takes from the checkpoint, because Lightning restores their states.
_FROM_CHECKPOINT = ("optimizer", "lr_scheduler")


def read_checkpoint(path: Place) -> dict[str, Any]:
    """Read a Lightning checkpoint, plain types only.

    Raises:
        ValueError: If the file is damaged, contains other than plain types, or is not a Lightning checkpoint.
    """
    try:
        with advised(path):
            check_whole(path)
            with reading(path):
                checkpoint = torch.load(
                    local_copy(path), map_location="cpu", weights_only=True, mmap=is_archive(path)
                )
    except DamagedFileError as error:
        raise ValueError(f"ckpt_path: {error}") from error
    except pickle.UnpicklingError as error:
        # Without its cause, whose message is torch's advice to turn weights_only off.
        raise ValueError(
            f"ckpt_path: {str(path)!r} is damaged or not a checkpoint ({why_unreadable(error)})"
        ) from None
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise ValueError(f"ckpt_path: {str(path)!r} is not a checkpoint of a training run")
    _check_parts(checkpoint, f"ckpt_path: {str(path)!r}")
    return checkpoint


def _check_parts(checkpoint: Mapping[str, Any], what: str) -> None:
    """Refuse a checkpoint whose entries don't have the types that Lightning writes."""
    for part, kind in _KINDS.items():
        found = checkpoint.get(part)
        if part in checkpoint and not isinstance(found, kind):
            raise ValueError(f"{what}: {part} must be a {kind.__name__}, got {type(found).__name__}")
    states = {f"{part}[{n}]": one for part in _STATES for n, one in enumerate(checkpoint.get(part, ()))}
    wrong = next((name for name, state in states.items() if not isinstance(state, dict)), None)
    if wrong is not None:
        raise ValueError(f"{what}: {wrong} must be a dict, got {type(states[wrong]).__name__}")
    # "_extra_state" is torch 2.14's key of what `Module.get_extra_state` returns, which may be anything.
    for name, weight in checkpoint["state_dict"].items():
        if not (isinstance(name, str) and (isinstance(weight, torch.Tensor) or "_extra_state" in name)):
            raise ValueError(f"{what}: state_dict.{name} must be a tensor, got {type(weight).__name__}")
    try:
        Version(checkpoint.get("pytorch-lightning_version", "0"))
    except InvalidVersion as error:
        raise ValueError(f"{what}: pytorch-lightning_version: {error}") from error


def load_classifier(path: Place, allow: Sequence[str] = ()) -> ImageClassifier:
    """Build the module that a checkpoint describes.

    Args:
        path: The file, already checked by `read_checkpoint`.
        allow: Packages whose classes it may name, in addition to those of `Trust`.

    Raises:
        ValueError: If it names other classes, or its weights are those of another network.
    """
    try:
        with warnings.catch_warnings():
            # Lightning 2.6 calls methods that jsonargparse 4.53 deprecates
            warnings.filterwarnings("ignore", message=r"\s*``(instantiate_classes|ArgumentParser)")
            return ImageClassifier.load_from_checkpoint(local_copy(path), map_location="cpu", allow=allow)
    except RuntimeError as error:
        if "loading state_dict" not in str(error):
            raise
        reason = " ".join(str(error).split()).partition(": ")[2]
        raise ValueError(
            f"ckpt_path: {str(path)!r}: its weights don't fit the network that it describes: {reason}"
        ) from error


def misfits(module: nn.Module, state_dict: Mapping[str, torch.Tensor]) -> str | None:
    """Return a sentence on how the weights of a checkpoint don't fit a module; None if they fit."""
    own = module.state_dict()
    wrong = [
        f"{name} is {_shape(state_dict, name)} in the checkpoint and {_shape(own, name)} in the network"
        for name in sorted(own.keys() | state_dict.keys())
        if _shape(own, name) != _shape(state_dict, name)
    ]
    if not wrong:
        return None
    more = f" (and {len(wrong) - 1} more differences)" if len(wrong) > 1 else ""
    return f"the checkpoint is of another network: {wrong[0]}{more}"


def _shape(state_dict: Mapping[str, torch.Tensor], name: str) -> str:
    return str(tuple(state_dict[name].shape)) if name in state_dict else "missing"


def differences(
    saved: Mapping[str, Any], given: Mapping[str, Any], parts: Sequence[str] | None = None
) -> list[tuple[str, Any, Any]]:
    """List the settings in which two configurations differ.

    If the class differs, its arguments are not compared.

    Args:
        saved: The configuration of the run that wrote the checkpoint.
        given: The configuration of the run that continues it.
        parts: Top-level keys to compare. None: all.

    Returns:
        Key, saved value and given value of each.

    Example:
        >>> differences({"data": {"batch_size": 64}}, {"data": {"batch_size": 128}})
        [('data.batch_size', 64, 128)]
    """
    a, b = _flat(saved), _flat(given)
    changed = [
        key
        for key in sorted(a.keys() | b.keys())
        if a.get(key) != b.get(key)
        and not key.startswith(_UNIMPORTANT)
        and (parts is None or key.split(".")[0] in parts)
    ]
    classes = [key.removesuffix("class_path") for key in changed if key.endswith(".class_path")]
    return [
        (key, a.get(key), b.get(key))
        for key in changed
        if key.endswith(".class_path") or not any(key.startswith(prefix) for prefix in classes)
    ]


def _flat(config: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(config, Mapping) and config:
        flat: dict[str, Any] = {}
        for key, value in config.items():
            flat |= _flat(value, f"{prefix}.{key}" if prefix else str(key))
        return flat
    return {prefix: list(config) if isinstance(config, tuple) else config}


def check_states_fit(changes: Sequence[tuple[str, Any, Any]]) -> None:
    """Refuse to load the state of one optimizer or schedule into another, as Lightning would.

    Args:
        changes: The result of `differences`.

    Raises:
        ValueError: If the class of the optimizer or the schedule differs.

    Example:
        >>> check_states_fit([("optimizer.class_path", "torch.optim.SGD", "torch.optim.Adam")])
        Traceback (most recent call last):
        ValueError: optimizer: the checkpoint's run had torch.optim.SGD and the configuration has \
torch.optim.Adam, which can't load its state; --reset_optimizer true starts afresh
    """
    for part in _FROM_CHECKPOINT:
        for key, saved, given in changes:
            if key == f"{part}.class_path":
                raise ValueError(
                    f"{part}: the checkpoint's run had {saved or 'none'} and the configuration has "
                    f"{given or 'none'}, which can't load its state; --reset_optimizer true starts afresh"
                )


def _in_brief(saved: Any, given: Any) -> tuple[Any, Any]:
    """Return two lists of classes without their common entries; other values unchanged."""
    if not all(isinstance(value, list) and any(map(_is_class, value)) for value in (saved, given)):
        return saved, given
    return tuple(
        ", ".join(_brief(item) for item in mine if item not in other) or "nothing else"
        for mine, other in ((saved, given), (given, saved))
    )  # type: ignore[return-value]  # two of them


def _is_class(item: Any) -> bool:
    return isinstance(item, Mapping) and "class_path" in item


def _brief(item: Any) -> str:
    if not _is_class(item):
        return str(item)
    arguments = {key: value for key, value in (item.get("init_args") or {}).items() if value is not None}
    return f"{item['class_path'].rpartition('.')[2]}({', '.join(f'{k}={v}' for k, v in arguments.items())})"


def report(changes: list[tuple[str, Any, Any]], *, fitting: bool, reset_optimizer: bool) -> list[str]:
    """Return a line for each difference, with the value that is used.

    Args:
        changes: The result of `differences`.
        fitting: Whether training is continued; otherwise only the weights are used.
        reset_optimizer: Whether the optimizer starts afresh from the configuration.

    Example:
        >>> report([("optimizer.init_args.lr", 0.1, 0.01)], fitting=True, reset_optimizer=False)[0]
        "optimizer.lr: the checkpoint's run had 0.1, the configuration has 0.01; 0.1 is used \
(--reset_optimizer true takes the configuration's)"
    """
    lines = []
    for key, saved, given in changes:
        name = key.replace(".init_args", "")
        saved, given = _in_brief(saved, given)
        line = f"{name}: the checkpoint's run had {saved}, the configuration has {given}; "
        if fitting and key.startswith(_FROM_CHECKPOINT) and not reset_optimizer:
            line += f"{saved} is used (--reset_optimizer true takes the configuration's)"
        else:
            line += f"{given} is used"
        lines.append(line)
    return lines
