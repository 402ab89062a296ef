"""The parts of a dataset that have been read, with the validation split, the statistics and the cache."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_optreg.data._cache import cached, fingerprint
from lightning_optreg.data._packed import PackedImages
from lightning_optreg.data._split import stratified_split
from lightning_optreg.data.sources import ImageSet, Part, Source
from lightning_optreg.data.statistics import Statistics, compute_statistics

__all__ = ["OpenParts"]


class OpenParts:
    """The parts of a dataset that have been read.

    Args:
        source: Where the dataset is.
        cache_dir: Folder for decoded data.
        val_fraction: Share of the training images kept for validation, unless the source has a part for it.
        split_seed: Seed of that split.
        train_size: Number of training images to use; None: all.
    """

    def __init__(
        self,
        source: Source,
        cache_dir: Path,
        val_fraction: float,
        split_seed: int,
        train_size: int | None = None,
    ) -> None:
        self.source, self.cache_dir = source, cache_dir
        self.val_fraction, self.split_seed, self.train_size = val_fraction, split_seed, train_size
        self.sets: dict[Part, ImageSet] = {}
        self.indices: dict[Part, Tensor] = {}
        """Positions of each part's images in its set."""

    def open(self, part: Part) -> None:
        """Read a part, if the source has it and it is not open."""
        if part not in self.source.files or part in self.sets:
            return
        images = _unpacked(self._cached(part, "images", lambda: _packed(self.source.read(part))))
        self.sets[part] = images
        if part == "train" and "val" not in self.source.files:
            train, val = stratified_split(images.labels, self.val_fraction, self.split_seed)
            self.sets["val"] = images
            self.indices["train"], self.indices["val"] = train, val
        else:
            self.indices[part] = torch.arange(len(images.labels))
        if part == "train" and self.train_size is not None:
            self.indices[part] = self._few(images.labels, self.indices[part], self.train_size)

    def _few(self, labels: Tensor, indices: Tensor, count: int) -> Tensor:
        if not count <= len(indices):
            raise ValueError(
                f"train_size must be <= {len(indices)}, the training images of {self.source.name}, "
                f"got {count}"
            )
        chosen, _ = stratified_split(labels[indices], 1.0 - count / len(indices), self.split_seed)
        return indices[chosen]

    def names(self, part: Part) -> Sequence[str] | None:
        """Return the names of the images in a part's set, if they have names."""
        split_off = part == "val" and part not in self.source.files
        return self.source.names.get("train" if split_off else part)

    def statistics(self) -> Statistics:
        """Return the statistics of the training split."""
        split: list[float] | None = [self.val_fraction, self.split_seed]
        if self.train_size is not None:
            split = [self.val_fraction, self.split_seed, self.train_size]
        elif "val" in self.source.files:
            split = None
        return Statistics(**self._cached("train", "statistics", self._measure, split=split))

    def _measure(self) -> dict[str, Tensor]:
        self.open("train")
        images = self.sets["train"].images
        assert isinstance(images, Tensor)  # only images for evaluation may differ in size
        return asdict(compute_statistics(images, self.indices["train"]))

    def _cached(
        self, part: Part, what: str, make: Callable[[], dict[str, Tensor]], **options: Any
    ) -> dict[str, Tensor]:
        files = self.source.files[part]
        if not files:
            return make()
        key = {"part": part, "files": fingerprint(files), **self.source.options, **options}
        return cached(self.cache_dir, f"{self.source.name}-{part}-{what}", key, make)


def _packed(images: ImageSet) -> dict[str, Tensor]:
    """Return the images and labels as a dictionary of tensors, for the cache."""
    packed = images.images
    if isinstance(packed, Tensor):
        return {"images": packed, "labels": images.labels}
    channels = torch.tensor(packed.channels)
    return {"pixels": packed.pixels, "sizes": packed.sizes, "channels": channels, "labels": images.labels}


def _unpacked(tensors: dict[str, Tensor]) -> ImageSet:
    if "images" in tensors:
        return ImageSet(**tensors)
    channels = int(tensors["channels"])
    return ImageSet(PackedImages(tensors["pixels"], tensors["sizes"], channels), tensors["labels"])
