"""Send a run's whole configuration to its loggers, in the form that each of them shows best."""

from collections.abc import Iterable, Mapping
from typing import Any

import yaml
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from lightning_optreg.loggers.run_csv import RunCSVLogger
from lightning_optreg.loggers.run_wandb import RunWandbLogger

__all__ = ["log_config"]


@rank_zero_only
def log_config(loggers: Iterable[Logger], config: Mapping[str, Any]) -> None:
    """Send a run's whole configuration to every logger that can show it.

    Weights & Biases receives it nested, as the run's config; a resumed run may change values in it.
    TensorBoard receives it as YAML on its text page. `RunCSVLogger` does not need it: `config.yaml` is in the
    same folder as `metrics.csv`. Any other logger receives it through its `log_hyperparams`.

    Lightning sends the module's hyperparameters to every logger before the first step. They are part of the
    configuration, so `RunWandbLogger` ignores them once it has the whole configuration; Lightning's
    `WandbLogger` overwrites keys of the same name.

    Args:
        loggers: The trainer's loggers.
        config: Nested dictionaries and lists of numbers, strings, booleans and None, as in YAML.

    Example:
        >>> import tempfile
        >>> from lightning.pytorch.loggers import CSVLogger
        >>> logger = CSVLogger(tempfile.mkdtemp())
        >>> log_config([logger], {"data": {"batch_size": 128}})
        >>> logger.experiment.hparams
        {'data': {'batch_size': 128}}
    """
    for logger in loggers:
        if isinstance(logger, RunWandbLogger):
            logger.log_config(config)
        elif isinstance(logger, WandbLogger):
            logger.experiment.config.update(dict(config), allow_val_change=True)
        elif isinstance(logger, TensorBoardLogger):
            text = yaml.safe_dump(dict(config), sort_keys=False)
            logger.experiment.add_text("config", f"```yaml\n{text}```")
        elif not isinstance(logger, RunCSVLogger):
            logger.log_hyperparams(dict(config))
