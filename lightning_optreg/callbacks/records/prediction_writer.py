"""Write the predictions of `trainer.predict` as one table, CSV or Parquet, with one row per image."""

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
from lightning_optreg.places import Place, is_url, place_of
from lightning_optreg.trainer.across_ranks import gather_ranks
from lightning_optreg.trainer.queries import datamodule_of
from lightning_optreg.trainer.roles import OnlyRecords

__all__ = ["PredictionWriter"]


class PredictionWriter(OnlyRecords, OfAKind, LetsGo, BasePredictionWriter):
    """Write the predictions of `trainer.predict` to one file, in the order of the dataset.

    This package's datamodules predict on their test set. The columns:

    | column | content |
    |---|---|
    | `index` | position in the dataset, counted from 0 |
    | `file` | path of the image below `data_dir`, for an `ImageFolderDataModule` |
    | `label`, `label_name` | the true class, and its name |
    | `prediction`, `class_name` | the most probable class, and its name |
    | `p_0` to `p_{K-1}` | the probabilities of the classes |

    Class names are written if the datamodule has `class_names`, one per class. True labels are the second
    part of a batch `(x, y, ...)`, if it has a class for each image; otherwise the two columns are left out
    and a message says so.

    It works with any module whose `predict_step` returns probabilities (or scores) (N, K) of K >= 2 classes;
    or numbers (N,) or (N, 1): integers are predicted classes, other numbers those of a regression, with the
    true number as `label`. The columns `p_k` are left out then.

    The index is the one that Lightning knows for its DataLoader, shuffled or not; else the third part of a
    batch `(x, y, index)`, as from this package's datamodules; else a running number. With several processes
    rank 0 writes the rows of all, each image once. With `limit_predict_batches` the table has only the images
    that were predicted.

    CSV needs no further package. For Parquet, `pip install "lightning-optreg[parquet]"` and use that suffix:
    `predict ... --trainer.callbacks+=PredictionWriter --trainer.callbacks.path=predictions.parquet`.

    Args:
        path: Path ending in `.csv`, or in `.parquet`, which needs pyarrow. A relative path is inside the
            run's folder and can't leave it; an absolute path, a URL, or one with `~`, is used as given.

    Raises:
        ValueError: If path has another ending, or is relative and leaves the run's folder by `..`.
        ModuleNotFoundError: If pyarrow is missing.
        MisconfigurationException: In prediction, if there are several dataloaders, another `PredictionWriter`
            has the same path, `predict_step` takes a `dataloader_iter` or returns something else, or several
            processes can't determine their images' positions.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[PredictionWriter("test.csv")], accelerator="cpu", logger=False)
    """

    must_differ = ("path", "write")

    def __init__(self, path: str = "predictions.csv") -> None:
        super().__init__(write_interval="batch")
        self.path: Place = place_of(path) if is_url(path) else Path(path).expanduser()
        if isinstance(self.path, Path) and not self.path.is_absolute():
            check_inside(path, "PredictionWriter: path")
        if self.path.suffix not in (".csv", ".parquet"):
            raise ValueError(
                f"PredictionWriter: path must be a name ending in .csv or .parquet, got {path!r}"
            )
        if self.path.suffix == ".parquet" and find_spec("pyarrow") is None:
            raise ModuleNotFoundError(
                'PredictionWriter: Parquet needs pyarrow: pip install "lightning-optreg[parquet]"'
            )
        self._target: Place = self.path
        self._rows: list[_Rows] = []
        self._seen = 0
        self._quiet = ExitStack()

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse two callbacks with the same table, and a step that fetches its batches itself."""
        if is_param_in_hook_signature(pl_module.predict_step, "dataloader_iter", explicit=True):
            raise MisconfigurationException(
                "PredictionWriter: predict_step must take a batch, not dataloader_iter"
            )
        super().setup(trainer, pl_module, stage)

    @override
    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start without rows; find the folder now, as this needs all processes."""
        if trainer.predict_loop.num_dataloaders > 1:
            raise MisconfigurationException(
                "PredictionWriter: there must be one predict dataloader, "
                f"got {trainer.predict_loop.num_dataloaders}"
            )
        self._target = _joined(place_of(trainer.log_dir or trainer.default_root_dir), self.path)
        self._rows, self._seen = [], 0
        # Lightning warns of every loader that is not a DataLoader; ours have the index in the batch.
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
                "PredictionWriter: predict_step must return equally many numbers per image in all batches, "
                f"got {self._rows[0].predictions.shape[1]} and {prediction.shape[1]}"
            )
        ours = isinstance(trainer.predict_dataloaders, BatchLoader)
        places, known = _places(batch, batch_indices, count, ours=ours)
        if places is None:
            if trainer.world_size > 1:
                raise MisconfigurationException(
                    "PredictionWriter: with several processes batches must be (x, y, index) or come from a "
                    "DataLoader, so that the positions of the images are known"
                )
            places = torch.arange(self._seen, self._seen + count)
        if len(places) != count:
            raise MisconfigurationException(
                f"PredictionWriter: predict_step must return one row per image, got {count} for "
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
            places = torch.arange(len(places))  # the third part of the batches is not a position
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
        without = "" if "label" in columns else ", without true labels: the batches have none"
        rank_zero_info(
            f"PredictionWriter: wrote {len(columns['index'])} predictions to {self._target}{without}"
        )

    @override
    def let_go(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let Lightning warn again; after an exception half a table isn't written."""
        self._quiet.close()


class _Rows(NamedTuple):
    """The rows of one batch."""

    places: Tensor  # int64 (N,), positions in the dataset
    known: bool  # whether the positions are certain
    predictions: Tensor  # (N, K); (N, 1) of a regression
    labels: Tensor | None  # (N,)


def _joined(folder: Place, path: Place) -> Place:
    return folder / path if isinstance(path, Path) else path


def _places(
    batch: Any, batch_indices: Sequence[int] | None, count: int, *, ours: bool
) -> tuple[Tensor | None, bool]:
    """Return the positions that Lightning knows, or else the third part of a batch (x, y, index)."""
    if batch_indices:
        return torch.tensor(batch_indices), True
    if isinstance(batch, tuple | list) and len(batch) >= 3:
        index = batch[2]
        if isinstance(index, Tensor) and index.dtype == torch.int64 and index.ndim == 1:
            return (index.cpu(), ours) if ours or len(index) == count else (None, False)
    return None, False
