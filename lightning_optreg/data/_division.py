"""How the training images are divided: which are used, held out as a fold, split off, and trained on."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from lightning_optreg._checks import check_choice, check_range
from lightning_optreg.data._folds import deal, deal_groups
from lightning_optreg.data._groups import digest_of, groups_file, read_groups
from lightning_optreg.data._split import stratified_split
from lightning_optreg.data.sources import Part

__all__ = ["Division", "HeldOut"]

HeldOut = Literal["validation", "test"]
"""What a fold is held out for."""

_VAL_FRACTION = 0.1


@dataclass(frozen=True)
class Division:
    """The settings of a data module that divide its training images; see `ImageDataModule`.

    Args:
        owner: Name of the data module, for messages.

    Raises:
        FileNotFoundError: If the file of groups does not exist.
        ValueError: If a value is out of its range, or two settings contradict each other.
    """

    owner: str
    val_fraction: float | None = None
    train_size: int | None = None
    pool_size: int | None = None
    split_seed: int = 0
    fold: int | None = None
    folds: int | None = None
    fold_seed: int = 0
    held_out: HeldOut = "validation"
    stratified: bool = True
    groups: str | None = None
    _groups: Path | None = field(init=False, default=None)
    _digest: str | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self._check_folds()
        share = self.val_fraction
        if self.validates_on_fold and share is not None:
            raise ValueError(
                f"{self.owner}: val_fraction must be left out (null) with fold, since the fold is the "
                f"validation split, got {share}"
            )
        if share is None:
            share = 0.0 if self.validates_on_fold else _VAL_FRACTION
        check_range(self.owner, "[0, 1)", val_fraction=share)
        for name in ("train_size", "pool_size"):
            size = getattr(self, name)
            if size is not None:
                check_range(self.owner, ">= 1", **{name: size})
        if self.groups is not None:
            if self.fold is None and share == 0.0:
                raise ValueError(
                    f"{self.owner}: groups needs a fold or val_fraction > 0: nothing is split off"
                )
            file = groups_file(self.groups, self.owner)
            object.__setattr__(self, "_groups", file)
            object.__setattr__(self, "_digest", digest_of(file))
        object.__setattr__(self, "val_fraction", share)

    def _check_folds(self) -> None:
        check_choice(self.owner, ("validation", "test"), held_out=self.held_out)
        if self.folds is not None:
            check_range(self.owner, ">= 2", folds=self.folds)
        if self.fold is not None and self.folds is None:
            raise ValueError(
                f"{self.owner}: fold needs folds, the number of parts, got fold={self.fold} alone"
            )
        if self.folds is not None and self.fold is None:
            raise ValueError(
                f"{self.owner}: folds needs fold, the part that is held out: 0 to {self.folds - 1}, got "
                f"folds={self.folds} alone"
            )
        if self.folds is not None and self.fold is not None and not 0 <= self.fold < self.folds:
            raise ValueError(f"{self.owner}: fold must be in [0, folds = {self.folds}), got {self.fold}")
        if self.fold is None and (self.held_out == "test" or not self.stratified):
            told = "held_out=test" if self.held_out == "test" else "stratified=False"
            raise ValueError(f"{self.owner}: {told} needs fold and folds, which say what is held out")

    @property
    def validates_on_fold(self) -> bool:
        """Whether a fold is the validation split."""
        return self.fold is not None and self.held_out == "validation"

    @property
    def tests_on_fold(self) -> bool:
        """Whether a fold takes the test set's place."""
        return self.fold is not None and self.held_out == "test"

    @property
    def share(self) -> float:
        """Share of the images that is split off for validation, after a fold was held out."""
        assert self.val_fraction is not None  # it was settled
        return self.val_fraction

    def check_parts(self, parts: Collection[Part]) -> None:
        """Refuse a dataset with a validation split of its own where settings say what that is.

        Args:
            parts: The parts that the dataset has.

        Raises:
            ValueError: If it has one.
        """
        if "val" not in parts:
            return
        if self.validates_on_fold:
            raise ValueError(
                f"{self.owner}: fold can't be the validation split, since the dataset has one of its own; "
                "give held_out=test, or move its images to those for training"
            )
        if self.groups is not None and self.fold is None:
            raise ValueError(
                f"{self.owner}: groups needs fold, since the dataset has a validation split of its own"
            )

    def taken(self, parts: Collection[Part]) -> list[Part]:
        """Return the parts that are made of the training images.

        Args:
            parts: The parts that the dataset has.
        """
        others: dict[Part, bool] = {"val": "val" not in parts, "test": self.tests_on_fold}
        return ["train", *(part for part, is_taken in others.items() if is_taken)]

    def divide(
        self, labels: Tensor, names: Sequence[str] | None, parts: Collection[Part]
    ) -> dict[Part, Tensor]:
        """Divide the training images.

        Args:
            labels: int64 (N,), of all of them.
            names: Their names, if they have any.
            parts: The parts that the dataset has.

        Returns:
            Positions, int64, ascending, of `train`; of `val`, unless the dataset has one; and of `test`, if a
            fold takes its place. They have no image in common.

        Raises:
            ValueError: If there are too few images or groups, or a class would be missing from training.
        """
        self.check_parts(parts)
        groups = None if self._groups is None else read_groups(self._groups, len(labels), names)
        rest, found = self._pool(labels), dict[Part, Tensor]()
        if self.fold is not None:
            held = self._dealt(labels[rest], None if groups is None else groups[rest]) == self.fold
            found["val" if self.validates_on_fold else "test"] = rest[held]
            self._check_classes(labels[rest], labels[rest[~held]], f"fold {self.fold} of {self.folds}")
            rest = rest[~held]
        if "val" not in found and "val" not in parts:
            first, second = self._split(labels[rest], None if groups is None else groups[rest])
            rest, found["val"] = rest[first], rest[second]
        found["train"] = self._few(labels, rest)
        return found

    def _pool(self, labels: Tensor) -> Tensor:
        if self.pool_size is None:
            return torch.arange(len(labels))
        if not self.pool_size <= len(labels):
            raise ValueError(
                f"{self.owner}: pool_size must be <= {len(labels)}, the training images, got {self.pool_size}"
            )
        return stratified_split(labels, 1.0 - self.pool_size / len(labels), self.split_seed)[0]

    def _dealt(self, labels: Tensor, groups: Tensor | None) -> Tensor:
        assert self.folds is not None  # as there is a fold
        try:
            if groups is None:
                return deal(labels, self.folds, self.fold_seed, stratified=self.stratified)
            counted = labels if self.stratified else torch.zeros_like(labels)
            return deal_groups(groups, counted, [1.0] * self.folds, self.fold_seed)
        except ValueError as error:
            raise ValueError(f"{self.owner}: {error}") from None

    def _split(self, labels: Tensor, groups: Tensor | None) -> tuple[Tensor, Tensor]:
        if groups is None or self.share == 0.0:
            return stratified_split(labels, self.share, self.split_seed)
        parts = deal_groups(groups, labels, [1.0 - self.share, self.share], self.split_seed)
        train, val = (parts == 0).nonzero()[:, 0], (parts == 1).nonzero()[:, 0]
        if len(val) == 0 or len(train) == 0:
            raise ValueError(f"{self.owner}: val_fraction {self.share} of these groups leaves a split empty")
        self._check_classes(labels, labels[train], f"val_fraction {self.share}")
        return train, val

    def _check_classes(self, all_labels: Tensor, left: Tensor, what: str) -> None:
        count = len(all_labels.bincount())
        gone = (all_labels.bincount(minlength=count) > 0) & (left.bincount(minlength=count) == 0)
        if gone.any():
            label = int(gone.nonzero()[0])
            raise ValueError(f"{self.owner}: {what} leaves no image of class {label} to train on")

    def _few(self, labels: Tensor, indices: Tensor) -> Tensor:
        if self.train_size is None:
            return indices
        if not self.train_size <= len(indices):
            raise ValueError(
                f"{self.owner}: train_size must be <= {len(indices)}, the training images, "
                f"got {self.train_size}"
            )
        chosen, _ = stratified_split(labels[indices], 1.0 - self.train_size / len(indices), self.split_seed)
        return indices[chosen]

    def key(self, parts: Collection[Part]) -> dict[str, Any] | None:
        """Return, as JSON values, all that the training images depend on; None if all are trained on."""
        splits = "val" not in parts and self.share > 0.0
        if not splits and self.fold is None and self.train_size is None and self.pool_size is None:
            return None
        used = {"val_fraction": self.share if splits else 0.0, "groups": self._digest}
        sizes = {"train_size": self.train_size, "pool_size": self.pool_size, "split_seed": self.split_seed}
        return {**used, **sizes, **(self.held() or {})}

    def held(self) -> Mapping[str, Any] | None:
        """Return what decides which images are held out as a fold, as plain values; None without a fold."""
        if self.fold is None:
            return None
        return {
            "fold": self.fold,
            "folds": self.folds,
            "fold_seed": self.fold_seed,
            "held_out": self.held_out,
            "stratified": self.stratified,
            "groups": self._digest,
            "pool_size": self.pool_size,
            "pool_seed": None if self.pool_size is None else self.split_seed,
        }
