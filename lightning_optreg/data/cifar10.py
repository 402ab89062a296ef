"""CIFAR-10: 50,000 + 10,000 colour images of 32 x 32 pixels, 10 kinds of animals and vehicles.

Krizhevsky 2009, "Learning multiple layers of features from tiny images". The binary version has six files of
10,000 records: one byte for the label, then 1,024 bytes each of red, green and blue, row by row.
"""

import os
import tempfile
from pathlib import Path

import torch
from lightning.pytorch.utilities import rank_zero_info

from lightning_optreg.data._cache import default_cache_dir
from lightning_optreg.data.datamodule import ImageDataModule
from lightning_optreg.data.sources import ImageSet, Part, Source, check_labels, locate

__all__ = ["CIFAR10DataModule", "read_binary"]

_SYSTEM = Path("/usr/share/datasets/cifar-10")
_RECORD = 1 + 3 * 32 * 32  # bytes
_FILE_RECORDS = 10_000
_BINARY: dict[Part, list[str]] = {
    "train": [f"data_batch_{i}.bin" for i in range(1, 6)],
    "test": ["test_batch.bin"],
}
_PICKLED: dict[Part, list[str]] = {
    "train": [f"data_batch_{i}" for i in range(1, 6)],
    "test": ["test_batch"],
}


def read_binary(paths: list[Path], *, records: int | None = None) -> ImageSet:
    """Read files of CIFAR-10's binary version.

    Args:
        paths: The files, in order.
        records: Images that each file must have; None for any number.

    Raises:
        ValueError: If a file's size or one of its labels is wrong.
    """
    counts = []
    for path in paths:
        size = path.stat().st_size
        if records is not None and size != records * _RECORD:
            raise ValueError(f"{path}: {size} bytes, expected {records * _RECORD} ({records} images)")
        if size == 0 or size % _RECORD != 0:
            raise ValueError(f"{path}: {size} bytes, expected a multiple of {_RECORD} (one image)")
        counts.append(size // _RECORD)
    images = torch.empty(sum(counts), 3, 32, 32, dtype=torch.uint8)
    labels = torch.empty(sum(counts), dtype=torch.int64)
    start = 0
    for path, count in zip(paths, counts, strict=True):
        rows = torch.from_file(str(path), size=count * _RECORD, dtype=torch.uint8).view(count, _RECORD)
        check_labels(rows[:, 0].long(), 10, path)
        labels[start : start + count] = rows[:, 0]
        images[start : start + count].flatten(1).copy_(rows[:, 1:])
        start += count
    return ImageSet(images, labels)


class CIFAR10DataModule(ImageDataModule):
    """CIFAR-10 in memory, in whole batches.

    It is searched for in `data_dir`: the official binary version (`cifar-10-batches-bin/` or that folder
    itself) or the Python version (`cifar-10-batches-py/` or that folder itself); then in
    /usr/share/datasets/cifar-10. If it is in neither, torchvision downloads the Python version into
    `data_dir` or, if none is given, the cache.

    The md5 sums of the Python version are always verified, file by file, before anything is unpickled. For
    the files of the binary version no sums are published (only for their archive): each file must have
    10,000 images, and each class 5,000 and 1,000 images. With `verify_checksum=False` any number of images
    will do. Labels are always checked.

    Reference: Krizhevsky 2009, "Learning multiple layers of features from tiny images".

    For the arguments see `ImageDataModule`.

    Example:
        >>> data = CIFAR10DataModule(val_fraction=0.1)
        >>> data.num_classes, data.input_shape, data.class_names[3]
        (10, (3, 32, 32), 'cat')
    """

    class_names = (
        "airplane",
        "automobile",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    )
    image_shape = (3, 32, 32)

    def locate(self, *, download: bool) -> Source:
        """Find the binary or the Python version; the class says where."""
        target = self.data_dir or default_cache_dir()
        places = []
        if self.data_dir is not None:
            places += _with_subfolders("data_dir", self.data_dir)
        if self.data_dir is None or self.verify_checksum:
            places += _with_subfolders("system's folder", _SYSTEM)
        if self.data_dir is None:
            places += [("downloaded earlier", target / "cifar-10-batches-py")]
        return locate(
            "CIFAR-10",
            places,
            self._look,
            (lambda: _download(target)) if download else None,
            "Download it with network access, or unpack cifar-10-binary.tar.gz from "
            "https://www.cs.toronto.edu/~kriz/cifar.html and pass its folder as data_dir.",
        )

    def _look(self, folder: Path) -> Source | str:
        if not folder.is_dir():
            return "no such folder"
        binary = {part: [folder / name for name in names] for part, names in _BINARY.items()}
        if all(path.is_file() for paths in binary.values() for path in paths):

            def read(part: Part) -> ImageSet:
                images = read_binary(binary[part], records=_FILE_RECORDS if self.verify_checksum else None)
                if self.verify_checksum:
                    _check_balance(images, folder, part)
                return images

            return Source("cifar10", binary, read, {"verified": self.verify_checksum})
        pickled = {part: [folder / name for name in names] for part, names in _PICKLED.items()}
        if folder.name == "cifar-10-batches-py" and all(p.is_file() for ps in pickled.values() for p in ps):
            return Source("cifar10", pickled, lambda part: _read_pickled(folder, part), {"verified": True})
        missing = [p.name for ps in binary.values() for p in ps if not p.is_file()]
        return f"no {', '.join(missing)}"


def _with_subfolders(kind: str, folder: Path) -> list[tuple[str, Path]]:
    return [(kind, folder / name) for name in ("cifar-10-batches-bin", "cifar-10-batches-py", ".")]


def _check_balance(images: ImageSet, folder: Path, part: Part) -> None:
    counts = images.labels.bincount(minlength=10)
    if (counts != counts.sum() // 10).any():
        raise ValueError(
            f"{folder}: the classes have {counts.tolist()} images in the {part} files, expected equal "
            "numbers; this is not CIFAR-10 (verify_checksum=False reads other data of the same format)"
        )


def _read_pickled(folder: Path, part: Part) -> ImageSet:
    from torchvision.datasets import CIFAR10  # takes seconds to import

    try:
        data = CIFAR10(str(folder.parent), train=part == "train")  # unpickles only what has the right md5
    except RuntimeError as error:
        raise ValueError(
            f"{folder}: the md5 sums are not those of CIFAR-10's Python version, so nothing is unpickled; "
            "download it again, or use the binary version"
        ) from error
    images = torch.from_numpy(data.data).permute(0, 3, 1, 2).contiguous()  # (N, H, W, C) -> (N, C, H, W)
    return ImageSet(images, torch.tensor(data.targets))


def _download(folder: Path) -> Path:
    from torchvision.datasets import CIFAR10

    rank_zero_info(f"Downloading CIFAR-10 (170 MB) into {folder}")
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / "cifar-10-batches-py"
    # To a temporary folder first, so that nothing half-written is ever left in its place.
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        CIFAR10(temporary, download=True)  # compares the published md5 sums
        target.mkdir(exist_ok=True)
        for path in (Path(temporary) / target.name).iterdir():
            os.replace(path, target / path.name)
    return target
