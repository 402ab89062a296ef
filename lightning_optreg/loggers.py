"""Loggers that know their run's folder and continue in it: one `metrics.csv`, one W&B run.

Lightning's `CSVLogger` deletes the `metrics.csv` of a folder that it finds in use, and its `WandbLogger`
starts another run whenever a process is started again. The two loggers here continue instead, so that a run
which was stopped and resumed leaves the records of one that never stopped. `log_config` sends a whole
configuration to any list of loggers.

The command line uses `RunCSVLogger(save_dir=<run folder>)` unless the configuration names other loggers.
"""

import csv
import io
import os
from argparse import Namespace
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.core.saving import save_hparams_to_yaml
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor
from torch.nn import Module
from typing_extensions import override

from lightning_optreg.files import replacing

__all__ = ["RunCSVLogger", "RunWandbLogger", "log_config"]


@rank_zero_only
def log_config(loggers: Iterable[Logger], config: Mapping[str, Any]) -> None:
    """Send a run's whole configuration to every logger that can show it.

    Weights & Biases gets it nested, as the run's config, and a resumed run may change values in it.
    TensorBoard gets it as YAML on its text page. `RunCSVLogger` needs none: `config.yaml` lies beside its
    `metrics.csv`. Any other logger gets it through its `log_hyperparams`.

    Lightning sends the module's own hyperparameters to every logger before the first step. They are part of
    the configuration, so `RunWandbLogger` leaves them out once it has the whole; Lightning's `WandbLogger`
    writes them over keys of the same name.

    Args:
        loggers: A trainer's loggers.
        config: Plain nested dictionaries, lists, numbers, strings, booleans and None, as YAML holds them.

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


class RunCSVLogger(Logger):
    """Writes `metrics.csv` into a run's folder, one row a call, and continues it when the run is resumed.

    A run that was killed may have logged past its last checkpoint. When a fit resumes from a checkpoint, the
    rows from its first new step on are dropped before the new ones are written, so the file ends up as if the
    run had never stopped. A fit from the start begins the file anew. `test` and `validate` add their rows to
    it.

    Each row is in the file as soon as it is logged. The columns are `epoch`, `step` and the metrics in
    alphabetical order; a metric that wasn't logged with a row is an empty cell. Hyperparameters go to
    `hparams.yaml`, unless the folder has a `config.yaml`, which holds them already.

    Lightning tells its loggers about a fit where it hands them the hyperparameters; with
    `Trainer(enable_autolog_hparams=False)` it doesn't, and rows are only ever appended.

    Args:
        save_dir: The run's folder. Checkpoints go to `checkpoints/` in it. The command line sets it.

    Example:
        >>> import tempfile
        >>> folder = tempfile.mkdtemp()
        >>> logger = RunCSVLogger(folder)
        >>> logger.log_metrics({"train/loss": 2.5, "epoch": 0}, step=0)
        >>> logger.log_metrics({"train/loss": 1.5, "epoch": 0}, step=1)
        >>> print(Path(folder, "metrics.csv").read_text().strip())
        epoch,step,train/loss
        0,0,2.5
        0,1,1.5
    """

    def __init__(self, save_dir: str | Path = ".") -> None:
        super().__init__()
        self._save_dir = os.fspath(save_dir)
        self._columns: list[str] | None = None  # None: the file has not been looked at yet
        self._resumed_at: int | None = None  # the step of a resumed fit's first row
        self._awaits_resumed_row = False

    @property
    @override
    def name(self) -> str:
        """Empty: the run's folder is `save_dir` itself, with no folder for a name under it."""
        return ""

    @property
    @override
    def version(self) -> str:
        """Empty: the run's folder is `save_dir` itself, with no folder for a version under it."""
        return ""

    @property
    @override
    def save_dir(self) -> str:
        """The run's folder."""
        return self._save_dir

    @property
    @override
    def log_dir(self) -> str:
        """The run's folder."""
        return self._save_dir

    @property
    def path(self) -> Path:
        """The file that the rows go to."""
        return Path(self._save_dir, "metrics.csv")

    @override
    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Write `hparams.yaml`, unless the folder has a `config.yaml`."""
        params = vars(params) if isinstance(params, Namespace) else params
        if params and not Path(self._save_dir, "config.yaml").exists():
            os.makedirs(self._save_dir, exist_ok=True)
            save_hparams_to_yaml(os.path.join(self._save_dir, "hparams.yaml"), params)

    @override
    @rank_zero_only
    def log_graph(self, model: Module, input_array: Tensor | None = None) -> None:
        """Learn from the module's trainer, once before a run's first row, whether a fit starts or resumes.

        Lightning has no logger hook for the start of a run; this is the one call that brings the module
        along.
        """
        trainer = _fitting_trainer(model)
        if trainer is None:
            return
        if trainer.ckpt_path is not None:
            self._awaits_resumed_row = True
        elif trainer.global_step == 0 and self._columns is None:
            self.path.unlink(missing_ok=True)

    @override
    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Write one row.

        Args:
            metrics: Values by name; tensors must hold one number.
            step: The trainer's step. Default: the number of rows so far.
        """
        if step is None:
            step = len(self._read()[1])
        row = {key: value.item() if isinstance(value, Tensor) else value for key, value in metrics.items()}
        row["step"] = step
        if self._awaits_resumed_row:
            self._awaits_resumed_row = False
            self._resumed_at = step
            columns, rows = self._read()
            self._rewrite(columns, [old for old in rows if int(old["step"]) <= step])
        if step == self._resumed_at:
            # Steps, validations and epochs have rows of their own at one step. The checkpoint may lie between
            # them, so of the old rows at this step only those go that come again.
            columns, rows = self._read()
            kept = [old for old in rows if int(old["step"]) != step or _filled(old) != row.keys()]
            if len(kept) < len(rows):
                self._rewrite(columns, kept)
        self._append(row)

    def _append(self, row: dict[str, Any]) -> None:
        columns = self._columns
        if columns is None or not row.keys() <= set(columns):
            old_columns, rows = self._read()
            columns = sorted(row.keys() | set(old_columns), key=_column_order)
            self._rewrite(columns, rows)
        with self.path.open("a", newline="") as file:
            file.write(_lines(columns, [row]))

    def _read(self) -> tuple[list[str], list[dict[str, str]]]:
        """Columns and rows of the file; without a last line that a kill cut short."""
        if not self.path.exists():
            return [], []
        with self.path.open(newline="") as file:
            text = file.read()
        reader = csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1]))
        return list(reader.fieldnames or []), list(reader)

    def _rewrite(self, columns: list[str], rows: list[dict[str, str]]) -> None:
        header = dict(zip(columns, columns, strict=True))
        with replacing(self.path) as path:
            path.write_text(_lines(columns, [header, *rows]), newline="")
        self._columns = columns


class RunWandbLogger(WandbLogger):
    """Weights & Biases for a run's folder: a resumed run goes on in the W&B run that it began.

    The W&B run's id is kept in `wandb_run_id.txt` in the folder, where the next process finds it: the resumed
    fit, and `test` after `fit`. All local files go to `wandb/` in the folder. The best checkpoint becomes an
    artifact with the alias `best` when a fit ends; the last one, if it is another, with `latest`.

    W&B keeps what it has been sent: steps that a killed run logged past its last checkpoint stay in its
    history, and the resumed run logs them again. `metrics.csv` is the record without doubles.

    Args:
        save_dir: The run's folder. The command line sets it.
        project: W&B project. Default: the environment variable `WANDB_PROJECT`, else `lightning_logs`.
        name: The run's name on W&B's pages. Default: W&B makes one up.
        id: The W&B run's id. Default: the one kept in the folder, else W&B makes one up.
        entity: W&B user or team. Default: as W&B is set up.
        group: Shows several runs as one group, such as the folds of a cross-validation.
        job_type: Kind of run within a group.
        tags: Words to find the run by.
        notes: A remark shown with the run.
        mode: `online`, `offline` (upload later with `wandb sync`) or `disabled`. Default: the environment
            variable `WANDB_MODE`, else `online`.
        log_model: True: best and last checkpoint become artifacts when a fit ends. `all`: every checkpoint,
            when it is saved. False: none.

    Raises:
        ModuleNotFoundError: wandb is not installed (`pip install lightning-optreg[wandb]`).
        MisconfigurationException: When the run is begun, if W&B refuses, such as without an account.

    Example:
        In a configuration: `trainer.logger: RunWandbLogger`. In Python:

        >>> RunWandbLogger("runs/version_0", id="3fdk2x9a").version
        '3fdk2x9a'
    """

    def __init__(
        self,
        save_dir: str | Path = ".",
        *,
        project: str | None = None,
        name: str | None = None,
        id: str | None = None,
        entity: str | None = None,
        group: str | None = None,
        job_type: str | None = None,
        tags: list[str] | None = None,
        notes: str | None = None,
        mode: Literal["online", "offline", "disabled"] | None = None,
        log_model: Literal["all"] | bool = True,
    ) -> None:
        self._id_file = Path(save_dir, "wandb_run_id.txt")
        if id is None and self._id_file.exists():
            id = self._id_file.read_text().strip()
        super().__init__(
            save_dir=save_dir,
            project=project,
            name=name,
            id=id,
            log_model=log_model,
            entity=entity,
            group=group,
            job_type=job_type,
            tags=tags,
            notes=notes,
            # Lightning's own `offline` refuses artifacts, although `wandb sync` uploads them later.
            mode=mode,
        )
        self._has_config = False
        self._id_is_kept = False

    @property
    @override
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The W&B run; begun or continued when it is first asked for."""
        if self._id_is_kept:
            return super().experiment
        import wandb  # optional; the constructor made sure of it

        folder = self._id_file.parent
        is_new = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)  # wandb writes to /tmp if it is missing
        try:
            run = super().experiment
        except wandb.Error as error:
            if is_new and not any(folder.iterdir()):
                folder.rmdir()
            raise MisconfigurationException(
                f"RunWandbLogger: Weights & Biases did not start: {error} "
                "With mode: offline (or WANDB_MODE=offline) it needs no account; "
                "upload with `wandb sync` later."
            ) from error
        if not run.disabled:
            self._id_file.write_text(f"{run.id}\n")
        self._id_is_kept = True
        return run

    @rank_zero_only
    def log_config(self, config: Mapping[str, Any]) -> None:
        """Make the whole configuration the run's config; `log_hyperparams` adds nothing to it after that."""
        self.experiment.config.update(dict(config), allow_val_change=True)
        self._has_config = True

    @override
    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace) -> None:
        """Put the module's hyperparameters into the run's config, unless the whole configuration is there."""
        if not self._has_config:
            super().log_hyperparams(params)


def _fitting_trainer(model: Module) -> Trainer | None:
    if isinstance(model, LightningModule) and model.trainer.state.fn == TrainerFn.FITTING:
        return model.trainer
    return None


def _filled(row: Mapping[str, str]) -> set[str]:
    return {key for key, value in row.items() if value}


def _column_order(name: str) -> tuple[bool, bool, str]:
    return name != "epoch", name != "step", name


def _lines(columns: list[str], rows: Iterable[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    csv.DictWriter(text, columns, restval="", lineterminator="\n").writerows(rows)
    return text.getvalue()
