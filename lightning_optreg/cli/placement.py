"""Make a run write to its folder, by the settings of its trainer."""

from typing import Any

from jsonargparse import Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException

from lightning_optreg.places import Place

__all__ = ["DEFAULT_CALLBACKS", "DEFAULT_LOGGER", "is_checkpoint", "place"]

# Seen with --print_config and in config.yaml; `callbacks+:` adds to them and `callbacks:` replaces them.
DEFAULT_CALLBACKS: list[dict[str, Any]] = [
    {"class_path": "lightning_optreg.callbacks.ExactResume"},
    # Two, because Lightning's `save_last` saves only when the best does. The best comes first: what the last
    # remembers of it is then up to date.
    {
        "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
        "init_args": {
            "filename": "best",
            "monitor": "val/accuracy",
            "mode": "max",
            "enable_version_counter": False,
        },
    },
    {
        "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
        "init_args": {"filename": "last", "enable_version_counter": False},
    },
    {"class_path": "lightning_optreg.callbacks.Curves"},
    {"class_path": "lightning_optreg.callbacks.Throughput"},
]

_TABLE = "lightning_optreg.loggers.RunCSVLogger"
DEFAULT_LOGGER: list[dict[str, Any]] = [{"class_path": _TABLE}]
"""What `logger+:` adds to and `logger:` replaces."""


def is_checkpoint(callback: Namespace) -> bool:
    """Return whether a callback's settings are those of a `ModelCheckpoint`."""
    name: str = callback.class_path
    return name.endswith("ModelCheckpoint")


def place(trainer: Namespace, folder: Place, *, logs: bool) -> None:
    """Set where callbacks and loggers write, unless the user has.

    Args:
        trainer: The settings of the trainer, changed in place.
        folder: The run's folder.
        logs: Whether the command's figures go to the run's table, unless the user chooses the loggers.

    Raises:
        MisconfigurationException: If two loggers would write the same table.
    """
    trainer.default_root_dir = str(folder)
    trainer.logger = _loggers(trainer.logger, folder, logs=logs)
    given = trainer.callbacks if isinstance(trainer.callbacks, list) else [trainer.callbacks]
    trainer.callbacks = [callback for callback in given if callback is not None]
    for callback in filter(is_checkpoint, trainer.callbacks):
        if callback.init_args.get("dirpath") is None:
            callback.init_args["dirpath"] = str(folder / "checkpoints")
    if trainer.enable_checkpointing is False:
        trainer.callbacks = [one for one in trainer.callbacks if not is_checkpoint(one)]


def _loggers(given: Any, folder: Place, *, logs: bool) -> Any:
    if given is False:
        return False
    chosen = given if isinstance(given, list) else [given]
    is_default = [one.class_path if isinstance(one, Namespace) else one for one in chosen]
    if is_default in ([_TABLE], [None]) and not logs:
        return False
    table = Namespace(class_path=_TABLE, init_args=Namespace())
    loggers = [table if one in (None, True) else one for one in chosen]
    for logger in loggers:
        if isinstance(logger, Namespace) and logger.init_args.get("save_dir") in (None, "."):
            logger.init_args["save_dir"] = str(folder)
    tables = [one.init_args["save_dir"] for one in loggers if one.class_path == _TABLE]
    if len(set(tables)) < len(tables):
        raise MisconfigurationException(
            f"trainer.logger: {len(tables)} RunCSVLoggers would write the same metrics.csv; keep one"
        )
    return loggers
