"""Fashion-MNIST: 60,000 + 10,000 grey images of 28 x 28 pixels, 10 kinds of clothing.

Xiao, Rasul and Vollgraf 2017, "Fashion-MNIST: a novel image dataset for benchmarking machine learning
algorithms" (arXiv:1708.07747). The files are in MNIST's idx format: two zero bytes, a type, the number of
dimensions, each dimension as a big-endian 32-bit number, then the values (yann.lecun.com/exdb/mnist).
"""

import gzip
import math
import os
import struct
import tempfile
import zlib
from pathlib import Path

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from lightning_optreg.data._cache import default_cache_dir
from lightning_optreg.data.datamodule import ImageDataModule
from lightning_optreg.data.sources import ImageSet, Part, Source, check_labels, check_md5, locate

__all__ = ["FashionMNISTDataModule", "read_idx"]

_SYSTEM = Path("/usr/share/datasets/fashion-mnist")  # of Debian's package dataset-fashion-mnist

# md5 of the decompressed content. The published sums are those of the .gz files. Debian's package has the
# same # compressed streams with another gzip header; with the published header they have the published sums.
_MD5 = {
    "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
    "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
    "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
    "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
}
_EXPANSION = 100  # MNIST's files expand to 5 times their size, and gzip's limit is 1,032
_PREFIX: dict[Part, str] = {"train": "train", "test": "t10k"}


def read_idx(path: Path, dimensions: int, md5: str | None = None) -> Tensor:
    """Read an idx file of 8-bit values, gzipped if its name ends in .gz.

    Args:
        path: The file.
        dimensions: Required number of dimensions: 3 for images, 1 for labels.
        md5: Required md5 sum of the decompressed content; None for any.

    Returns:
        uint8, of the shape given in the file.

    Raises:
        ValueError: If the file is damaged or in another format.
    """
    content = _unzipped(path) if path.suffix == ".gz" else path.read_bytes()
    header = 4 + 4 * dimensions
    magic = bytes([0, 0, 8, dimensions])
    if content[:4] != magic:
        raise ValueError(
            f"{path}: first bytes are {content[:4].hex(' ') or 'missing'}, expected {magic.hex(' ')} "
            f"(idx, 8-bit values, dimensions: {dimensions})"
        )
    if len(content) < header:
        raise ValueError(f"{path}: {len(content)} bytes, expected a header of {header}")
    shape = struct.unpack(f">{dimensions}I", content[4:header])
    size = header + math.prod(shape)
    if len(content) != size:
        named = " x ".join(map(str, shape))
        raise ValueError(f"{path}: {len(content)} bytes, expected {size} for {named} values")
    if md5 is not None:
        check_md5(content, md5, path)
    # A bytearray, because torch needs writable memory.
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)[header:].view(shape)


def _unzipped(path: Path) -> bytes:
    """Return what a gzip file holds, unless that is so much that it was made to fill the memory."""
    most = _EXPANSION * path.stat().st_size + (1 << 20)
    try:
        with gzip.open(path) as file:
            content = file.read(most)
            if file.read(1):
                raise ValueError(f"{path}: it expands to more than {most} bytes: not a data set's file")
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path}: not a whole gzip file ({error})") from error
    return content


class FashionMNISTDataModule(ImageDataModule):
    """Fashion-MNIST in memory, in whole batches.

    The files are searched for in `data_dir` (itself or its `FashionMNIST/raw`, plain or gzipped), then in
    /usr/share/datasets/fashion-mnist (Debian's package dataset-fashion-mnist). If they are in neither,
    torchvision downloads them into `data_dir` or, if none is given, the cache. Their sizes, labels and md5
    sums are checked. With `verify_checksum=False` other data of the same format are accepted, such as
    MNIST's, and only from `data_dir` if that is given; sizes and labels are still checked.

    Reference: Xiao, Rasul and Vollgraf 2017, arXiv:1708.07747.

    For the arguments see `ImageDataModule`.

    Example:
        >>> data = FashionMNISTDataModule(batch_size=256)
        >>> data.num_classes, data.input_shape, data.class_names[9]
        (10, (1, 28, 28), 'Ankle boot')
    """

    class_names = (
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    )
    image_shape = (1, 28, 28)

    def locate(self, *, download: bool) -> Source:
        """Find the four files; the class says where."""
        target = self.data_dir or default_cache_dir()
        places = []
        if self.data_dir is not None:
            places += [("data_dir", self.data_dir), ("data_dir", self.data_dir / "FashionMNIST" / "raw")]
        if self.data_dir is None or self.verify_checksum:
            places += [("system's folder", _SYSTEM)]
        if self.data_dir is None:
            places += [("downloaded earlier", target / "FashionMNIST" / "raw")]
        return locate(
            "Fashion-MNIST",
            places,
            self._look,
            (lambda: _download(target)) if download else None,
            "On Debian and Ubuntu install it with `apt-get install dataset-fashion-mnist`. Elsewhere "
            "download it with network access, or put the four files from "
            "https://github.com/zalandoresearch/fashion-mnist into a folder and pass that as data_dir.",
        )

    def _look(self, folder: Path) -> Source | str:
        if not folder.is_dir():
            return "no such folder"
        paths: dict[str, Path] = {}
        for name in _MD5:
            for path in (folder / name, folder / f"{name}.gz"):
                if path.is_file():
                    paths.setdefault(name, path)
        if missing := [name for name in _MD5 if name not in paths]:
            return f"no {', '.join(missing)} (plain or .gz)"

        def read(part: Part) -> ImageSet:
            names = (f"{_PREFIX[part]}-images-idx3-ubyte", f"{_PREFIX[part]}-labels-idx1-ubyte")
            md5 = [_MD5[name] if self.verify_checksum else None for name in names]
            images = read_idx(paths[names[0]], 3, md5[0]).unsqueeze(1)  # (N, 28, 28) -> (N, 1, 28, 28)
            labels = read_idx(paths[names[1]], 1, md5[1]).long()
            if images.shape[1:] != self.image_shape:
                size = " x ".join(map(str, images.shape[2:]))
                raise ValueError(f"{paths[names[0]]}: images of {size} pixels, expected 28 x 28")
            if len(images) != len(labels):
                raise ValueError(
                    f"{paths[names[1]]}: {len(labels)} labels, expected {len(images)}, one per image of "
                    f"{paths[names[0]].name}"
                )
            check_labels(labels, self.num_classes, paths[names[1]])
            return ImageSet(images, labels)

        files = {
            part: [path for name, path in paths.items() if name.startswith(prefix)]
            for part, prefix in _PREFIX.items()
        }
        return Source("fashion-mnist", files, read, {"verified": self.verify_checksum})


def _download(folder: Path) -> Path:
    from torchvision.datasets import FashionMNIST  # takes seconds to import

    rank_zero_info(f"Downloading Fashion-MNIST (31 MB) into {folder}")
    folder.mkdir(parents=True, exist_ok=True)
    raw = folder / "FashionMNIST" / "raw"
    # To a temporary folder first, so that nothing half-written is ever left in its place.
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        FashionMNIST(temporary, download=True)  # compares the published md5 sums
        raw.mkdir(parents=True, exist_ok=True)
        for path in (Path(temporary) / "FashionMNIST" / "raw").glob("*.gz"):
            os.replace(path, raw / path.name)
    return raw
