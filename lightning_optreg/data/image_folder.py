"""Your own images, in one folder per class."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from lightning_optreg._checks import check_range
from lightning_optreg.data._decoding import decode
from lightning_optreg.data._division import HeldOut
from lightning_optreg.data._folders import find_images, list_images
from lightning_optreg.data._image_files import READS, read_image
from lightning_optreg.data._order import Shuffle
from lightning_optreg.data._split import stratified_split
from lightning_optreg.data._stream import PixelStream, StreamedSource
from lightning_optreg.data.datamodule import ImageDataModule
from lightning_optreg.data.sources import Part, Source
from lightning_optreg.data.transforms import BatchTransform, Centring

__all__ = ["ImageFolderDataModule", "list_images", "read_image"]


class ImageFolderDataModule(ImageDataModule):
    """Your own images, in a folder with one subfolder per class.

    Either `root/train/<class>/*.png`, optionally with `root/test/<class>/...` and `root/val/<class>/...`; or,
    without folders for the splits, `root/<class>/*.png`. The latter are split by class with `split_seed`:
    first `test_fraction` of all images into the test set, then `val_fraction` of the rest into the validation
    split. A folder `val` is the validation split, whatever `val_fraction` is, and next to `train` only a
    folder `test` is a test set.

    The splits' folders may be named `train` or `training`; `val`, `valid`, `validation`, `eval`,
    `evaluation`, `dev` or `development`; `test` or `testing`; with or without `set`, in upper or lower case.
    Two folders for one split are refused, and so is a folder that looks like a missing split (`test2017`). A
    warning lists what was found and is not used.

    Classes are numbered in the order of their names' code points, in Unicode's NFC form, which is the same on
    every file system; names that differ in case are two classes. Images may be in subfolders of a class.
    Hidden files and folders and system files (`.ipynb_checkpoints`, `__MACOSX`, `@eaDir`) are ignored.

    The EXIF orientation is applied. Images are decoded once, all to one size, into a file in the cache with 8
    bits per value, which is mapped into memory: it may be larger than that. One line says before how large it
    will be.

    For the other arguments see `ImageDataModule`.

    Args:
        data_dir: The root folder.
        image_size: Height and width in pixels, one number for both; each at least 1.
        channels: 1 for grey, 3 for colour.
        resize: "crop" scales until the size is covered and cuts out the middle; "stretch" scales height and
            width separately; "short_side" is "crop", but images of the test set and of a folder `val` are
            kept whole, for views: with one number L as image_size their shorter side has L pixels, as in
            ResNet's protocol, and `TestTimeAugmentation` takes its views from the whole image. Without it
            evaluation is the same as with "crop".
        test_fraction: Share of the test set, in [0, 1), if there are no folders for the splits. None: 0.1, or
            nothing if a fold is the test set.
        decode_workers: Processes that decode images into the cache, at least 0; 0: the one that runs. None:
            one for each core, but no more than one for 500 images. The file is the same for any number.

    Raises:
        FileNotFoundError: If data_dir does not exist.
        NotADirectoryError: If data_dir or cache_dir is a file.
        TypeError: If augment contains anything but a `BatchTransform`.
        ValueError: If a value is out of its range, there are fewer than 2 classes, a class has no training
            images, `val` or `test` has a class that `train` lacks, or it is not clear what the splits are.

    Warns:
        UserWarning: If images or folders were found that are not used.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> root = Path(tempfile.mkdtemp())
        >>> for name in ("cat", "dog"):
        ...     (root / name).mkdir()
        ...     for i in range(4):
        ...         Image.new("RGB", (40, 30)).save(root / name / f"{i}.png")
        >>> data = ImageFolderDataModule(str(root), image_size=16, val_fraction=0.0, test_fraction=0.5)
        >>> data.class_names, data.input_shape
        (('cat', 'dog'), (3, 16, 16))
    """

    def __init__(
        self,
        data_dir: str,
        image_size: int | tuple[int, int] = 64,
        *,
        channels: Literal[1, 3] = 3,
        resize: Literal["crop", "stretch", "short_side"] = "crop",
        test_fraction: float | None = None,
        batch_size: int | Literal["full"] = 128,
        val_fraction: float | None = None,
        train_size: int | None = None,
        augment: list[BatchTransform] | None = None,
        normalize: Centring = "mean_std",
        seed: int | None = None,
        split_seed: int = 0,
        num_workers: int = 0,
        pin_memory: bool | None = None,
        drop_last: bool = False,
        shuffle: Shuffle = "every_epoch",
        cache_dir: str | None = None,
        fold: int | None = None,
        folds: int | None = None,
        fold_seed: int = 0,
        held_out: HeldOut = "validation",
        stratified: bool = True,
        groups: str | None = None,
        pool_size: int | None = None,
        device: str = "auto",
        decode_workers: int | None = None,
    ) -> None:
        size = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
        if not (len(size) == 2 and min(size) >= 1):
            raise ValueError(f"ImageFolderDataModule: image_size must be >= 1, got {image_size}")
        if channels not in (1, 3):
            raise ValueError(f"ImageFolderDataModule: channels must be 1 or 3, got {channels}")
        if resize not in ("crop", "stretch", "short_side"):
            raise ValueError(
                f"ImageFolderDataModule: resize must be crop, stretch or short_side, got {resize!r}"
            )
        if resize == "short_side" and normalize == "mean_image":
            raise ValueError(
                "ImageFolderDataModule: resize must be crop or stretch with normalize=mean_image, got "
                f"{resize!r}"
            )
        tests_on_fold = fold is not None and held_out == "test"
        if test_fraction is None:
            test_fraction = 0.0 if tests_on_fold else 0.1
        elif tests_on_fold and test_fraction != 0.0:
            raise ValueError(
                "ImageFolderDataModule: test_fraction must be left out (null) with held_out=test, since the "
                f"fold is the test set, got {test_fraction}"
            )
        check_range("ImageFolderDataModule", "[0, 1)", test_fraction=test_fraction)
        if decode_workers is not None:
            check_range("ImageFolderDataModule", ">= 0", decode_workers=decode_workers)
        self.channels, self.resize, self.decode_workers = channels, resize, decode_workers
        self.test_fraction = test_fraction
        self.image_shape = (channels, *size)
        super().__init__(
            data_dir,
            batch_size=batch_size,
            val_fraction=val_fraction,
            train_size=train_size,
            augment=augment,
            normalize=normalize,
            seed=seed,
            split_seed=split_seed,
            num_workers=num_workers,
            pin_memory=pin_memory,
            drop_last=drop_last,
            shuffle=shuffle,
            cache_dir=cache_dir,
            fold=fold,
            folds=folds,
            fold_seed=fold_seed,
            held_out=held_out,
            stratified=stratified,
            groups=groups,
            pool_size=pool_size,
            device=device,
        )
        root = Path(data_dir).expanduser()
        found = find_images(root)
        self._source: Source | None = None
        self._divided, self._files = found.divided, found.files
        self._division.check_parts(self._files)
        self.class_names = tuple(self._files["train"])
        if not len(self.class_names) >= 2:
            raise ValueError(
                f"{root}: one class ({self.class_names[0]}), expected >= 2; "
                "are the classes one folder deeper?"
            )
        for note in found.notes:
            rank_zero_warn(f"ImageFolderDataModule: {note}")

    @property
    def has_validation(self) -> bool:
        """Whether there is a folder `val`, or some images are kept for validation."""
        return "val" in self._files or super().has_validation

    def locate(self, *, download: bool) -> Source:
        """Return the files found at construction."""
        if self._source is None:
            self._source = self._divided_source()
        return self._source

    def _divided_source(self) -> Source:
        listed = {part: self._labelled(files) for part, files in self._files.items()}
        if not self._divided and self.test_fraction > 0.0:
            paths, labels = listed["train"]
            train, test = stratified_split(labels, self.test_fraction, self.split_seed)
            listed["train"] = [paths[i] for i in train.tolist()], labels[train]
            listed["test"] = [paths[i] for i in test.tolist()], labels[test]
        root = Path(self.data_dir or ".")

        def stream(part: Part) -> PixelStream:
            paths, labels = listed[part]
            packed = self.resize == "short_side" and part != "train"
            resize = self.resize if packed or self.resize == "stretch" else "crop"
            size = self.image_shape[1:]
            return PixelStream(
                partial(decode, paths, size, self.channels, resize, self.decode_workers),
                labels,
                self.image_shape,
                packed,
            )

        return StreamedSource(
            "image-folder",
            {part: paths for part, (paths, _) in listed.items()},
            lambda part: stream(part).in_memory(),
            {"classes": self.class_names, "shape": self.image_shape, "resize": self.resize, "reads": READS},
            {
                part: [path.relative_to(root).as_posix() for path in paths]
                for part, (paths, _) in listed.items()
            },
            stream=stream,
        )

    def _labelled(self, files: Mapping[str, Sequence[Path]]) -> tuple[list[Path], Tensor]:
        paths = [path for found in files.values() for path in found]
        number = {name: k for k, name in enumerate(self.class_names)}
        labels = [number[name] for name, found in files.items() for _ in found]
        return paths, torch.tensor(labels)

    @property
    def crops(self) -> bool:
        """Whether an image has more than evaluation shows."""
        return self.resize == "short_side" or super().crops
