import csv
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule
from PIL import Image
from pyarrow import parquet
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from lightning_optreg.callbacks import PredictionWriter, TestTimeAugmentation
from lightning_optreg.classifier import ImageClassifier
from lightning_optreg.data import FashionMNISTDataModule, Flips, ImageFolderDataModule
from lightning_optreg.nets import SoftmaxRegression
from tests.small_runs import quiet_trainer


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
    trainer = quiet_trainer(callbacks=[writer], default_root_dir=folder, **options)
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
        kinds = ["int64", "int64", "string", "int64", "string", *["float"] * 10]
        assert [str(kind) for kind in arrow.schema.types] == kinds
        table = arrow.to_pylist()
    named = ["index", "label", "label_name", "prediction", "class_name"]
    assert list(table[0]) == [*named, *(f"p_{k}" for k in range(10))]
    data.setup("test")
    labels = torch.cat([batch.labels for batch in data.test_dataloader()]).tolist()
    assert [int(row["label"]) for row in table] == labels
    assert [row["label_name"] for row in table] == [data.class_names[k] for k in labels]
    written = torch.tensor([[float(row[f"p_{k}"]) for k in range(10)] for row in table])
    assert torch.equal(written, expected)  # to the last bit
    assert [int(row["index"]) for row in table] == list(range(100))
    assert [int(row["prediction"]) for row in table] == expected.argmax(1).tolist()
    names = {int(row["prediction"]): row["class_name"] for row in table}
    assert names == {k: data.class_names[k] for k in names}


# ---- true labels and files ---------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images of one grey value, another one in each file; the last digit says nothing of the class."""
    values = iter(range(10, 250, 5))
    for part, count in (("train", 4), ("valid", 1), ("test", 3)):
        for name in ("ant", "käfer", "bee"):
            for k in range(count):
                path = tmp_path / "images" / part / name / f"{k}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("L", (8, 8), next(values)).save(path)
    return tmp_path / "images"


class Grey(LightningModule):
    """The mean pixel as the score of one of three classes, so that each row tells which image it is of."""

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        grey = batch[0].mean((1, 2, 3))
        return torch.stack((grey, -grey, 0 * grey), dim=1)


def grey_of(root: Path, row: dict[str, Any]) -> None:
    """Check that a row is of the file that it names."""
    assert row["file"].split("/")[0] == "test"
    with Image.open(root / row["file"]) as image:
        assert 255 * float(row["p_0"]) == pytest.approx(image.getpixel((0, 0)), abs=1e-3)
    assert row["label_name"] == row["file"].split("/")[1] == ("ant", "bee", "käfer")[int(row["label"])]
    assert row["class_name"] == ("ant", "bee", "käfer")[int(row["prediction"])]


@pytest.mark.parametrize(
    ("name", "options"), [("a.csv", {}), ("a.parquet", {}), ("a.csv", {"limit_predict_batches": 2})]
)
def test_images_of_a_folder_are_named(name: str, options: Any, folder: Path, tmp_path: Path) -> None:
    data = ImageFolderDataModule(str(folder), 8, channels=1, batch_size=2, normalize="none")
    predict(tmp_path, PredictionWriter(name), Grey(), data, **options)
    table = rows(tmp_path / name) if name == "a.csv" else parquet.read_table(tmp_path / name).to_pylist()
    assert list(table[0])[:6] == ["index", "file", "label", "label_name", "prediction", "class_name"]
    assert [int(row["index"]) for row in table] == list(range(4 if options else 9))
    for row in table:
        grey_of(folder, row)


def test_images_of_a_folder_without_splits_are_named(folder: Path, tmp_path: Path) -> None:
    root = folder / "train"
    data = ImageFolderDataModule(
        str(root), 8, channels=1, test_fraction=0.5, val_fraction=0.0, normalize="none"
    )
    predict(tmp_path, PredictionWriter(), Grey(), data)
    table = rows(tmp_path / "predictions.csv")
    assert len({row["file"] for row in table}) == len(table) == 6
    for row in table:
        with Image.open(root / row["file"]) as image:
            assert 255 * float(row["p_0"]) == pytest.approx(image.getpixel((0, 0)), abs=1e-3)
        assert row["label_name"] == row["file"].split("/")[0]


def test_another_part_has_its_own_names(folder: Path, tmp_path: Path) -> None:
    class Validation(ImageFolderDataModule):
        def setup(self, stage: str | None = None) -> None:
            super().setup()

        def predict_dataloader(self) -> Any:
            return self.val_dataloader()

    predict(tmp_path, PredictionWriter(), Grey(), Validation(str(folder), 8, channels=1))
    files = [row["file"] for row in rows(tmp_path / "predictions.csv")]
    assert files == ["valid/ant/0.png", "valid/bee/0.png", "valid/käfer/0.png"]
    split_off = Validation(
        str(folder / "train"), 8, channels=1, test_fraction=0.0, val_fraction=0.25, normalize="none"
    )
    predict(tmp_path, PredictionWriter(), Grey(), split_off)
    for row in rows(tmp_path / "predictions.csv"):
        with Image.open(folder / "train" / row["file"]) as image:
            assert 255 * float(row["p_0"]) == pytest.approx(image.getpixel((0, 0)), abs=1e-3)


def test_views_and_labels_go_together(folder: Path, tmp_path: Path) -> None:
    data = ImageFolderDataModule(str(folder), 8, channels=1, batch_size=4)
    module = ImageClassifier(SoftmaxRegression(num_classes=3, input_shape=(1, 8, 8)), num_classes=3)
    trainer = quiet_trainer(
        callbacks=[PredictionWriter(), TestTimeAugmentation(Flips())], default_root_dir=tmp_path
    )
    trainer.predict(module, data)
    table = rows(tmp_path / "predictions.csv")
    assert [row["label_name"] for row in table] == ["ant"] * 3 + ["bee"] * 3 + ["käfer"] * 3
    assert [row["file"] for row in table][:2] == ["test/ant/0.png", "test/ant/1.png"]


def table_of(tmp_path: Path, data: Any, module: LightningModule | None = None) -> list[dict[str, str]]:
    predict(tmp_path, PredictionWriter(), module or Pair(), data)
    return rows(tmp_path / "predictions.csv")


class Pair(LightningModule):
    """Scores of a batch (x, ...)."""

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        return torch.stack((batch[0], 1 - batch[0]), dim=1)


LABELS = torch.tensor([0, 1, 1, 0, 1, 0, 0, 1, 1, 0, 1])


@pytest.mark.filterwarnings("ignore:.*sampler has shuffling enabled")
def test_labels_of_anyones_dataloader(tmp_path: Path) -> None:
    """Shuffled or not, the rows are in the order of the dataset."""
    for shuffle in (False, True):
        loader = DataLoader(TensorDataset(NUMBERS, LABELS), batch_size=4, shuffle=shuffle)
        table = table_of(tmp_path, loader)
        assert list(table[0]) == ["index", "label", "prediction", "p_0", "p_1"]
        assert [int(row["label"]) for row in table] == LABELS.tolist()
        assert [float(row["p_0"]) for row in table] == pytest.approx(NUMBERS.tolist())


@pytest.mark.parametrize(
    "second", [None, LABELS - 1, LABELS + 1, LABELS.float(), torch.zeros(11, 2), torch.zeros(11, 3).long()]
)
def test_what_is_no_label_is_left_out_and_said(
    second: Tensor | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    data = TensorDataset(NUMBERS) if second is None else TensorDataset(NUMBERS, second)
    table = table_of(tmp_path, DataLoader(data, batch_size=4))
    assert list(table[0]) == ["index", "prediction", "p_0", "p_1"]
    assert "without true labels: the batches have none" in caplog.text


def test_a_third_part_that_is_no_position(tmp_path: Path) -> None:
    """Such as the group an image belongs to: no row may be lost to it."""
    table = table_of(tmp_path, DataLoader(TensorDataset(NUMBERS, LABELS, LABELS), batch_size=4))
    assert [int(row["index"]) for row in table] == list(range(11))

    class Stream(IterableDataset[Any]):
        def __iter__(self) -> Any:
            return iter(zip(NUMBERS, LABELS, LABELS, strict=True))

    table = table_of(tmp_path, DataLoader(Stream(), batch_size=4))
    assert [float(row["p_0"]) for row in table] == pytest.approx(NUMBERS.tolist())


def test_the_true_numbers_of_a_regression(tmp_path: Path) -> None:
    class Doubles(LightningModule):
        def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
            return 2.0 * batch[0][:, None]

    table = table_of(
        tmp_path, DataLoader(TensorDataset(NUMBERS, NUMBERS[:, None] / 2), batch_size=4), Doubles()
    )
    assert list(table[0]) == ["index", "label", "prediction"]
    assert [float(row["label"]) for row in table] == pytest.approx((NUMBERS / 2).tolist())


def test_predicted_classes_are_whole_numbers(folder: Path, tmp_path: Path) -> None:
    class Decided(Grey):
        def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
            return super().predict_step(batch, batch_idx).argmax(1)

    data = ImageFolderDataModule(str(folder), 8, channels=1, normalize="none")
    table = table_of(tmp_path, data, Decided())
    assert list(table[0]) == ["index", "file", "label", "label_name", "prediction", "class_name"]
    assert {(row["prediction"], row["class_name"]) for row in table} == {("0", "ant")}


@pytest.mark.parametrize("ours", [True, False])
def test_one_row_an_image(ours: bool, folder: Path, tmp_path: Path) -> None:
    class Fewer(LightningModule):
        def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
            return torch.zeros(len(batch[0]) - 1, 2)

    data: Any = ImageFolderDataModule(str(folder), 8, channels=1, batch_size=4)
    with pytest.raises(MisconfigurationException, match="must return one row per image, got 3 for 4 images"):
        table_of(tmp_path, data if ours else DataLoader(TensorDataset(NUMBERS), batch_size=4), Fewer())


def test_as_many_numbers_in_all_batches(tmp_path: Path) -> None:
    class Growing(LightningModule):
        def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
            return torch.zeros(len(batch[0]), 2 + batch_idx)

    with pytest.raises(MisconfigurationException, match=r"equally many numbers per image .*, got 2 and 3"):
        table_of(tmp_path, DataLoader(TensorDataset(NUMBERS), batch_size=4), Growing())


# ---- several processes -------------------------------------------------------------------------------------


class Pixels(LightningModule):
    """Takes two pixels for scores, so that all images differ."""

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        return batch[0].flatten(1)[:, 400:402]


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
    trainer = quiet_trainer(
        devices=2, strategy="ddp_fork", callbacks=[PredictionWriter("both.csv")], default_root_dir=tmp_path
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
