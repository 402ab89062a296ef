"""Loggers that know their run's folder and continue in it: one `metrics.csv`, one W&B run.

Lightning's `CSVLogger` deletes the `metrics.csv` of a folder that it finds in use, and its `WandbLogger`
starts another run whenever a process is started again. The two loggers here continue instead, so that a run
which was stopped and resumed leaves the records of one that never stopped. `log_config` sends a whole
configuration to any list of loggers.

The command line uses `RunCSVLogger(save_dir=<run folder>)` unless the configuration names other loggers.
"""

from lightning_optreg.loggers.configuration import log_config
from lightning_optreg.loggers.run_csv import RunCSVLogger
from lightning_optreg.loggers.run_wandb import RunWandbLogger

__all__ = ["RunCSVLogger", "RunWandbLogger", "log_config"]
