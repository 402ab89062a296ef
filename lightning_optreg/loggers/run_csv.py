"""A CSV logger that continues an existing `metrics.csv`, which Lightning's own deletes."""

import csv
import io
import os
from argparse import Namespace
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.core.saving import save_hparams_to_yaml
from lightning.pytorch.loggers import Logger
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor
from torch.nn import Module
from typing_extensions import override

from lightning_optreg.loggers._table_file import TableFile
from lightning_optreg.places import Place, UrlPath, place_of

__all__ = ["RunCSVLogger"]


class RunCSVLogger(Logger):
    """Write `metrics.csv` to a run's folder, one row per call, and continue it when the run is resumed.

    A run that was killed may have logged past its last checkpoint. When a fit resumes from a checkpoint, the
    rows from its first new step on are dropped before new ones are written, so the file ends up as if the
    run had never stopped. A new fit starts the file afresh. `test` and `validate` append their rows.

    Each row is written as soon as it is logged. In a folder by URL (`s3://bucket/runs`), where files can't
    grow, the table is put there anew: every five seconds, after each checkpoint and at the end. The columns
    are `epoch`, `step` and the metrics in alphabetical order; metrics that were not logged with a row are
    empty cells. Hyperparameters go to `hparams.yaml`, unless the folder has a `config.yaml`, which already
    contains them.

    Lightning tells its loggers about a fit when it passes them the hyperparameters. With
    `Trainer(enable_autolog_hparams=False)` it doesn't, and rows are always appended.

    Args:
        save_dir: The run's folder, a path or a URL; checkpoints go to its `checkpoints/`. The command line
            sets it.

    Raises:
        ValueError: When a row is logged, if the folder's `metrics.csv` is damaged or not a run's.

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

    def __init__(self, save_dir: str | Path | UrlPath = ".") -> None:
        super().__init__()
        self._folder = place_of(save_dir)
        self._save_dir = str(save_dir) if isinstance(self._folder, UrlPath) else os.fspath(self._folder)
        self._table = TableFile(self._folder / "metrics.csv")
        self._columns: list[str] | None = None  # None: the file has not been read yet
        self._resumed_at: int | None = None  # the step of a resumed fit's first row
        self._awaits_resumed_row = False

    @property
    @override
    def name(self) -> str:
        """Empty: the run's folder is `save_dir` itself, without a subfolder for the name."""
        return ""

    @property
    @override
    def version(self) -> str:
        """Empty: the run's folder is `save_dir` itself, without a subfolder for the version."""
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
    def path(self) -> Place:
        """The file that rows are written to."""
        return self._table.path

    @override
    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Write `hparams.yaml`, unless the folder has a `config.yaml`."""
        params = vars(params) if isinstance(params, Namespace) else params
        if params and not (self._folder / "config.yaml").exists():
            self._folder.mkdir(parents=True, exist_ok=True)
            save_hparams_to_yaml(str(self._folder / "hparams.yaml"), params)

    @override
    @rank_zero_only
    def log_graph(self, model: Module, input_array: Tensor | None = None) -> None:
        """Find out from the module's trainer whether a fit starts or resumes.

        Lightning has no logger hook for the start of a run; of the calls before the first row only this one
        passes the module.
        """
        trainer = _fitting_trainer(model)
        if trainer is None:
            return
        if trainer.ckpt_path is not None:
            self._awaits_resumed_row = True
        elif trainer.global_step == 0 and self._columns is None:
            self._table.remove()

    @override
    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Write one row.

        Args:
            metrics: Values by name; tensors must have one element.
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
            # At one step there may be a row each for the step, a validation and the epoch's end. The
            # checkpoint # may lie between them, so only the old rows that are logged again are dropped.
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
        self._table.append(_lines(columns, [row]))

    @override
    @rank_zero_only
    def save(self) -> None:
        """Write the rows that are not written yet; by Lightning also called when a run ends."""
        self._table.flush()

    @override
    def after_save_checkpoint(self, checkpoint_callback: Checkpoint) -> None:
        """Write the rows that are not written yet: a run that goes on from here needs them."""
        self.save()

    def _read(self) -> tuple[list[str], list[dict[str, str]]]:
        """Return columns and rows of the file, without a last line that a kill cut short."""
        try:
            text = self._table.read()
            if text is None:
                return [], []
            reader = csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1]))
            columns, rows = list(reader.fieldnames or []), list(reader)
        except (UnicodeDecodeError, csv.Error) as error:
            raise ValueError(f"{self.path} is not a run's table ({error}); move it away") from error
        for number, row in enumerate(rows, start=1):
            # csv stores surplus cells under the key None, and None for missing cells.
            if None in row or None in row.values() or not row.get("step", "").isdecimal():
                raise ValueError(f"{self.path} is not a run's table (row {number}); move it away")
        return columns, rows

    def _rewrite(self, columns: list[str], rows: list[dict[str, str]]) -> None:
        header = dict(zip(columns, columns, strict=True))
        self._table.replace(_lines(columns, [header, *rows]))
        self._columns = columns


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
