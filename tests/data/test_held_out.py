"""Data modules with a fold held out: what is trained on and tested, and which checkpoints are refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from PIL import Image

from lightning_optreg import ImageClassifier
from lightning_optreg.__main__ import main
from lightning_optreg.data import (
    CIFAR10DataModule,
    FashionMNISTDataModule,
    ImageFolderDataModule,
    compute_statistics,
)
from lightning_optreg.nets import SoftmaxRegression
from tests.cli.tools import short
from tests.data.expected_warnings import FEW_BATCHES, WORKERS
from tests.small_runs import quiet_trainer

pytestmark = [*WORKERS, FEW_BATCHES, pytest.mark.usefixtures("blank_curves")]

Make = Callable[..., FashionMNISTDataModule]


@pytest.fixture
def fashion(fashion_mnist_dir: Path, tmp_path: Path) -> Make:
    """Makes data modules of 600 training images of ten classes."""

    def make(**options: Any) -> FashionMNISTDataModule:
        options = {"batch_size": 64, "verify_checksum": False, "cache_dir": str(tmp_path), **options}
        return FashionMNISTDataModule(str(fashion_mnist_dir), **options)

    return make


def parts_of(data: FashionMNISTDataModule | ImageFolderDataModule) -> dict[str, set[int]]:
    data.setup()
    loaders = {
        "train": data.train_dataloader(),
        "val": data.val_dataloader(),
        "test": data.test_dataloader(),
        "predict": data.predict_dataloader(),
    }
    return {part: set(loader.indices.tolist()) if loader else set() for part, loader in loaders.items()}


def test_each_image_is_validated_in_one_fold_and_trained_on_in_the_others(fashion: Make) -> None:
    folds = [parts_of(fashion(fold=fold, folds=4)) for fold in range(4)]
    everything = set(range(600))
    assert all(each["train"] | each["val"] == everything for each in folds)
    assert not any(each["train"] & each["val"] for each in folds)
    assert sorted(image for each in folds for image in each["val"]) == list(range(600))
    assert all(each["test"] == set(range(100)) for each in folds)  # the dataset's own
    assert fashion(fold=0, folds=4).has_validation


def test_another_fold_seed_deals_anew_and_other_seeds_do_not(fashion: Make) -> None:
    def held(**options: Any) -> set[int]:
        return parts_of(fashion(fold=1, folds=5, **options))["val"]

    assert held() == held(seed=5, split_seed=7, batch_size=3) != held(fold_seed=1)


def test_a_fold_for_the_test_leaves_a_validation_split_of_the_rest(fashion: Make) -> None:
    tested = []
    for fold in range(3):
        data = fashion(fold=fold, folds=3, held_out="test", val_fraction=0.25)
        parts = parts_of(data)
        assert parts["test"] == parts["predict"] == parts_of(fashion(fold=fold, folds=3))["val"]
        assert len(parts["val"]) == 100
        assert sorted([*parts["train"], *parts["val"], *parts["test"]]) == list(range(600))
        tested += parts["test"]
    assert sorted(tested) == list(range(600))
    _, y = next(data.batches("test"))
    train = data.train_dataloader()
    place = data.test_dataloader().indices[: len(y)]
    assert torch.equal(y, train.labels[place])
    assert data.has_test
    assert len(parts_of(fashion(fold=0, folds=3, held_out="test"))["val"]) == 40  # a tenth


def test_testing_on_a_fold_opens_it_alone(fashion: Make) -> None:
    data = fashion(fold=2, folds=3, held_out="test")
    data.setup("test")
    assert len(data.test_dataloader().indices) == 200


def test_a_pool_holds_for_all_folds_and_repeats(fashion: Make) -> None:
    pools = []
    for fold, fold_seed in ((0, 0), (1, 0), (0, 1)):
        parts = parts_of(fashion(fold=fold, folds=5, fold_seed=fold_seed, pool_size=200))
        assert [len(parts["train"]), len(parts["val"])] == [160, 40]
        pools.append(parts["train"] | parts["val"])
    assert pools[0] == pools[1] == pools[2]
    smaller = parts_of(fashion(pool_size=100))
    assert [len(smaller["train"]), len(smaller["val"])] == [90, 10]
    assert smaller["train"] | smaller["val"] < pools[0]
    few = parts_of(fashion(pool_size=100, fold=0, folds=5, train_size=30))
    assert [len(few["train"]), len(few["val"])] == [30, 20]


def test_statistics_are_those_of_the_images_trained_on(fashion: Make) -> None:
    found = set()
    for fold in range(2):
        for held_out in ("validation", "test"):
            data = fashion(fold=fold, folds=2, held_out=held_out)
            data.setup("test")  # from the cache of that fold, if there is one
            again = fashion(fold=fold, folds=2, held_out=held_out)
            again.setup("fit")
            train = again.train_dataloader()
            expected = compute_statistics(train.images, train.indices)
            for each in (data, again):
                assert each.statistics is not None
                assert torch.equal(each.statistics.mean, expected.mean)
            found.add(expected.mean.item())
    assert len(found) == 4


def test_other_datasets_have_folds_too(cifar10_dir: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"verify_checksum": False, "cache_dir": str(tmp_path)}
    data = CIFAR10DataModule(str(cifar10_dir), fold=4, folds=5, **options)
    data.setup("fit")
    assert [len(data.train_dataloader().indices), len(data.val_dataloader().indices)] == [400, 100]


@pytest.mark.parametrize("form", ["npy", "csv"])
def test_images_of_one_group_are_never_on_both_sides(fashion: Make, tmp_path: Path, form: str) -> None:
    groups = np.random.default_rng(0).integers(1000, 1060, 600)
    path = tmp_path / f"groups.{form}"
    if form == "npy":
        np.save(path, groups)
    else:
        path.write_text("group\n" + "".join(f"patient {group}\n" for group in groups))

    def groups_in(images: set[int]) -> set[int]:
        return {int(groups[image]) for image in images}

    validated = []
    for fold in range(5):
        parts = parts_of(fashion(fold=fold, folds=5, groups=str(path)))
        assert not groups_in(parts["train"]) & groups_in(parts["val"])
        assert 80 <= len(parts["val"]) <= 160
        validated += parts["val"]
        parts = parts_of(fashion(fold=fold, folds=5, groups=str(path), held_out="test", val_fraction=0.2))
        sides = [groups_in(parts[part]) for part in ("train", "val", "test")]
        assert sum(map(len, sides)) == len(set().union(*sides))
        assert all(sides)
    assert sorted(validated) == list(range(600))
    parts = parts_of(fashion(groups=str(path), val_fraction=0.2))  # without a fold
    assert not groups_in(parts["train"]) & groups_in(parts["val"])
    assert 80 <= len(parts["val"]) <= 160


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """Two classes, six images of each, without folders for the splits."""
    for number, name in enumerate(("cat", "dog")):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for i in range(6):
            pixels = np.full((8, 8, 3), 10 * i + 100 * number, np.uint8)
            Image.fromarray(pixels).save(tmp_path / "pets" / name / f"{i}.png")
    return tmp_path / "pets"


def test_groups_of_files_are_found_by_their_names(pets: Path) -> None:
    lines = [f"{name}/{i}.png,{'a' if i < 3 else 'b'}" for i in (5, 3, 1, 0, 2, 4) for name in ("dog", "cat")]
    (pets / "groups.csv").write_text("\n".join(["file,group", *lines]))
    options: dict[str, Any] = {"image_size": 8, "test_fraction": 0.0, "groups": str(pets / "groups.csv")}
    data = ImageFolderDataModule(str(pets), fold=0, folds=2, **options)
    data.setup("fit")
    loader = data.val_dataloader()
    assert not isinstance(loader, list)
    assert loader.names is not None
    held = {loader.names[i] for i in loader.indices.tolist()}
    assert held in ({f"{n}/{i}.png" for n in ("cat", "dog") for i in r} for r in (range(3), range(3, 6)))
    (pets / "groups.csv").write_text("\n".join(["file,group", *lines[1:]]))
    with pytest.raises(ValueError, match=r"groups\.csv has no line for 'dog/5\.png'$"):
        ImageFolderDataModule(str(pets), fold=0, folds=2, **options).setup("fit")


def test_all_images_of_a_folder_are_tested_once(pets: Path) -> None:
    names = []
    for fold in range(3):
        data = ImageFolderDataModule(str(pets), image_size=8, fold=fold, folds=3, held_out="test")
        data.setup("test")
        loader = data.test_dataloader()
        assert loader.names is not None
        names += [loader.names[i] for i in loader.indices.tolist()]
    assert sorted(names) == [f"{name}/{i}.png" for name in ("cat", "dog") for i in range(6)]


def test_a_folder_for_validation_is_not_replaced(pets: Path) -> None:
    for part in ("train", "val"):
        (pets / part).mkdir()
    (pets / "cat").rename(pets / "train" / "cat")
    (pets / "dog").rename(pets / "train" / "dog")
    (pets / "val" / "cat").mkdir()
    (pets / "val" / "dog").mkdir()
    for name in ("cat", "dog"):
        (pets / "train" / name / "5.png").rename(pets / "val" / name / "5.png")
    with pytest.raises(ValueError, match="fold can't be the validation split, since the dataset has one"):
        ImageFolderDataModule(str(pets), image_size=8, fold=0, folds=3)
    parts = parts_of(ImageFolderDataModule(str(pets), image_size=8, fold=0, folds=5, held_out="test"))
    assert [len(parts[part]) for part in ("train", "val", "test")] == [8, 2, 2]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"fold": 1}, "fold needs folds, the number of parts, got fold=1 alone"),
        ({"folds": 5}, "folds needs fold, the part that is held out: 0 to 4, got folds=5 alone"),
        ({"fold": 0, "folds": 1}, "folds must be >= 2, got 1"),
        ({"fold": 5, "folds": 5}, r"fold must be in \[0, folds = 5\), got 5"),
        ({"fold": -1, "folds": 5}, r"fold must be in \[0, folds = 5\), got -1"),
        ({"fold": 0, "folds": 5, "val_fraction": 0.1}, r"val_fraction must be left out \(null\) with fold"),
        (
            {"fold": 0, "folds": 5, "held_out": "train"},
            "held_out must be 'validation' or 'test', got 'train'",
        ),
        ({"held_out": "test"}, "held_out=test needs fold and folds"),
        ({"stratified": False}, "stratified=False needs fold and folds"),
        ({"pool_size": 0}, "pool_size must be >= 1, got 0"),
        ({"groups": "g.txt"}, r"groups must be a \.csv or \.npy file, got 'g\.txt'"),
    ],
)
def test_wrong_settings(fashion: Make, options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=f"^FashionMNISTDataModule: {says}"):
        fashion(**options)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("group\na\n", "has 1 groups, expected 600, one per training image"),
        ("a\nb\n", "the first line of .* must be 'group' or 'file,group', got 'a'"),
        ("file,group\nx,y\n", "names files, but the images of this dataset have no names"),
        ("group\n" + "a\n" * 600, "folds must be <= 1, the number of groups, got 3"),
    ],
)
def test_wrong_groups(fashion: Make, tmp_path: Path, content: str, says: str) -> None:
    (tmp_path / "g.csv").write_text(content)
    with pytest.raises(ValueError, match=says):
        fashion(fold=0, folds=3, groups=str(tmp_path / "g.csv")).setup("fit")


def test_too_small_for_its_folds(fashion: Make, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="pool_size must be <= 600, the training images, got 601"):
        fashion(pool_size=601).setup("fit")
    with pytest.raises(ValueError, match=r"fold 0 of 2 leaves no image of class \d to train on"):
        fashion(fold=0, folds=2, pool_size=10).setup("fit")
    with pytest.raises(FileNotFoundError, match=r"groups must be a file, .* does not exist"):
        fashion(fold=0, folds=2, groups=str(tmp_path / "none.csv"))


# ---- checkpoints -------------------------------------------------------------------------------------------


def module() -> ImageClassifier:
    return ImageClassifier(SoftmaxRegression(10, (1, 28, 28)), num_classes=10)


@pytest.fixture
def checkpoint(fashion: Make, tmp_path: Path) -> Path:
    """Of a run that held out fold 1 of 3."""
    trainer = quiet_trainer(max_epochs=1, default_root_dir=tmp_path)
    trainer.fit(module(), fashion(fold=1, folds=3))
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    return tmp_path / "a.ckpt"


@pytest.mark.parametrize(
    ("stage", "options", "says"),
    [
        ("validate", {"fold": 2, "folds": 3}, "fold 1 of 3, and here it is fold 2 of 3: its network was"),
        ("fit", {"fold": 1, "folds": 4}, "fold 1 of 3, and here it is fold 1 of 4"),
        ("validate", {}, "fold 1 of 3, and here it is no fold"),
        (
            "validate",
            {"fold": 1, "folds": 3, "fold_seed": 4},
            r"here it is fold 1 of 3 \(fold_seed 0 there and 4 here\)",
        ),
        ("validate", {"fold": 1, "folds": 3, "held_out": "test"}, "held_out 'validation' there and 'test'"),
        ("test", {"fold": 0, "folds": 3, "held_out": "test"}, "here it is fold 0 of 3"),
        ("predict", {"fold": 0, "folds": 3, "held_out": "test"}, "here it is fold 0 of 3"),
    ],
)
def test_a_network_that_saw_the_held_out_images_is_refused(
    stage: str, options: dict[str, Any], says: str, fashion: Make, checkpoint: Path, tmp_path: Path
) -> None:
    trainer = quiet_trainer(max_epochs=2, default_root_dir=tmp_path)
    with pytest.raises(MisconfigurationException, match=f"^FashionMNISTDataModule: .* held out .*{says}"):
        getattr(trainer, stage)(module(), datamodule=fashion(**options), ckpt_path=checkpoint)


@pytest.mark.filterwarnings("ignore:.*other training images:UserWarning")
def test_other_images_may_be_tested(fashion: Make, checkpoint: Path, tmp_path: Path) -> None:
    def run(stage: str, **options: Any) -> Any:
        trainer = quiet_trainer(max_epochs=2, default_root_dir=tmp_path)
        return getattr(trainer, stage)(module(), datamodule=fashion(**options), ckpt_path=checkpoint)

    validated = run("validate", fold=1, folds=3)
    held = run("test", fold=1, folds=3, held_out="test")  # the same images, which it has not seen
    assert held[0]["test/accuracy"] == validated[0]["val/accuracy"]
    for options in ({}, {"fold": 2, "folds": 3}):  # the test set of the dataset
        run("test", **options)
    run("fit", fold=1, folds=3)


def test_a_fold_is_an_ordinary_fit(
    fashion_mnist_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = short(fashion_mnist_dir, tmp_path)
    assert main(["fit", *options, "--data.fold", "3", "--data.folds", "5"]) == 0
    assert main(["validate", *options, "--ckpt_path=last", "--data.fold=3", "--data.folds=5"]) == 0
    capsys.readouterr()
    assert main(["validate", *options, "--ckpt_path=last", "--data.fold=2", "--data.folds=5"]) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "held out fold 3 of 5, and here it is fold 2 of 5" in errors[0]
