"""The predictions of `trainer.predict` as one table, CSV or Parquet, one row an image."""

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

from lightning_optreg.callbacks._let_go import LetsGo
from lightning_optreg.callbacks._of_a_kind import OfAKind
from lightning_optreg.callbacks.records._prediction_table import (
    columns_of,
    labels_in,
    write_csv,
    write_parquet,
)
from lightning_optreg.data.loader import BatchLoader
from lightning_optreg.files import check_inside, replacing
from lightning_optreg.trainer.across_ranks import gather_ranks
from lightning_optreg.trainer.queries import datamodule_of

__all__ = ["PredictionWriter"]


class PredictionWriter(OfAKind, LetsGo, BasePredictionWriter):
    """Writes what `trainer.predict` finds to one file, in the order of the images' positions in the dataset.

    This package's datamodules predict on their test set. The columns:

    | column | is |
    |---|---|
    | `index` | position in the dataset, counted from 0 |
    | `file` | path of the image below `data_dir`, of an `ImageFolderDataModule` |
    | `label`, `label_name` | the true class, and its name |
    | `prediction`, `class_name` | the most probable class, and its name |
    | `p_0` to `p_{K-1}` | the classes' probabilities |

    Names of classes are there if the datamodule has `class_names`, one for each. True labels are the second
    part of a batch `(x, y, ...)`, if it holds a class of each image; where it does not, the two columns are
    left out and a message says so.

    Any module will do whose `predict_step` returns probabilities (or scores) (N, K) of K >= 2 classes; or
    numbers (N,) or (N, 1): integers are the predicted classes, other numbers those of a regression, and then
    `label` is the true number. There are no columns behind them.

    The index is what Lightning knows of its DataLoader, shuffled or not; else the third part of a batch
    `(x, y, index)`, as this package's datamodules give it; else a running number. With several processes the
    first one writes the rows of all, each image once. With `limit_predict_batches` the table holds the images
    that were predicted.

    CSV needs nothing more. For Parquet, `pip install "lightning-optreg[parquet]"`, and a path of that ending:
    `predict ... --trainer.callbacks+=PredictionWriter --trainer.callbacks.path=predictions.parquet`.

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

    must_differ = ("path", "write")

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
        self._rows: list[_Rows] = []
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

    @override
    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin with no rows; find out where they go while all processes take part."""
        if trainer.predict_loop.num_dataloaders > 1:
            raise MisconfigurationException(
                "PredictionWriter: there must be one predict dataloader, "
                f"got {trainer.predict_loop.num_dataloaders}"
            )
        self._target = Path(trainer.log_dir or trainer.default_root_dir) / self.path
        self._rows, self._seen = [], 0
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
        if not (isinstance(prediction, Tensor) and prediction.ndim in (1, 2)) or prediction.is_complex():
            got = tuple(prediction.shape) if isinstance(prediction, Tensor) else type(prediction).__name__
            raise MisconfigurationException(
                "PredictionWriter: predict_step must return class probabilities (N, K), or numbers (N,) or "
                f"(N, 1), got {got}"
            )
        count = len(prediction)
        prediction = prediction.detach().cpu().view(count, -1)
        number = prediction.is_floating_point() or prediction.shape[1] > 1
        prediction = prediction.float() if number else prediction.long()
        if self._rows and prediction.shape[1] != self._rows[0].predictions.shape[1]:
            raise MisconfigurationException(
                "PredictionWriter: predict_step must return as many numbers of each image in all batches, "
                f"got {self._rows[0].predictions.shape[1]} and {prediction.shape[1]}"
            )
        ours = isinstance(trainer.predict_dataloaders, BatchLoader)
        places, known = _places(batch, batch_indices, count, ours=ours)
        if places is None:
            if trainer.world_size > 1:
                raise MisconfigurationException(
                    "PredictionWriter: with several processes batches must be (x, y, index), or come from a "
                    "DataLoader; these images' positions in the dataset are unknown"
                )
            places = torch.arange(self._seen, self._seen + count)
        if len(places) != count:
            raise MisconfigurationException(
                f"PredictionWriter: predict_step must return one row an image, got {count} of "
                f"{len(places)} images"
            )
        self._seen += count
        self._rows.append(_Rows(places, known, prediction, labels_in(batch, count)))

    @override
    def on_predict_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Gather the rows of all processes and write the file."""
        ranks = gather_ranks(trainer, {"rows": self._rows})
        self._rows = []
        rows: list[_Rows] = [part for rank in ranks for part in rank["rows"]]
        if not trainer.is_global_zero or not rows:
            return
        places = torch.cat([part.places for part in rows])
        sure = trainer.world_size > 1 or all(part.known for part in rows)
        if not sure and len(set(places.tolist())) < len(places):
            places = torch.arange(len(places))  # the batches' third part is something else than a position
        labels = [part.labels for part in rows if part.labels is not None]
        loader = trainer.predict_dataloaders
        columns = columns_of(
            places,
            torch.cat([part.predictions for part in rows]),
            torch.cat(labels) if len(labels) == len(rows) else None,
            loader.names if isinstance(loader, BatchLoader) else None,
            getattr(datamodule_of(trainer), "class_names", None),
        )
        with replacing(self._target) as path:
            (write_csv if path.suffix == ".csv" else write_parquet)(columns, path)
        without = "" if "label" in columns else ", without true labels: the batches hold none"
        rank_zero_info(
            f"PredictionWriter: {len(columns['index'])} predictions are in {self._target}{without}"
        )

    @override
    def let_go(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let Lightning warn again; after an exception half a table isn't written."""
        self._quiet.close()


class _Rows(NamedTuple):
    """What a batch gives."""

    places: Tensor  # int64 (N,), positions in the dataset
    known: bool  # whether they are sure to be that
    predictions: Tensor  # (N, K); (N, 1) of a regression
    labels: Tensor | None  # (N,)


def _places(
    batch: Any, batch_indices: Sequence[int] | None, count: int, *, ours: bool
) -> tuple[Tensor | None, bool]:
    """Positions: those that Lightning knows, or else the third part of a batch (x, y, index)."""
    if batch_indices:
        return torch.tensor(batch_indices), True
    if isinstance(batch, tuple | list) and len(batch) >= 3:
        index = batch[2]
        if isinstance(index, Tensor) and index.dtype == torch.int64 and index.ndim == 1:
            return (index.cpu(), ours) if ours or len(index) == count else (None, False)
    return None, False
