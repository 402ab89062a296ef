"""The predictions of `trainer.predict` as one table, CSV or Parquet, one row an image."""

import csv
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from torch import Tensor
from typing_extensions import override

from lightning_optreg.callbacks.across_ranks import gather_ranks
from lightning_optreg.callbacks.of_a_kind import OfAKind
from lightning_optreg.files import check_inside, replacing

__all__ = ["PredictionWriter"]


class PredictionWriter(OfAKind, BasePredictionWriter):
    """Writes what `trainer.predict` finds to one file, in the order of the images' positions in the dataset.

    Columns: `index` (position in the dataset), `prediction` (the most probable class), `class_name` (if the
    datamodule has `class_names`) and the probabilities `p_0` to `p_{K-1}`. Any module will do whose
    `predict_step` returns probabilities (or scores) (N, K) of K >= 2 classes; or numbers (N,) or (N, 1), as
    those of a regression: then `prediction` is the number, and there are no columns behind it. The index is
    the third part of a batch `(x, y, index)`, as this package's datamodules give it, else what Lightning
    knows of its DataLoader, else a running number. With several processes the first one writes the rows of
    all, each image once.

    Args:
        path: Ending in `.csv`, or in `.parquet`, which needs pyarrow. A relative path is inside the run's
            folder and cannot leave it; an absolute one, or one from `~`, is as it is.

    Raises:
        ValueError: If path has another ending, or is relative and leaves the run's folder by `..`.
        ModuleNotFoundError: If pyarrow is missing.
        MisconfigurationException: In prediction, if there are several dataloaders, if `predict_step` returns
            something else, or if several processes can't tell their images' positions.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[PredictionWriter("test.csv")], accelerator="cpu", logger=False)
    """

    def __init__(self, path: str = "predictions.csv") -> None:
        super().__init__(write_interval="batch")
        self.path = Path(path).expanduser()
        if not self.path.is_absolute():
            check_inside(path, "PredictionWriter: path")
        if self.path.suffix not in (".csv", ".parquet"):
            raise ValueError(
                f"PredictionWriter: path must be a name ending in .csv or .parquet, got {path!r}"
            )
        if self.path.suffix == ".parquet" and find_spec("pyarrow") is None:
            raise ModuleNotFoundError(
                'PredictionWriter: Parquet needs pyarrow: pip install "lightning-optreg[parquet]"'
            )
        self._target = self.path
        self._index: list[Tensor] = []
        self._probabilities: list[Tensor] = []
        self._seen = 0
        self._quiet = ExitStack()

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse to write over another one's table, and a step that fetches its batches itself."""
        if is_param_in_hook_signature(pl_module.predict_step, "dataloader_iter", explicit=True):
            raise MisconfigurationException(
                "PredictionWriter: it must see the batches, which predict_step(dataloader_iter) fetches "
                "itself"
            )
        super().setup(trainer, pl_module, stage)
        callbacks = trainer.callbacks  # type: ignore[attr-defined]  # a connector sets it
        paths = [callback.path for callback in callbacks if isinstance(callback, PredictionWriter)]
        if paths.count(self.path) > 1:
            raise MisconfigurationException(
                f"PredictionWriter: two of them would write {self.path}; give each a path of its own"
            )

    @override
    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin with no rows; find out where they go while all processes take part."""
        if trainer.predict_loop.num_dataloaders > 1:
            raise MisconfigurationException(
                "PredictionWriter: there must be one predict dataloader, "
                f"got {trainer.predict_loop.num_dataloaders}"
            )
        self._target = Path(trainer.log_dir or trainer.default_root_dir) / self.path
        self._index, self._probabilities, self._seen = [], [], 0
        # Lightning warns of every loader that is no DataLoader; ours send the index in the batch.
        self._quiet.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", "Couldn't infer the batch indices")

    @override
    def write_on_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        prediction: Any,
        batch_indices: Sequence[int] | None,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Keep a batch's rows."""
        if not (isinstance(prediction, Tensor) and prediction.ndim in (1, 2)):
            got = tuple(prediction.shape) if isinstance(prediction, Tensor) else type(prediction).__name__
            raise MisconfigurationException(
                "PredictionWriter: predict_step must return class probabilities (N, K), or numbers (N,) or "
                f"(N, 1), got {got}"
            )
        if prediction.ndim == 1:
            prediction = prediction[:, None]
        count = len(prediction)
        index = _index_in_batch(batch, count)
        if index is None and batch_indices is not None and len(batch_indices) == count:
            index = torch.tensor(batch_indices)
        if index is None:
            if trainer.world_size > 1:
                raise MisconfigurationException(
                    "PredictionWriter: with several processes batches must be (x, y, index), or come from a "
                    "DataLoader; these images' positions in the dataset are unknown"
                )
            index = torch.arange(self._seen, self._seen + count)
        self._seen += count
        self._index.append(index.cpu())
        self._probabilities.append(prediction.detach().float().cpu())

    @override
    def on_predict_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Gather the rows of all processes and write the file."""
        mine = {"index": self._index, "probabilities": self._probabilities}
        ranks = gather_ranks(trainer, mine)
        self._index, self._probabilities = [], []
        if not trainer.is_global_zero:
            return
        table = _table(
            [part for rank in ranks for part in rank["index"]],
            [part for rank in ranks for part in rank["probabilities"]],
            getattr(trainer.datamodule, "class_names", None),  # type: ignore[attr-defined]  # a connector sets it
        )
        with replacing(self._target) as path:
            (_write_csv if path.suffix == ".csv" else _write_parquet)(table, path)
        rank_zero_info(f"PredictionWriter: {len(table.positions)} predictions are in {self._target}")

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let Lightning warn again."""
        self._quiet.close()

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Let Lightning warn again; half a table isn't written."""
        self._quiet.close()


class _Table(NamedTuple):
    positions: Tensor  # int64 (N,), ascending
    probabilities: Tensor  # float32 (N, K); (N, 0) of a regression
    predictions: Tensor  # int64 (N,); of a regression float32
    class_names: list[str] | None  # of the predictions


def _index_in_batch(batch: Any, count: int) -> Tensor | None:
    """The third part of a batch (x, y, index)."""
    if not (isinstance(batch, (tuple, list)) and len(batch) >= 3):
        return None
    index = batch[2]
    if not isinstance(index, Tensor) or index.dtype != torch.int64 or index.shape != (count,):
        return None
    return index


def _table(index: list[Tensor], probabilities: list[Tensor], class_names: Sequence[str] | None) -> _Table:
    """Put the rows in order, each image once: a DistributedSampler repeats some to give all ranks as many."""
    every, rows = torch.cat(index), torch.cat(probabilities)
    order = every.argsort(stable=True)
    every = every[order]
    first = torch.ones_like(every, dtype=torch.bool)
    first[1:] = every[1:] != every[:-1]
    rows = rows[order[first]]
    if rows.shape[1] == 1:
        return _Table(every[first], rows[:, :0], rows[:, 0], None)
    predictions = rows.argmax(dim=1)
    named = class_names is not None and len(class_names) == rows.shape[1]
    names = [str(class_names[k]) for k in predictions.tolist()] if named and class_names else None
    return _Table(every[first], rows, predictions, names)


def _write_csv(table: _Table, path: Path) -> None:
    # NumPy prints a float32 with as many digits as tell it from its neighbours
    predictions = [str(prediction) for prediction in table.predictions.numpy()]
    columns: list[Sequence[Any]] = [table.positions.tolist(), predictions]
    if table.class_names is not None:
        columns.append(table.class_names)
    columns += [[str(p) for p in column] for column in table.probabilities.T.numpy()]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(_header(table))
        writer.writerows(zip(*columns, strict=True))


def _write_parquet(table: _Table, path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    columns: list[Any] = [table.positions.numpy(), table.predictions.numpy()]
    if table.class_names is not None:
        columns.append(table.class_names)
    columns += list(table.probabilities.T.contiguous().numpy())
    arrays = [pyarrow.array(column) for column in columns]
    parquet.write_table(pyarrow.Table.from_arrays(arrays, names=_header(table)), path)


def _header(table: _Table) -> list[str]:
    named = [] if table.class_names is None else ["class_name"]
    return ["index", "prediction", *named, *(f"p_{k}" for k in range(table.probabilities.shape[1]))]
