"""Batches by one index operation each, in an order that is a function of (seed, epoch).

torch's DataLoader asks a dataset for one image at a time and draws its order from a generator that moves on,
so an epoch can neither be continued in its middle nor be dealt out to another number of processes. This
loader knows the whole order of an epoch at its start, deals contiguous parts of each global batch to the
processes, and can begin at any batch.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal

import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.utils.data import DataLoader, SequentialSampler

from lightning_optreg.data._loader_state import LoaderState, continued_epoch
from lightning_optreg.data._order import Shuffle, check_shuffle, deal, epoch_order, fixed_order
from lightning_optreg.data._packed import PackedImages
from lightning_optreg.data.batch import Batch, Share
from lightning_optreg.randomness.draws import Place

__all__ = ["Batch", "BatchLoader", "LoaderState", "Place", "progress_of"]


class BatchLoader(Iterable[Batch]):
    """Whole batches of an in-memory dataset, for one process of possibly several.

    With `shuffle` the order of epoch e is a permutation made from (seed, e) by a generator of its own; the
    global random state is neither read nor changed. Global batch k is the k-th part of that order, and a
    process takes its contiguous share, so 1 process with batches of 256 and 2 processes with 128 each see
    the same images in every step (whenever the number of processes divides the number of images).

    With several processes, training batches have equally many images on each: the last
    `N mod world_size` images of the epoch's order are left out, other ones in each epoch that has an order
    of its own, and the last batch is split evenly. With `shuffle=False` (evaluation) every image comes once,
    all processes have the same number of batches and none is empty; shares differ by one image at most, and
    where fewer images than processes would be left for the last batch they join the one before.

    `state_dict` and `load_state_dict` keep the place within the epoch, and Lightning stores them in its
    checkpoints. Iteration goes over the epoch that `set_epoch` named last, from its start, or from the
    restored place if that lies in this epoch. An epoch's end is the same as the next one's start.

    In the middle of an epoch the number of processes may change, the global batch may not: 1 process with
    batches of 128 goes on where 2 had 64 each, and the other way round. The epoch ends with the images with
    which it was begun, where another number of processes would have some more; if they cannot be shared
    evenly, up to `world_size - 1` are left out, and a warning says so. After an epoch's end batches may have
    any size.

    Args:
        images: uint8 (N, C, H, W), or `PackedImages` of different sizes. They may be memory-mapped; they are
            never copied as a whole.
        labels: int64 (N,).
        indices: int64 (n,), positions of the images to use, such as the training split; None for all.
        batch_size: Images in a batch of this process, at least 1, or "full" for all images in one batch.
        shuffle: True or "every_epoch": a new order each epoch. "once": one order made from the seed for all
            epochs. "never": that of `indices`. "by_class": that of `indices`, sorted by label. False: for
            evaluation, the order of `indices` with every image, whatever the number of processes.
        seed: Seed of the order, any integer.
        rank: Number of this process, in [0, world_size).
        world_size: Number of processes, at least 1.
        num_workers: Processes that prepare batches beside this one, at least 0. With images in memory this
            one is fastest; workers help where reading is slow, as from a mapped file larger than the memory.
        pin_memory: Put batches into page-locked memory, if CUDA is available.
        drop_last: Leave out a last batch that is not full.
        clock: Tells, when an iteration begins, the epoch and the number of its batches that are done, for
            training loops that know it better than `set_epoch` and the restored state: a batch that an
            exception broke off was handed out, but must come again. None: what those two say.

    Raises:
        TypeError: If images or labels are of another type.
        ValueError: If a value is out of its range, or no batch would be left.

    Example:
        >>> images, labels = torch.zeros(10, 1, 4, 4, dtype=torch.uint8), torch.arange(10)
        >>> loader = BatchLoader(images, labels, batch_size=4, shuffle=True, seed=0)
        >>> loader.set_epoch(1)
        >>> [tuple(batch.images.shape) for batch in loader]
        [(4, 1, 4, 4), (4, 1, 4, 4), (2, 1, 4, 4)]
        >>> loader.state_dict()["batches"]
        3
    """

    def __init__(
        self,
        images: Tensor | PackedImages,
        labels: Tensor,
        *,
        indices: Tensor | None = None,
        batch_size: int | Literal["full"],
        shuffle: bool | Shuffle,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        num_workers: int = 0,
        pin_memory: bool = False,
        drop_last: bool = False,
        clock: Callable[[], tuple[int, int]] | None = None,
    ) -> None:
        if images.dtype != torch.uint8 or labels.dtype != torch.int64:
            raise TypeError(
                f"BatchLoader: images must be uint8 and labels int64, got {images.dtype} and {labels.dtype}"
            )
        if images.ndim != 4 or labels.shape != images.shape[:1]:
            raise ValueError(
                f"BatchLoader: images must be (N, C, H, W) and labels (N,), got {tuple(images.shape)} and "
                f"{tuple(labels.shape)}"
            )
        if batch_size != "full" and not batch_size >= 1:
            raise ValueError(f"BatchLoader: batch_size must be >= 1 or 'full', got {batch_size!r}")
        if not 0 <= rank < world_size:
            raise ValueError(f"BatchLoader: rank must be in [0, world_size = {world_size}), got {rank}")
        if not num_workers >= 0:
            raise ValueError(f"BatchLoader: num_workers must be >= 0, got {num_workers}")
        self.images, self.labels = images, labels
        self.names: Sequence[str] | None = None
        """A name of each of `images`, which `PredictionWriter` puts into its table."""
        self.indices = torch.arange(len(images)) if indices is None else indices
        even = shuffle is not False
        if isinstance(shuffle, bool):
            shuffle = "every_epoch" if shuffle else "never"
        check_shuffle(shuffle, "BatchLoader")
        if shuffle in ("once", "by_class"):
            self.indices = self.indices[fixed_order(labels[self.indices], shuffle, seed)]
        self.shuffle, self.seed = shuffle == "every_epoch", seed
        self._is_random = shuffle != "never"
        self.rank, self.world_size = rank, world_size
        self._even = even
        self.num_workers = num_workers
        self.pin_memory = pin_memory and torch.cuda.is_available()
        count = len(self.indices)
        if not count >= world_size:
            raise ValueError(f"BatchLoader: {count} images cannot be shared by {world_size} processes")
        self.batch_size = count // world_size if batch_size == "full" else batch_size
        self._bounds = deal(count, self.batch_size, world_size, even=even, drop_last=drop_last)
        if not self._bounds:
            raise ValueError(
                f"BatchLoader: drop_last leaves no batch of {count} images, a full one has "
                f"{world_size} x {self.batch_size}"
            )
        # Where Lightning looks for someone to tell the epoch.
        self.sampler = _EpochSampler(self) if self.shuffle else _InOrder(self)
        self.batch_sampler = None
        self._clock = clock
        self._order: Callable[[int], Tensor] | None = None
        self._images = self.epoch_images  # in the epoch that is gone through
        self._epoch = 0
        self._batches = 0
        self._restored: LoaderState | None = None

    def __len__(self) -> int:
        """Batches in a whole epoch, on each process."""
        return len(self._bounds)

    @property
    def epoch_images(self) -> int:
        """Images in an epoch, over all processes."""
        return self._bounds[-1][1]

    @property
    def global_batch(self) -> int:
        """Images in a full batch, over all processes."""
        return self.batch_size * self.world_size

    def set_order(self, order: Callable[[int], Tensor] | None) -> None:
        """Let a function choose and order the images of each epoch, instead of `shuffle`.

        Args:
            order: Gives, of an epoch counted from 0, int64 (`epoch_images`,) positions among `indices`, with
                repetitions if it likes; asked when an iteration begins. It must give the same on every
                process, and the same again on a resume in mid-epoch. None: `shuffle` decides again.
        """
        self._order = order

    def set_epoch(self, epoch: int) -> None:
        """Name the epoch of the next iteration, counted from 0. Lightning does it through `sampler`."""
        if epoch != self._epoch:
            self._begin_anew()
            self._epoch, self._batches = epoch, 0

    def __iter__(self) -> Iterator[Batch]:
        """Go over the epoch's batches."""
        # A generator: nothing happens before the first next(). Lightning makes the iterator of the first
        # epoch before it says which epoch it is, and others that it never uses.
        first, bounds = self._begin()
        order = self.indices
        if self._order is not None:
            order = order[self._order(self._epoch)]
        elif self.shuffle:
            order = order[epoch_order(len(order), self.seed, self._epoch)]
        share = Share(self.images, self.labels, order, self._epoch, bounds, self.rank, self.world_size)
        for step, batch in enumerate(self._fetch(share, range(first, len(bounds))), first):
            # Before the yield: a training loop that has its last batch does not ask for another.
            self._batches = step + 1
            yield batch

    def _begin(self) -> tuple[int, list[tuple[int, int]]]:
        """Give the first batch of an iteration, and all batches of its epoch."""
        done = None
        if self._clock is not None:
            epoch, done = self._clock()
            self.set_epoch(epoch)
        restored = self._restored
        if restored is None:
            return 0, self._bounds
        first = restored["batches"] if done is None else done
        if first == 0:  # not in the middle: the epoch can be any loader's
            self._begin_anew()
            return 0, self._bounds
        here: LoaderState = {**self.state_dict(), "images": self.epoch_images}
        bounds = continued_epoch(restored, here, rank=self.rank, world_size=self.world_size, even=self._even)
        self._images = bounds[-1][1]
        return first, bounds

    def _begin_anew(self) -> None:
        """Forget the place that was restored: an epoch begins, and it can be any loader's."""
        before, self._restored = self._restored, None
        self._images = self.epoch_images
        if before is None or before["seed"] == self.seed or not self._is_random or self.rank > 0:
            return
        if self._clock is None:  # with one it is a data module's, which says it itself
            warnings.warn(
                f"BatchLoader: the images come in the order of seed {self.seed}, as given, and in the "
                f"checkpoint's run they came in that of {before['seed']}.",
                stacklevel=2,
            )

    def _fetch(self, share: Share, steps: range) -> Iterable[Batch]:
        if self.num_workers > 0:
            return DataLoader(
                share,
                batch_size=None,
                sampler=steps,
                num_workers=self.num_workers,
                collate_fn=_unchanged,
                pin_memory=self.pin_memory,
                generator=torch.Generator(),  # otherwise the global one is drawn from
            )
        if self.pin_memory:
            return (_pinned(share[step]) for step in steps)
        return map(share.__getitem__, steps)

    def state_dict(self) -> LoaderState:
        """Return the place within the epoch as plain numbers."""
        return {
            "epoch": self._epoch,
            "batches": self._batches,
            "epoch_batches": len(self),
            "images": self._images,
            "available": len(self.indices),
            "global_batch": self.global_batch,
            "seed": self.seed,
        }

    def load_state_dict(self, state: LoaderState) -> None:
        """Continue at the place that `state` names, for as long as its epoch is the current one.

        Args:
            state: What `state_dict` returned, of a loader with the same images, seed and global batch. The
                number of processes may differ.

        Raises:
            ValueError: If it is something else.
        """
        if set(state) != set(LoaderState.__annotations__):
            raise ValueError(f"BatchLoader: not the state of a BatchLoader: {state}")
        self._restored = state
        self._epoch, self._batches, self._images = state["epoch"], state["batches"], state["images"]


def progress_of(trainer: Trainer) -> tuple[int, int]:
    """Tell the epoch and the number of its batches that are done: a `clock` of a `BatchLoader`."""
    # Continued at an epoch's end with max_steps, Lightning 2.6 goes through an empty epoch. The number that
    # it gives to set_epoch is then one too high, while current_epoch is right.
    return trainer.current_epoch, trainer.fit_loop.batch_idx + 1


def _unchanged(batch: Any) -> Any:
    return batch


def _pinned(batch: Batch) -> Batch:
    return batch._replace(images=batch.images.pin_memory(), labels=batch.labels.pin_memory())


class _EpochSampler:
    """Hears the epoch from Lightning."""

    def __init__(self, loader: BatchLoader) -> None:
        self.set_epoch = loader.set_epoch


class _InOrder(SequentialSampler):
    """The same, of the type by which Lightning knows loaders that do not shuffle."""

    def __init__(self, loader: BatchLoader) -> None:
        super().__init__(range(len(loader.indices)))
        self.set_epoch = loader.set_epoch
