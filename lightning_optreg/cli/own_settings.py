"""The settings that a run keeps in its checkpoints, for a command that measures it and names no recipe."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch.utilities import rank_zero_info

from lightning_optreg.cli.given import chosen, options, typed
from lightning_optreg.cli.safety import check_command
from lightning_optreg.places import Place, check_place, place_of
from lightning_optreg.runs.checkpoints import read_checkpoint
from lightning_optreg.runs.kept import run_of
from lightning_optreg.runs.run_folder import DEFAULT_ROOT, find_checkpoint, folder_of
from lightning_optreg.trust import Trust, UntrustedError

__all__ = ["takes_own_settings", "with_own_settings"]

_COMMANDS = ("validate", "test", "predict")
_ROOT = "trainer.default_root_dir"


def takes_own_settings(argv: Sequence[str]) -> bool:
    """Return whether a command line takes the settings of the checkpoint that it names.

    That is a `test`, `validate` or `predict` with a checkpoint and without a recipe: what names both network
    and data.

    Example:
        >>> takes_own_settings(["test", "--ckpt_path", "best"])
        True
        >>> takes_own_settings(["test", "--ckpt_path", "best", "--model.net", "MLP", "--data", "Mine"])
        False
    """
    if next(iter(argv), None) not in _COMMANDS or typed(argv, "ckpt_path") is None:
        return False
    is_file = any(option.name == "model" for option in options(argv))
    return not is_file and (chosen(argv, "model.net") is None or chosen(argv, "data") is None)


@contextmanager
def with_own_settings(argv: Sequence[str], trust: Trust) -> Iterator[list[str]]:
    """Put the settings of a checkpoint's run in front of a command line that has none of its own.

    Overlays and options change what the run had. Without a root, best and last are those of the newest run
    anywhere below the usual one.

    Args:
        argv: The command and its options.
        trust: What these settings may name: they may be a stranger's.

    Yields:
        The new command line, which holds as long as the context does.

    Raises:
        FileNotFoundError: If there is no such checkpoint.
        ValueError: If the checkpoint has no settings, or is "auto".
        UntrustedError: If they name what may not be built, or write elsewhere.
    """
    wanted = str(typed(argv, "ckpt_path"))
    if wanted == "auto":
        raise ValueError(f"ckpt_path=auto works only with fit; use best, last or a file with {argv[0]}")
    path = _find(argv, wanted)
    what = f"ckpt_path: {str(path)!r}"
    settings = _settings_in(path, what)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, f"{path.stem}.yaml")
        file.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
        try:
            check_command(["--config", str(file)], trust)
        except UntrustedError as error:
            said = str(error).replace(f"config file {str(file)!r}", f"{what}, settings of the run")
            raise UntrustedError(f"{said}; or give settings that you trust: --config FILE") from None
        rank_zero_info(f"settings and weights are those of {path}")
        yield [argv[0], "--config", str(file), *_without(argv[1:], "ckpt_path"), *_places(path, argv)]


def _find(argv: Sequence[str], wanted: str) -> Place:
    """Find the checkpoint; without a root that of the newest run below the usual one."""
    given = chosen(argv, _ROOT)
    root = place_of(given or DEFAULT_ROOT)
    check_place(root, _ROOT)
    try:
        return find_checkpoint(root, wanted)
    except FileNotFoundError:
        if given or wanted not in ("best", "last"):
            raise
        roots = {run_of(found).parent for found in root.rglob("*.ckpt")}
        if not roots:
            raise
    found = []
    for each in roots:
        try:
            found.append(find_checkpoint(each, wanted))
        except FileNotFoundError:  # runs that have not come so far
            continue
    if not found:
        raise FileNotFoundError(f"ckpt_path={wanted}: no run below {str(root)!r} has such a checkpoint")
    return max(found, key=lambda path: path.stat().st_mtime_ns)


def _settings_in(path: Place, what: str) -> dict[str, Any]:
    settings: Any = read_checkpoint(path).get("callbacks", {})
    for name in ("SaveConfig", "config"):
        settings = settings.get(name) if isinstance(settings, dict) else None
    if not isinstance(settings, dict):
        raise ValueError(
            f"{what} has no settings of a run (it was not written by lightning-optreg fit): give them by "
            "--config FILE"
        )
    trainer = settings.get("trainer")
    own = {key: value for key, value in settings.items() if key not in ("ckpt_path", "weights_only")}
    if isinstance(trainer, dict):
        own["trainer"] = {key: value for key, value in trainer.items() if key != "default_root_dir"}
    return own


def _places(path: Place, argv: Sequence[str]) -> list[str]:
    """The checkpoint, and the root of its run unless that is given; beside it, if it was copied elsewhere."""
    words = [f"--ckpt_path={path}"]
    if chosen(argv, _ROOT) is None:
        folder = folder_of(path, path.parent)
        is_of_a_run = folder != path.parent or folder.name.startswith("version_")
        words.append(f"--{_ROOT}={folder.parent if is_of_a_run else folder}")
    return words


def _without(argv: Sequence[str], name: str) -> list[str]:
    """The words without an option and its value."""
    words: list[str] = []
    skip = False
    for word in argv:
        if not skip and not word.startswith(f"--{name}="):
            if word == f"--{name}":
                skip = True
                continue
            words.append(word)
        skip = False
    return words
