"""What of a folder is a split, a class and an image, and what is said of the rest."""

import os
import unicodedata
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_optreg.data import ImageFolderDataModule
from lightning_optreg.data.image_folder import list_images, read_image


def make(root: Path, *names: str) -> Path:
    """Files without content: what is found is a matter of names."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def split(root: Path, *folders: str) -> Path:
    return make(
        root, *(f"{folder}/{name}/{k}.png" for folder in folders for name in ("ant", "bee") for k in range(2))
    )


def found(root: Path) -> dict[str, list[str]]:
    """The files of each part, without a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = ImageFolderDataModule(str(root), test_fraction=0.0)
    assert set(data.class_names) == {"ant", "bee"}
    files = data.locate(download=False).files
    return {part: [path.relative_to(root).as_posix() for path in paths] for part, paths in files.items()}


def below(*folders: str) -> list[list[str]]:
    return [[f"{folder}/{name}/{k}.png" for name in ("ant", "bee") for k in range(2)] for folder in folders]


# ---- splits ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [
        ("train", "valid", "test"),
        ("Train", "Validation", "Test"),
        ("TRAINING", "VAL", "TESTING"),
        ("training", "dev", "testing"),
        ("training_set", "eval", "test_set"),
        ("Training Set", "evaluation", "testset"),
    ],
)
def test_splits_are_found_in_all_spellings(train: str, val: str, test: str, tmp_path: Path) -> None:
    files = found(split(tmp_path, train, val, test))
    assert files == dict(zip(("train", "val", "test"), below(train, val, test), strict=True))


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (["train", "Train"], r"Train and train are two folders of one split \(train\)"),
        (["train", "val", "valid"], r"val and valid are two folders of one split \(val\)"),
        (["train", "validation", "dev"], r"dev and validation are two folders of one split \(val\)"),
        (["train", "val", "test", "testing"], r"test and testing are two folders of one split \(test\)"),
        (["val", "test"], "test and val without a folder train"),
        (["train", "val2017"], "val2017 looks like a split, but there is no folder val; rename it to val"),
        (["train", "val", "test_images"], "test_images looks like a split, but there is no folder test"),
        (["train2017", "val2017"], "train2017 and val2017 look like splits; name them train, val or test"),
        (["seg_train", "seg_test"], "seg_test and seg_train look like splits"),
        (["trainA", "testA"], "testA and trainA look like splits"),
    ],
)
def test_splits_that_are_not_clear_are_refused(folders: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        ImageFolderDataModule(str(split(tmp_path, *folders)))
    assert "\n" not in str(caught.value)


def test_a_test_folder_beside_classes_is_refused(tmp_path: Path) -> None:
    split(make(tmp_path, "ant/0.png", "bee/0.png"), "test")
    with pytest.raises(
        ValueError, match="test without a folder train; move the folders of classes into train"
    ):
        ImageFolderDataModule(str(tmp_path))


def test_splits_inside_of_classes_are_refused(tmp_path: Path) -> None:
    make(tmp_path, *(f"{name}/{part}/0.png" for name in ("ant", "bee") for part in ("Train", "test")))
    with pytest.raises(ValueError, match="ant: Train and test are splits inside a class, expected train/ant"):
        ImageFolderDataModule(str(tmp_path))


def test_images_without_classes_are_refused(tmp_path: Path) -> None:
    split(make(tmp_path, "test/0.png"), "train")
    with pytest.raises(ValueError, match=r"test: no subfolders, .* images must be in one folder per class"):
        ImageFolderDataModule(str(tmp_path))
    make(tmp_path / "kaggle", "train/ant.0.png", "test/1.png")
    with pytest.raises(ValueError, match=r"train: no subfolders, .* images must be in one folder per class"):
        ImageFolderDataModule(str(tmp_path / "kaggle"))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["extra/x.png"], "extra next to test and train, not used"),
        (["train_old/ant/x.png"], "train_old next to test and train, not used"),
        (["x.png"], "1 image outside the splits' folders, not used: x.png"),
        (
            ["train/x.png", "train/y.jpg"],
            "train: 2 images outside the classes' folders, not used: x.png and y.jpg",
        ),
        (["train/ant/x.gif", "train/bee/x.HEIC"], "train: 2 files with .gif and .heic, not used"),
        (["train/wasp/0.png"], "test: no images of the class wasp"),
    ],
)
def test_what_is_not_used_is_said(names: list[str], message: str, tmp_path: Path) -> None:
    make(split(tmp_path, "train", "test"), *names)
    with pytest.warns(UserWarning, match=message):
        ImageFolderDataModule(str(tmp_path))


def test_images_beside_classes_are_said(tmp_path: Path) -> None:
    with pytest.warns(
        UserWarning, match="4 images outside the classes' folders, not used: 0.png, 1.png, 2.png and 1 more"
    ):
        ImageFolderDataModule(str(make(tmp_path, "ant/0.png", "bee/0.png", *(f"{k}.png" for k in range(4)))))


def test_what_holds_no_images_needs_no_word(tmp_path: Path) -> None:
    make(split(tmp_path, "train", "test"), "readme.txt", "train.csv", "val_labels/x.csv", "notes/x.txt")
    assert list(found(tmp_path)) == ["train", "test"]


def test_classes_may_be_named_as_splits_are(tmp_path: Path) -> None:
    make(tmp_path, "valid/0.png", "invalid/0.png")
    with pytest.warns(
        UserWarning, match="valid has images and no folders of classes, and is taken for a class"
    ):
        assert ImageFolderDataModule(str(tmp_path)).class_names == ("invalid", "valid")
    make(tmp_path / "tools", "test tube/deep/0.png", "train station/0.png", "flask/0.png")
    assert len(ImageFolderDataModule(str(tmp_path / "tools")).class_names) == 3
    make(tmp_path / "deeper", *(f"train/{name}/0.png" for name in ("train", "test", "bus")))
    assert ImageFolderDataModule(str(tmp_path / "deeper")).class_names == ("bus", "test", "train")


# ---- hidden files, links -----------------------------------------------------------------------------------

LITTER = (
    ".DS_Store",
    "._0.png",
    ".hidden.png",
    "Thumbs.db",
    ".ipynb_checkpoints/0-checkpoint.png",
    "@eaDir/0.png/SYNOPHOTO_THUMB_M.jpg",
    "__MACOSX/._0.png",
    "__MACOSX/0.png",
    "$RECYCLE.BIN/0.png",
)


def test_hidden_files_and_folders_never_count(tmp_path: Path) -> None:
    places = ("", "train/", "train/ant/", "train/ant/deep/", "test/bee/")
    make(
        split(tmp_path, "train", "test"),
        "train/ant/deep/0.png",
        *(f"{p}{name}" for p in places for name in LITTER),
    )
    split(tmp_path / "__MACOSX", "val")
    split(tmp_path, ".valid")
    files = found(tmp_path)
    assert files["train"] == sorted([*below("train")[0], "train/ant/deep/0.png"])
    assert files["test"] == below("test")[0]
    (tmp_path / "flat" / "@eaDir").mkdir(parents=True)
    assert list(list_images(make(tmp_path / "flat", "a/0.png", "b/0.png", "__pycache__/0.png"))) == ["a", "b"]


def test_a_folder_is_no_image(tmp_path: Path) -> None:
    split(tmp_path, "train")
    make(tmp_path, "train/ant/z.png/notes.txt")
    assert found(tmp_path)["train"] == below("train")[0]


def test_links_are_followed_once_and_not_in_circles(tmp_path: Path) -> None:
    split(tmp_path, "train")
    make(tmp_path / "elsewhere", "more/2.png")
    root = tmp_path / "linked"
    root.mkdir()
    (root / "train").symlink_to(tmp_path / "train")
    (root / "circle").symlink_to(root)
    (tmp_path / "train" / "circle").symlink_to(tmp_path)
    ant = tmp_path / "train" / "ant"
    for name, target in (("circle", ant), ("up", ant.parent), ("x", tmp_path / "elsewhere" / "more")):
        (ant / name).symlink_to(target)
    (ant / "y").symlink_to(ant / "x")
    (ant / "self").symlink_to(ant / "self")
    assert found(root)["train"] == sorted([*below("train")[0], "train/ant/x/2.png"])


def test_a_link_to_nothing_is_named(tmp_path: Path) -> None:
    split(tmp_path, "train")
    (tmp_path / "train" / "ant" / "z.png").symlink_to("missing.png")
    with pytest.raises(ValueError, match=r"z\.png: a link to a file that does not exist"):
        ImageFolderDataModule(str(tmp_path))


# ---- classes -----------------------------------------------------------------------------------------------

NFC, NFD = (unicodedata.normalize(form, "Käfer") for form in ("NFC", "NFD"))


def test_one_class_in_two_spellings_of_unicode(tmp_path: Path) -> None:
    make(
        tmp_path,
        *(f"train/{name}/0.png" for name in (NFD, "Z", "Kz")),
        f"test/{NFC}/0.png",
        "test/Z/0.png",
        "test/Kz/0.png",
    )
    data = ImageFolderDataModule(str(tmp_path))
    assert data.class_names == ("Kz", NFC, "Z")  # where NFD has an a, which comes before z
    source = data.locate(download=False)
    assert [path.parent.name for path in source.files["test"]] == ["Kz", NFC, "Z"]


def test_two_folders_of_one_name_are_refused(tmp_path: Path) -> None:
    make(tmp_path, f"{NFC}/0.png", f"{NFD}/0.png")
    if len(os.listdir(tmp_path)) == 1:
        pytest.skip("this file system takes them for one")
    with pytest.raises(ValueError, match=f"two folders of the class '{NFC}', in two Unicode forms"):
        ImageFolderDataModule(str(tmp_path))


def test_capitals_tell_classes_apart(tmp_path: Path) -> None:
    make(tmp_path, "train/Ant/0.png", "train/bee/0.png", "test/ant/0.png", "test/bee/0.png")
    with pytest.raises(
        ValueError,
        match=r"test: classes without training images: \['ant'\] \(ant from Ant differs in capitals\)",
    ):
        ImageFolderDataModule(str(tmp_path))


def test_the_order_does_not_depend_on_the_file_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["a/0.png", "a/b/0.png", "a/b-c/0.png", "a/B/0.png", f"{NFC}/0.png", "Kz/0.png", "Ka/0.png"]
    make(tmp_path, *names)
    before = [str(path) for files in list_images(tmp_path).values() for path in files]
    scan = os.scandir

    class Backwards:
        def __init__(self, folder: Path) -> None:
            with scan(folder) as entries:
                self.entries = sorted(entries, key=lambda entry: entry.name, reverse=True)

        def __enter__(self) -> "Backwards":
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def __iter__(self):  # type: ignore[no-untyped-def]
            return iter(self.entries)

    monkeypatch.setattr(os, "scandir", Backwards)
    assert [str(path) for files in list_images(tmp_path).values() for path in files] == before
    assert [Path(path).relative_to(tmp_path).as_posix() for path in before] == [
        *("Ka/0.png", "Kz/0.png", f"{NFC}/0.png", "a/0.png", "a/B/0.png", "a/b/0.png", "a/b-c/0.png"),
    ]


def test_empty_classes(tmp_path: Path) -> None:
    split(tmp_path, "train", "val")
    make(tmp_path, "train/wasp/.DS_Store")
    with pytest.raises(ValueError, match=r"wasp: no images, expected files with \.jpg"):
        ImageFolderDataModule(str(tmp_path))
    make(tmp_path, "train/wasp/0.png", "val/wasp/notes.txt")
    with pytest.warns(UserWarning, match="val: no images of the class wasp"):
        ImageFolderDataModule(str(tmp_path))


def test_classes_one_folder_deeper(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"one class \(train\), expected >= 2; are the classes one folder deeper"
    ):
        ImageFolderDataModule(str(split(tmp_path, "train/train")))


# ---- pixels ------------------------------------------------------------------------------------------------


def corners(path: Path) -> list[list[int]]:
    return read_image(path, (16, 16), 1, "stretch")[0, 4::8, 4::8].tolist()


# What a viewer shows of the pixels 0 50 / 100 150, by the orientation in the EXIF data.
SEEN = {
    1: [[0, 50], [100, 150]],
    2: [[50, 0], [150, 100]],
    3: [[150, 100], [50, 0]],
    4: [[100, 150], [0, 50]],
    5: [[0, 100], [50, 150]],
    6: [[100, 0], [150, 50]],
    7: [[150, 50], [100, 0]],
    8: [[50, 150], [0, 100]],
}


@pytest.mark.parametrize("ending", ["png", "tif", "webp", "jpg"])
def test_images_are_turned_as_they_are_to_be_seen(ending: str, tmp_path: Path) -> None:
    picture = Image.fromarray(np.array([[0, 50], [100, 150]], dtype=np.uint8)).resize((16, 16), 0)
    for orientation, seen in SEEN.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        path = tmp_path / f"{orientation}.{ending}"
        options = {"webp": {"lossless": True}}.get(ending, {})
        picture.convert("RGB" if ending == "webp" else "L").save(path, exif=exif, **options)
        assert (torch.tensor(corners(path)) - torch.tensor(seen)).abs().max() <= 2  # JPEG rounds


def test_width_and_height_are_those_of_the_turned_image(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 20)).save(tmp_path / "x.jpg", exif=exif)
    assert read_image(tmp_path / "x.jpg", (10, 10), 3, "short_side").shape == (3, 20, 10)


def test_broken_exif_data_do_not_hinder(tmp_path: Path) -> None:
    Image.new("L", (2, 2), 9).save(tmp_path / "x.jpg", exif=b"Exif\0\0garbage")
    assert corners(tmp_path / "x.jpg") == [[9, 9], [9, 9]]


def test_images_of_other_modes(tmp_path: Path) -> None:
    def colour(name: str) -> list[int]:
        return read_image(tmp_path / name, (2, 2), 3, "crop")[:, 0, 0].tolist()

    Image.new("CMYK", (2, 2), (0, 255, 255, 0)).save(tmp_path / "cmyk.tif")
    assert colour("cmyk.tif") == [255, 0, 0]
    Image.new("RGBA", (2, 2), (200, 10, 0, 0)).save(tmp_path / "rgba.png")  # transparent: the colour below
    assert colour("rgba.png") == [200, 10, 0]
    palette = Image.new("P", (2, 2), 1)
    palette.putpalette([0, 0, 0, 30, 60, 90])
    palette.save(tmp_path / "p.png", transparency=bytes([255, 0]))
    assert colour("p.png") == [30, 60, 90]
    Image.new("1", (2, 2), 1).save(tmp_path / "1.png")
    assert colour("1.png") == [255, 255, 255]
    Image.new("LA", (2, 2), (7, 0)).save(tmp_path / "la.png")
    assert colour("la.png") == [7, 7, 7]


def test_too_many_pixels_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("L", (20, 20)).save(tmp_path / "x.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ValueError, match=r"x\.png: not a readable image \(Image size \(400 pixels\)"):
        read_image(tmp_path / "x.png", (4, 4), 1, "crop")


def test_a_cache_of_unturned_images_is_not_used(tmp_path: Path) -> None:
    """What was decoded before lies under another key."""
    options = ImageFolderDataModule(str(split(tmp_path, "train"))).locate(download=False).options
    assert options["reads"] >= 2
