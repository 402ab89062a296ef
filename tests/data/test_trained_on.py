"""A network is used with the classes and the normalisation that it was trained with."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from PIL import Image

from lightning_optreg import ImageClassifier
from lightning_optreg.__main__ import main
from lightning_optreg.data import ImageFolderDataModule
from lightning_optreg.data._trained_on import check_classes
from lightning_optreg.nets import SoftmaxRegression
from tests.cli.tools import SHORT
from tests.small_runs import quiet_trainer

pytestmark = pytest.mark.usefixtures("blank_curves")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of four images for training, two for validation and two for the test."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 4), ("val", 2), ("test", 2)):
        for name in ("ant", "bee"):
            place = tmp_path / "images" / part / name
            place.mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 200, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(place / f"{i}.png")
    return tmp_path / "images"


def data_of(folder: Path, **options: Any) -> ImageFolderDataModule:
    return ImageFolderDataModule(str(folder), **{"image_size": 8, "batch_size": 4, **options})


def trainer_of(folder: Path, epochs: int = 1) -> Trainer:
    return quiet_trainer(max_epochs=epochs, default_root_dir=folder)


def module() -> ImageClassifier:
    torch.manual_seed(1)
    return ImageClassifier(SoftmaxRegression(2, (3, 8, 8)), num_classes=2)


@pytest.fixture
def checkpoint(folder: Path, tmp_path: Path) -> Path:
    trainer = trainer_of(tmp_path)
    trainer.fit(module(), data_of(folder))
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    return tmp_path / "a.ckpt"


def darken(folder: Path) -> None:
    for path in (folder / "train").rglob("*.png"):
        Image.fromarray(np.asarray(Image.open(path)) // 3).save(path)


def rename(folder: Path) -> None:
    for part in ("train", "val", "test"):
        (folder / part / "ant").rename(folder / part / "cat")


@pytest.mark.parametrize("stage", ["fit", "validate", "test", "predict"])
def test_other_classes_are_refused(stage: str, folder: Path, checkpoint: Path, tmp_path: Path) -> None:
    rename(folder)
    says = (
        "^ImageFolderDataModule: the checkpoint's network was trained on the classes ant, bee, but the data "
        "have the classes bee, cat$"
    )
    with pytest.raises(MisconfigurationException, match=says):
        getattr(trainer_of(tmp_path, 2), stage)(module(), datamodule=data_of(folder), ckpt_path=checkpoint)


def test_the_command_line_says_it_in_a_line(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--data=ImageFolderDataModule", f"--data.data_dir={folder}", "--data.image_size=8", *SHORT[1:]]
    options += ["--model.net=SoftmaxRegression", f"--trainer.default_root_dir={tmp_path / 'runs'}"]
    assert main(["fit", *options]) == 0
    rename(folder)
    capsys.readouterr()
    for command in (["test"], ["fit", "--trainer.max_epochs=2"]):
        assert main([*command, *options, "--ckpt_path=last"]) == 2
        errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1
        assert "trained on the classes ant, bee" in errors[0]


def test_of_many_classes_those_that_differ_are_named() -> None:
    names = [f"c{k}" for k in range(100)]
    with pytest.raises(
        MisconfigurationException, match="100 classes, with c7 as class 7, c9 as class 9, but"
    ):
        check_classes(names, [*names[:7], "x", "c8", "y", *names[10:]], "Data")
    with pytest.raises(
        MisconfigurationException, match=r"with the same first ones, but the data have 101 classes"
    ):
        check_classes(names, [*names, "c100"], "Data")


@pytest.mark.parametrize("normalize", ["mean_std", "mean", "mean_image"])
def test_images_are_normalised_as_in_training(normalize: str, folder: Path, tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path)
    trainer.fit(module(), data_of(folder, normalize=normalize))
    trainer.save_checkpoint(tmp_path / "b.ckpt")
    before = predictions(data_of(folder, normalize=normalize), tmp_path / "b.ckpt", tmp_path)
    darken(folder)
    data = data_of(folder, normalize=normalize)
    with pytest.warns(UserWarning, match="^ImageFolderDataModule: .* other training images"):
        after = predictions(data, tmp_path / "b.ckpt", tmp_path)
    assert torch.equal(before, after)
    with warnings.catch_warnings():  # without a checkpoint the data's own count again
        warnings.simplefilter("error", UserWarning)
        trainer_of(tmp_path).fit(module(), data)
    assert str(data.preprocessing()) == str(fresh(folder, normalize))


def fresh(folder: Path, normalize: str) -> Any:
    data = data_of(folder, normalize=normalize)
    data.setup("fit")
    return data.preprocessing()


def predictions(data: ImageFolderDataModule, checkpoint: Path, folder: Path) -> torch.Tensor:
    found = trainer_of(folder).predict(module(), datamodule=data, ckpt_path=checkpoint)
    return torch.cat(found)  # type: ignore[arg-type]  # a list of tensors, of one loader


def test_a_resumed_fit_goes_on_with_them(folder: Path, checkpoint: Path, tmp_path: Path) -> None:
    darken(folder)
    data = data_of(folder)
    with pytest.warns(UserWarning, match="other training images"):
        trainer_of(tmp_path, 2).fit(module(), data, ckpt_path=checkpoint)
    saved = torch.load(checkpoint, weights_only=True)["ImageFolderDataModule"]["preprocessing"]
    assert data.preprocessing() == saved


def test_another_mode_is_the_users(folder: Path, checkpoint: Path, tmp_path: Path) -> None:
    trainer_of(tmp_path).test(module(), datamodule=data_of(folder, normalize="none"), ckpt_path=checkpoint)


def test_a_checkpoint_that_says_nothing_is_taken(folder: Path, checkpoint: Path, tmp_path: Path) -> None:
    content = torch.load(checkpoint, weights_only=True)
    content["ImageFolderDataModule"] = {"seed": content["ImageFolderDataModule"]["seed"]}
    torch.save(content, checkpoint)
    rename(folder)
    trainer_of(tmp_path).test(module(), datamodule=data_of(folder), ckpt_path=checkpoint, verbose=False)
