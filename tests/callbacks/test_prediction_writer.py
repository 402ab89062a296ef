import csv
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from pyarrow import parquet
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from lightning_optreg.callbacks import PredictionWriter
from lightning_optreg.classifier import ImageClassifier
from lightning_optreg.data import FashionMNISTDataModule
from lightning_optreg.nets import SoftmaxRegression


class Scores(LightningModule):
    """Somebody else's module: the probability of class k of image i is a known number."""

    def predict_step(self, batch: Any, batch_idx: int) -> Any:
        (x,) = batch
        return torch.stack((x, 1 - x), dim=1)


NUMBERS = torch.arange(11) / 10


def predict(
    folder: Path,
    writer: PredictionWriter,
    module: LightningModule | None = None,
    data: Any = None,
    **options: Any,
) -> list[Tensor] | None:
    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        callbacks=[writer],
        enable_progress_bar=False,
        default_root_dir=folder,
        **options,
    )
    data = DataLoader(TensorDataset(NUMBERS), batch_size=4) if data is None else data
    return trainer.predict(module or Scores(), data)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_writes_anyones_predictions(tmp_path: Path) -> None:
    predict(tmp_path, PredictionWriter())
    assert [path.name for path in tmp_path.iterdir()] == ["predictions.csv"]
    assert (tmp_path / "predictions.csv").read_text().split()[:3] == [
        "index,prediction,p_0,p_1",
        "0,1,0.0,1.0",
        "1,1,0.1,0.9",
    ]
    assert [int(row["index"]) for row in rows(tmp_path / "predictions.csv")] == list(range(11))


@pytest.mark.parametrize("shape", [(-1,), (-1, 1)])
def test_writes_the_numbers_of_a_regression(shape: tuple[int, ...], tmp_path: Path) -> None:
    class Doubles(Scores):
        def predict_step(self, batch: Any, batch_idx: int) -> Any:
            return 2.0 * batch[0].view(shape)

    predict(tmp_path, PredictionWriter(), Doubles())
    table = rows(tmp_path / "predictions.csv")
    assert list(table[0]) == ["index", "prediction"]
    assert [float(row["prediction"]) for row in table] == pytest.approx((2.0 * NUMBERS).tolist())


def test_index_of_a_shuffled_dataloader(tmp_path: Path) -> None:
    order = [3, 7, 1, 10, 0, 2, 4, 6, 5, 9, 8]
    predict(
        tmp_path, PredictionWriter(), data=DataLoader(TensorDataset(NUMBERS), batch_size=4, sampler=order)
    )
    table = rows(tmp_path / "predictions.csv")
    assert [float(row["p_0"]) for row in table] == pytest.approx(NUMBERS.tolist())
    assert [int(row["index"]) for row in table] == list(range(11))


@pytest.mark.parametrize("name", ["a.csv", "deeper/a.parquet"])
def test_our_datamodules(name: str, fashion_mnist_dir: Path, tmp_path: Path) -> None:
    data = FashionMNISTDataModule(str(fashion_mnist_dir), batch_size=32, verify_checksum=False)
    returned = predict(tmp_path, PredictionWriter(name), ImageClassifier(SoftmaxRegression()), data)
    assert returned is not None
    expected = torch.cat(returned)
    if name.endswith(".csv"):
        table: list[dict[str, Any]] = rows(tmp_path / name)
    else:
        arrow = parquet.read_table(tmp_path / name)
        assert [str(kind) for kind in arrow.schema.types] == ["int64", "int64", "string", *["float"] * 10]
        table = arrow.to_pylist()
    assert list(table[0]) == ["index", "prediction", "class_name", *(f"p_{k}" for k in range(10))]
    written = torch.tensor([[float(row[f"p_{k}"]) for k in range(10)] for row in table])
    assert torch.equal(written, expected)  # to the last bit
    assert [int(row["index"]) for row in table] == list(range(100))
    assert [int(row["prediction"]) for row in table] == expected.argmax(1).tolist()
    names = {int(row["prediction"]): row["class_name"] for row in table}
    assert names == {k: data.class_names[k] for k in names}


class Pixels(LightningModule):
    """Takes two pixels for scores, so that all images differ."""

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        return batch[0].flatten(1)[:, 400:402]


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork.*:DeprecationWarning")
@pytest.mark.parametrize("ours", [True, False])
def test_two_processes_write_one_whole_table(ours: bool, fashion_mnist_dir: Path, tmp_path: Path) -> None:
    """11 images for 2 processes: a DistributedSampler gives one of them twice."""
    data: Any = None
    module: LightningModule = Scores()
    if ours:
        data = FashionMNISTDataModule(str(fashion_mnist_dir), batch_size=16, verify_checksum=False)
        module = Pixels()
    alone = PredictionWriter("alone.csv")
    predict(tmp_path, alone, module, data)
    trainer = Trainer(
        accelerator="cpu",
        devices=2,
        strategy="ddp_fork",
        logger=False,
        callbacks=[PredictionWriter("both.csv")],
        enable_progress_bar=False,
        default_root_dir=tmp_path,
    )
    loader = data or DataLoader(TensorDataset(NUMBERS), batch_size=4)
    trainer.predict(module, loader, return_predictions=False)
    assert (tmp_path / "both.csv").read_bytes() == (tmp_path / "alone.csv").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alone.csv", "both.csv"]


def test_a_second_prediction_replaces_the_file(tmp_path: Path) -> None:
    writer = PredictionWriter()
    predict(tmp_path, writer)
    first = (tmp_path / "predictions.csv").read_bytes()
    predict(tmp_path, writer)
    assert (tmp_path / "predictions.csv").read_bytes() == first


class Wrong(LightningModule):
    def __init__(self, result: Any) -> None:
        super().__init__()
        self.result = result

    def predict_step(self, batch: Any, batch_idx: int) -> Any:
        return self.result


@pytest.mark.parametrize(("result", "got"), [("text", "str"), (torch.zeros(4, 1, 2), r"\(4, 1, 2\)")])
def test_refuses_what_is_no_table_and_leaves_the_old_file(result: Any, got: str, tmp_path: Path) -> None:
    (tmp_path / "predictions.csv").write_text("old")
    with pytest.raises(
        MisconfigurationException,
        match=rf"must return class probabilities \(N, K\), or numbers .*, got {got}",
    ):
        predict(tmp_path, PredictionWriter(), Wrong(result))
    assert (tmp_path / "predictions.csv").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


def test_refuses_several_dataloaders(tmp_path: Path) -> None:
    class Two(Scores):
        def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
            return super().predict_step(batch, batch_idx)

    loader = DataLoader(TensorDataset(NUMBERS), batch_size=4)
    with pytest.raises(MisconfigurationException, match="must be one predict dataloader, got 2"):
        predict(tmp_path, PredictionWriter(), Two(), data=[loader, loader])


def test_warnings_are_as_before_afterwards(tmp_path: Path) -> None:
    before = list(warnings.filters)
    predict(tmp_path, PredictionWriter())
    with pytest.raises(MisconfigurationException):
        predict(tmp_path, PredictionWriter(), Wrong("text"))
    assert list(warnings.filters) == before


def test_refuses_an_unknown_ending() -> None:
    with pytest.raises(ValueError, match=r"PredictionWriter: path must .* \.csv or \.parquet, got 'a\.txt'"):
        PredictionWriter("a.txt")


def test_says_how_to_get_pyarrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "lightning-optreg\[parquet\]"'):
        PredictionWriter("a.parquet")
    PredictionWriter("a.csv")
