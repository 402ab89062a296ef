"""Loggers that continue in the run's folder: one `metrics.csv` and one W&B run, however often it is resumed.

Lightning's `CSVLogger` deletes an existing `metrics.csv`, and its `WandbLogger` starts a new run with every
process. The two loggers here continue instead, so a run that was stopped and resumed leaves the same records
as a run that never stopped. `log_config` sends a whole configuration to any list of loggers.

The command line uses `RunCSVLogger(save_dir=<run folder>)` unless the configuration names other loggers.
"""

from lightning_optreg.loggers.configuration import log_config
from lightning_optreg.loggers.run_csv import RunCSVLogger
from lightning_optreg.loggers.run_wandb import RunWandbLogger

__all__ = ["RunCSVLogger", "RunWandbLogger", "log_config"]
