"""The parts of a dataset that have been read, with the validation split, the statistics and the cache."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_optreg.data._cache import cached, cached_pixels, fingerprint
from lightning_optreg.data._division import Division
from lightning_optreg.data._stream import StreamedSource
from lightning_optreg.data.sources import ImageSet, Part, Source
from lightning_optreg.data.statistics import Statistics, compute_statistics

__all__ = ["OpenParts"]


class OpenParts:
    """The parts of a dataset that have been read.

    Args:
        source: Where the dataset is.
        cache_dir: Folder for decoded data.
        division: How the training images are divided.
    """

    def __init__(self, source: Source, cache_dir: Path, division: Division) -> None:
        self.source, self.cache_dir, self.division = source, cache_dir, division
        self.sets: dict[Part, ImageSet] = {}
        self.indices: dict[Part, Tensor] = {}
        """Positions of each part's images in its set."""
        self._prints: dict[Part, str] = {}

    def open(self, part: Part) -> None:
        """Read a part, if the source has it and it is not open."""
        if part == "test" and self.division.tests_on_fold:
            part = "train"
        if part not in self.source.files or part in self.sets:
            return
        images = self._read(part)
        if part == "train":
            self.indices |= self.division.divide(images.labels, self.names("train"), self.source.files)
            self.sets |= dict.fromkeys(self.division.taken(self.source.files), images)
        else:
            self.sets[part], self.indices[part] = images, torch.arange(len(images.labels))

    def _read(self, part: Part) -> ImageSet:
        source = self.source
        if not isinstance(source, StreamedSource):
            return ImageSet(**self._cached(part, "images", lambda: source.read(part)._asdict()))
        name, owner = f"{source.name}-{part}-images", self.division.owner
        stream = source.stream(part)
        return cached_pixels(self.cache_dir, name, self._key(part), stream, owner) or stream.in_memory()

    @property
    def has_test(self) -> bool:
        """Whether there are test images."""
        return self.division.tests_on_fold or "test" in self.source.files

    def names(self, part: Part) -> Sequence[str] | None:
        """Return the names of the images in a part's set, if they have names."""
        return self.source.names.get("train" if part in self.division.taken(self.source.files) else part)

    def statistics(self) -> Statistics:
        """Return the statistics of the training split."""
        split = self.division.key(self.source.files)
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
        key = {**self._key(part), **options}
        return cached(self.cache_dir, f"{self.source.name}-{part}-{what}", key, make)

    def _key(self, part: Part) -> dict[str, Any]:
        if part not in self._prints:  # a million files take 15 s
            self._prints[part] = fingerprint(self.source.files[part])
        return {"part": part, "files": self._prints[part], **self.source.options}
