"""The configuration of a run, kept where people and resumed runs look for it."""

from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from typing_extensions import override

from lightning_optreg.files import replacing
from lightning_optreg.loggers import RunCSVLogger, log_config
from lightning_optreg.places import Place, remove_tree
from lightning_optreg.trainer.queries import is_dry_run

__all__ = ["SaveConfig", "is_configured"]

# Settings of how a run is started or resumed, not of the run itself.
_OF_A_RESUME = ("ckpt_path", "reset_optimizer")
_OF_A_START = (*_OF_A_RESUME, "oversubscribe")


class SaveConfig(Callback):
    """Save the run's whole configuration in its folder, in its loggers and in its checkpoints.

    Args:
        config: The configuration as plain values. What a start continues from is left out: the file, given
            to `fit`, makes the run once more.
        folder: The run's folder. `config.yaml` is written there; a resumed run with another
            configuration adds `config-1.yaml` and so on.
        made: The folder and its parents, if they were created for this run. They are removed if training
            never begins.
    """

    def __init__(self, config: dict[str, Any], folder: Place, made: Sequence[Place] = ()) -> None:
        self.config = {key: value for key, value in config.items() if key not in _OF_A_RESUME}
        self.folder = folder
        self._made = list(made)
        self._written: Place | None = None

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write the file and tell the loggers, on the first process."""
        dry = is_dry_run(trainer)
        if stage != "fit" or not trainer.is_global_zero or dry:
            return
        path, number = self.folder / "config.yaml", 0
        while path.exists() and not _says(path, self.config):
            number += 1
            path = self.folder / f"config-{number}.yaml"
        if not path.exists():
            self._written = path
            with replacing(path) as temporary:
                temporary.write_text(yaml.safe_dump(self.config, sort_keys=False))
        log_config(trainer.loggers, self.config)
        rank_zero_info(f"run folder: {self.folder}")

    @override
    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        """Keep everything once training has begun."""
        self._written, self._made = None, []

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Remove what was written for a run that never began."""
        if self._written is None or any(self.folder.rglob("*.ckpt")):  # such as one saved on SIGTERM
            return
        self._written.unlink(missing_ok=True)
        # W&B's own process still writes to its folder, and has told its server of the run.
        if self.folder in self._made and not (self.folder / "wandb").exists():
            remove_tree(self.folder)
        for folder in self._made:
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()

    @override
    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Write what the table's logger keeps back, before a checkpoint that relies on it."""
        for logger in trainer.loggers:
            if isinstance(logger, RunCSVLogger):
                logger.save()

    @override
    def state_dict(self) -> dict[str, Any]:
        """Put the configuration into checkpoints, where a continued run compares it with its own."""
        return {"config": self.config}


def is_configured(folder: Place, config: Mapping[str, Any]) -> bool:
    """Return whether a run in this folder had this configuration.

    Args:
        folder: The run's folder.
        config: The configuration as plain values.
    """
    return any(_says(path, config) for path in folder.glob("config*.yaml"))


def _says(path: Place, config: Mapping[str, Any]) -> bool:
    try:
        written = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, ValueError, RecursionError):  # ValueError: not text, or not a date
        return False
    return isinstance(written, dict) and _of_run(written) == _of_run(config)


def _of_run(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in _OF_A_START}
