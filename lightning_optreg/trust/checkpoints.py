"""Check a checkpoint before Lightning builds the module that it describes."""

import io
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePath
from typing import IO, Any

import yaml

from lightning_optreg.places import local_copy, place_of
from lightning_optreg.trust.classes import Trust, UntrustedError
from lightning_optreg.trust.extent import sprawl
from lightning_optreg.trust.unreadable import why_unreadable
from lightning_optreg.trust.values import check_values

__all__ = ["check_hyperparameters", "check_paths", "vetted_checkpoint"]

_BUILDER = "lightning.pytorch.cli.instantiate_module"
_OLD_KEYS = ("hparams", "module_arguments")  # Lightning still reads what version 0.7 wrote


@contextmanager
def vetted_checkpoint(
    checkpoint: str | Path | IO[bytes],
    *,
    owner: type,
    key: str,
    given: Mapping[str, Any],
    allow: Sequence[str] = (),
    hparams_file: str | Path | None = None,
    weights_only: bool = True,
) -> Iterator[IO[bytes]]:
    """Open a checkpoint for `load_from_checkpoint` after checking that it builds only what is trusted.

    Args:
        checkpoint: Path, address or open file.
        owner: The class whose `load_from_checkpoint` is called.
        key: Key of the hyperparameters in the checkpoint.
        given: Arguments given in Python, which replace the checkpoint's.
        allow: See `Trust`.
        hparams_file: Replaces the checkpoint's hyperparameters.
        weights_only: With False, torch runs code from the file.

    Yields:
        The file, at its beginning.

    Raises:
        UntrustedError: If it names a class that may not be built.
        ValueError: If it cannot be read.
    """
    import torch

    from lightning_optreg.trust.torch_files import BROKEN_PICKLE, damage_of

    with ExitStack() as stack:
        file = stack.enter_context(_opened(checkpoint)) if isinstance(checkpoint, (str, Path)) else checkpoint
        name = repr(str(checkpoint)) if isinstance(checkpoint, (str, Path)) else "the file"
        start = file.tell()
        wrong = damage_of(file)
        if wrong is not None:
            raise ValueError(f"{name} {wrong}")
        file.seek(start)
        try:
            found = torch.load(file, map_location="cpu", weights_only=weights_only)
        except BROKEN_PICKLE as error:
            # Without its cause, whose message repeats torch's advice.
            raise ValueError(f"{name} is damaged or not a checkpoint ({why_unreadable(error)})") from None
        if not isinstance(found, dict):
            raise ValueError(f"{name} is not a checkpoint of a training run")
        if hparams_file is not None and str(hparams_file).endswith((".yml", ".yaml")):
            found[key], name = _read_yaml(hparams_file), repr(str(hparams_file))
        trust = Trust(allow, way_out="allow=")
        check_hyperparameters(found, owner=owner, key=key, trust=trust, what=name, given=given)
        del found
        file.seek(start)
        yield file


def check_hyperparameters(
    checkpoint: Mapping[str, Any],
    *,
    owner: type,
    trust: Trust,
    what: str,
    key: str = "hyper_parameters",
    given: Mapping[str, Any] | None = None,
) -> None:
    """Raise an error if a checkpoint's hyperparameters name a class that may not be built.

    Args:
        checkpoint: What was read.
        owner: The class that is built from it.
        trust: What may be named.
        what: Begins the message: the file.
        key: Key of the hyperparameters.
        given: Arguments that replace the checkpoint's.

    Raises:
        UntrustedError: If it does.
    """
    kind = checkpoint.get("hparams_type")
    if kind is not None and not isinstance(kind, str):
        raise UntrustedError(f"{what}: hparams_type must be a string, got {kind!r}")
    values: dict[str, Any] = {}
    for name in (*_OLD_KEYS, key):
        part = checkpoint.get(name) or {}
        if not isinstance(part, Mapping):
            raise UntrustedError(f"{what}: {name} must be a mapping, got {type(part).__name__}")
        values.update(part)
    values = {name: value for name, value in values.items() if name not in (given or {})}
    # Lightning 2.6 keeps its own notes of how a module was built among the hyperparameters.
    builder = values.pop("_instantiator", None)
    if builder not in (None, _BUILDER):
        raise UntrustedError(f"{what}: _instantiator must be {_BUILDER}, got {builder!r}")
    if values.get("_class_path") == f"{owner.__module__}.{owner.__qualname__}":
        del values["_class_path"]
    check_values(values, trust=trust, what=what, owner=owner)


def check_paths(states: Any, folders: Sequence[str], what: str) -> None:
    """Raise an error if a path in a ModelCheckpoint's state leaves its folder: it deletes such files.

    Lightning checks whether the folder is a parent of the path, which `folder/../notes` passes.

    Args:
        states: The part `callbacks` of a checkpoint.
        folders: Folders of the run's own ModelCheckpoints.
        what: Begins the message: the file.

    Raises:
        UntrustedError: If there is one.

    Example:
        >>> states = {"ModelCheckpoint": {"best_k_models": {"runs/../notes": 0.5}}}
        >>> check_paths(states, ["runs"], "a.ckpt")
        Traceback (most recent call last):
        lightning_optreg.trust.classes.UntrustedError: a.ckpt: the state of ModelCheckpoint names \
'runs/../notes', which leaves its folder
    """
    for name, state in states.items() if isinstance(states, Mapping) else ():
        if not (str(name).startswith("ModelCheckpoint") and isinstance(state, Mapping)):
            continue
        models = state.get("best_k_models")
        paths = [*models] if isinstance(models, Mapping) else []
        paths += [state.get(f"{which}_model_path") for which in ("best", "kth_best", "last")]
        # Otherwise Lightning takes over only the best one's path, which `fit` forgets if it is elsewhere.
        is_own = state.get("dirpath") is None or str(state["dirpath"]) in folders
        for path in map(str, paths):
            own = (path[len(f) :] for f in folders if path.startswith((f"{f}{os.sep}", f"{f}/")))
            inner = next(own, path)
            if ".." in PurePath(inner).parts or ("://" in inner and is_own):
                part = str(name).partition("{")[0]
                raise UntrustedError(f"{what}: the state of {part} names {path!r}, which leaves its folder")


def _read_yaml(path: str | Path) -> Any:
    try:
        with open(path) as file:
            text = file.read()
        if (wrong := sprawl(text)) is not None:
            raise ValueError(f"{str(path)!r}: {wrong}")
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(
            f"{str(path)!r} is not YAML of plain values: {' '.join(str(error).split())}"
        ) from error


@contextmanager
def _opened(path: str | Path) -> Iterator[IO[bytes]]:
    if str(path).startswith("http"):
        from urllib.request import urlopen

        with urlopen(str(path)) as answer:
            yield io.BytesIO(answer.read())
        return
    with local_copy(place_of(path)).open("rb") as file:
        yield file
