"""Runs of somebody else's LightningModule and LightningDataModule, by Lightning's own command line.

A study whose `model` has a `class_path` names such a module. There is no `optimizer` or `lr_scheduler` beside
it: what its `configure_optimizers` uses are arguments of the module.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.utilities.model_helpers import is_overridden

from lightning_optreg.callbacks import ExactResume
from lightning_optreg.cli.expected_warnings import without_expected_warnings
from lightning_optreg.loggers import RunCSVLogger
from lightning_optreg.places import Place, local_copy
from lightning_optreg.trainer.queries import callbacks_of
from lightning_optreg.trust import build_nothing_unasked, check_values, split_options

__all__ = ["ForeignRun", "check_foreign"]


class ForeignRun:
    """A module, its data and its trainer, built from a run's settings.

    Args:
        configuration: A YAML with the settings.
        settings: The same.
        trusted: `--safe` and `--allow`.

    Raises:
        SystemExit: If the settings are not understood; a message was printed.
        UntrustedError: If something may not be named.
    """

    def __init__(
        self, configuration: Place, settings: Mapping[str, Any], trusted: Sequence[str] = ()
    ) -> None:
        self._cli = _command_line(configuration, settings, trusted)

    @property
    def trainer(self) -> Trainer:
        """The trainer."""
        trainer: Trainer = self._cli.trainer
        return trainer

    @property
    def has_test(self) -> bool:
        """Whether module and data can be tested."""
        return is_overridden("test_step", self._cli.model) and is_overridden(
            "test_dataloader", self._cli.datamodule, LightningDataModule
        )

    def fit(self, folder: Place, callbacks: Sequence[Callback]) -> Place:
        """Train, or go on from the folder's last checkpoint.

        Args:
            folder: For `metrics.csv` and the checkpoint.
            callbacks: Put behind those of the configuration.

        Returns:
            The folder with `metrics.csv`.
        """
        trainer = self.trainer
        trainer.logger = RunCSVLogger(str(folder))
        last = folder / "checkpoints" / "last.ckpt"
        saving = ModelCheckpoint(str(last.parent), filename="last", enable_version_counter=False)
        kept = [each for each in callbacks_of(trainer) if not isinstance(each, ExactResume)]
        others = [each for each in kept if not isinstance(each, Checkpoint)]
        savers = [each for each in kept if isinstance(each, Checkpoint)]
        callbacks_of(trainer)[:] = [ExactResume(), *others, *callbacks, *savers, saving]
        trainer.fit(
            self._cli.model, datamodule=self._cli.datamodule, ckpt_path=str(last) if last.exists() else None
        )
        return folder

    def test(self) -> dict[str, float]:
        """Return the metrics of the test; none if there is no test."""
        if not self.has_test:
            return {}
        self.trainer.logger = None  # the table of metrics is the fit's
        (found,) = self.trainer.test(self._cli.model, datamodule=self._cli.datamodule, verbose=False)
        return {name: float(value) for name, value in found.items()}


def check_foreign(configuration: Place, settings: Mapping[str, Any], trusted: Sequence[str] = ()) -> None:
    """Let Lightning's command line read settings, without building anything.

    Args:
        configuration: A YAML with the settings.
        settings: The same.
        trusted: `--safe` and `--allow`.

    Raises:
        SystemExit: Always: with 0, after the configuration is printed, or after an error is.
        UntrustedError: If something may not be named.
    """
    _command_line(configuration, settings, trusted, "--print_config")


def _command_line(
    configuration: Place, settings: Mapping[str, Any], trusted: Sequence[str], *more: str
) -> LightningCLI:
    build_nothing_unasked()
    _, trust = split_options(["fit", *trusted])
    if trust is not None:
        check_values(dict(settings), trust=trust, what=f"config file {str(configuration)!r}", groups={})
    with without_expected_warnings():
        return LightningCLI(
            LightningModule,
            LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=None,
            seed_everything_default=0,
            args=["--config", str(local_copy(configuration)), *more],
            run=False,
        )
