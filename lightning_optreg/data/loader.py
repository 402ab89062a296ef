"""A loader that makes each batch by one index operation, in an order that is a function of (seed, epoch).

torch's DataLoader asks a dataset for one image at a time and draws its order from a generator with a state,
so an epoch can't be continued in the middle or by a different number of processes. This loader knows the
whole order of an epoch at its start, gives each process a contiguous part of each global batch, and can start
at any batch.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal

import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.utils.data import DataLoader, SequentialSampler

from lightning_optreg._checks import check_range
from lightning_optreg.data._loader_state import LoaderState, continued_epoch
from lightning_optreg.data._order import (
    Shuffle,
    check_shuffle,
    deal,
    drawn_ahead,
    epoch_order,
    fixed_order,
)
from lightning_optreg.data._packed import PackedImages
from lightning_optreg.data.batch import Batch, Share
from lightning_optreg.randomness.draws import Place

__all__ = ["Batch", "BatchLoader", "LoaderState", "Place", "progress_of"]


class BatchLoader(Iterable[Batch]):
    """Loads whole batches of an in-memory dataset, for one process or several.

    With `shuffle` the order of epoch e is a permutation made from (seed, e) by a separate generator; the
    global random state is neither read nor changed. Global batch k is the k-th part of that order, and each
    process takes a contiguous share of it, so 1 process with batches of 256 and 2 processes with 128 each see
    the same images in every step (if the number of processes divides the number of images).

    With several processes, training batches have equally many images on each: the last
    `N mod world_size` images of the epoch's order are left out (different ones in each epoch if the order
    changes), and the last batch is split evenly. With `shuffle=False` (evaluation) every image comes once,
    all processes have the same number of batches and none is empty; shares differ by at most one image, and
    if the last batch would have fewer images than processes, they join the previous batch.

    With `shuffle="poisson"` an epoch has as many batches as otherwise, but each of the N images is in each
    global batch with probability q = batch_size * world_size / N, independently: the sampling that the
    accounting of differential privacy assumes. Batches differ in size, are `batch_size` on average, and may
    be empty. The sample is a function of (seed, epoch, batch); processes share it as evenly as possible, so
    shares differ by at most one image.

    `state_dict` and `load_state_dict` keep the position within the epoch, and Lightning stores them in its
    checkpoints. Iteration goes over the epoch of the last `set_epoch`, from its start, or from the restored
    position if that is in this epoch. The end of an epoch is the same as the start of the next.

    In the middle of an epoch the number of processes may change, but not the global batch: 1 process with
    batches of 128 can continue where 2 had 64 each, and vice versa. The epoch ends with the images that it
    started with, even if another number of processes would have a few more; if they can't be shared evenly,
    up to `world_size - 1` are left out, with a warning. At the end of an epoch the batch size may change.

    Args:
        images: uint8 (N, C, H, W), or `PackedImages` of different sizes. They may be memory-mapped; they are
            never copied as a whole. If they lie on an accelerator, batches are made there, and the order of
            an epoch is moved there once, at its start: no batch is copied between devices.
        labels: int64 (N,), on the device of the images.
        indices: int64 (n,), positions of the images to use, such as the training split; None for all.
        batch_size: Images per batch of this process, at least 1, or "full" for all images in one batch.
        shuffle: True or "every_epoch": a new order each epoch. "once": one random order for all epochs.
            "never": the order of `indices`. "by_class": the order of `indices`, sorted by label. "poisson":
            an independent sample for each batch. False: for evaluation, the order of `indices` with every
            image, whatever the number of processes.
        seed: Seed of the order, any integer.
        rank: Rank of this process, in [0, world_size).
        world_size: Number of processes, at least 1.
        num_workers: Additional processes that prepare batches, at least 0. With images in memory 0 is
            fastest; workers help if reading is slow, as from a mapped file larger than the memory. 0 with
            images on an accelerator.
        pin_memory: Put batches into page-locked memory, if CUDA is available and images are in main memory.
        drop_last: Leave out a last batch that is not full.
        clock: Returns, when an iteration begins, the epoch and the number of its finished batches, for
            training loops that know them better than `set_epoch` and the restored state: a batch interrupted
            by an exception was loaded, but must come again. None: these two decide.

    Raises:
        TypeError: If images or labels have another dtype.
        ValueError: If a value is out of its range, or no batch would be left.

    Warns:
        UserWarning: If a checkpoint's run had another seed, or an epoch continued with another number of
            processes leaves out images.

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
        self._is_elsewhere = images.device != torch.device("cpu")
        if labels.device != images.device:
            raise ValueError(
                f"BatchLoader: labels must be on {images.device} as the images are, got {labels.device}"
            )
        if batch_size != "full" and not batch_size >= 1:
            raise ValueError(f"BatchLoader: batch_size must be >= 1 or 'full', got {batch_size!r}")
        if not 0 <= rank < world_size:
            raise ValueError(f"BatchLoader: rank must be in [0, world_size = {world_size}), got {rank}")
        check_range("BatchLoader", ">= 0", num_workers=num_workers)
        if num_workers > 0 and self._is_elsewhere:
            raise ValueError(
                f"BatchLoader: num_workers must be 0 with images on {images.device}, got {num_workers}"
            )
        self.images, self.labels = images, labels
        self.names: Sequence[str] | None = None
        """Names of `images`, which `PredictionWriter` puts into its table."""
        self.indices = torch.arange(len(images)) if indices is None else indices
        even = shuffle is not False
        if isinstance(shuffle, bool):
            shuffle = "every_epoch" if shuffle else "never"
        check_shuffle(shuffle, "BatchLoader")
        if shuffle in ("once", "by_class"):
            self.indices = self.indices[fixed_order(labels.cpu()[self.indices], shuffle, seed)]
        self.shuffle, self.seed = shuffle in ("every_epoch", "poisson"), seed
        self._is_random = shuffle != "never"
        self.rank, self.world_size = rank, world_size
        self._even = even
        self.num_workers = num_workers
        self.pin_memory = pin_memory and not self._is_elsewhere and torch.cuda.is_available()
        count = len(self.indices)
        if not count >= world_size:
            raise ValueError(f"BatchLoader: {count} images cannot be shared by {world_size} processes")
        self.batch_size = count // world_size if batch_size == "full" else batch_size
        self._bounds = deal(count, self.batch_size, world_size, even=even, drop_last=drop_last)
        if not self._bounds:
            raise ValueError(
                f"BatchLoader: drop_last leaves no batch of {count} images, a full batch has "
                f"{world_size} x {self.batch_size}"
            )
        self._is_poisson = shuffle == "poisson"
        if self._is_poisson:
            if not self.global_batch <= count:
                raise ValueError(
                    f"BatchLoader: batch_size must be <= {count // world_size} with shuffle 'poisson', "
                    f"as an image's probability is batch_size * world_size / {count}, got {batch_size}"
                )
            # Only their number counts; a checkpoint has the number of images that are expected.
            drawn = len(self._bounds) * self.global_batch
            self._bounds = deal(drawn, self.batch_size, world_size, even=True)
        # Lightning passes the epoch to these attributes.
        self.sampler = _EpochSampler(self) if self.shuffle else _InOrder(self)
        self.batch_sampler = None
        self._clock = clock
        self._order: Callable[[int], Tensor] | None = None
        self._images = self.epoch_images  # in the current epoch
        self._epoch = 0
        self._batches = 0
        self._restored: LoaderState | None = None

    def __len__(self) -> int:
        """Return the number of batches in a whole epoch, on each process."""
        return len(self._bounds)

    @property
    def poisson(self) -> bool:
        """Whether each batch is a Poisson sample."""
        return self._is_poisson and self.shuffle  # which callbacks turn off

    @property
    def sample_rate(self) -> float:
        """Probability that an image is in a Poisson batch, or the share of the images in a full batch."""
        return min(1.0, self.global_batch / len(self.indices))

    @property
    def epoch_images(self) -> int:
        """Images in an epoch, over all processes; with `poisson` their expected number."""
        return self._bounds[-1][1]

    @property
    def global_batch(self) -> int:
        """Images in a full batch, over all processes."""
        return self.batch_size * self.world_size

    def set_order(self, order: Callable[[int], Tensor] | None) -> None:
        """Let a function choose and order the images of each epoch, instead of `shuffle`.

        Args:
            order: Returns int64 (`epoch_images`,) positions in `indices` for an epoch, counted from 0;
                repetitions are allowed. Called when an iteration begins. It must return the same on every
                process, and again after a resume in the middle of the epoch. None: back to `shuffle`.
        """
        self._order = order

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next iteration, counted from 0. Lightning calls it through `sampler`."""
        if epoch != self._epoch:
            self._begin_anew()
            self._epoch, self._batches = epoch, 0

    def __iter__(self) -> Iterator[Batch]:
        """Iterate over the epoch's batches."""
        # A generator: nothing happens before the first next(). Lightning creates the iterator of the first
        # epoch before it sets the epoch, and creates others that it never uses.
        first, bounds = self._begin()
        order = self.indices
        if self._order is not None:
            order = order[self._order(self._epoch)]
        elif self.shuffle and not self.poisson:
            order = order[epoch_order(len(order), self.seed, self._epoch)]
        sampling = (self.sample_rate, self.seed) if self.poisson and self._order is None else None
        if self._is_elsewhere and sampling is not None:  # all of the epoch's: a step must not copy anything
            order, bounds = drawn_ahead(order, *sampling, self._epoch, range(first, len(bounds)))
            sampling = None
        share = Share(
            self.images, self.labels, order, self._epoch, bounds, self.rank, self.world_size, sampling
        )
        for step, batch in enumerate(self._fetch(share, range(first, len(bounds))), first):
            # Before the yield: after the last batch a training loop does not ask for another.
            self._batches = step + 1
            yield batch

    def _begin(self) -> tuple[int, list[tuple[int, int]]]:
        """Return the first batch of an iteration, and all batches of its epoch."""
        done = None
        if self._clock is not None:
            epoch, done = self._clock()
            self.set_epoch(epoch)
        restored = self._restored
        if restored is None:
            return 0, self._bounds
        first = restored["batches"] if done is None else done
        if first == 0:  # not in the middle: any loader may start the epoch
            self._begin_anew()
            return 0, self._bounds
        here: LoaderState = {**self.state_dict(), "images": self.epoch_images}
        bounds = continued_epoch(restored, here, rank=self.rank, world_size=self.world_size, even=self._even)
        self._images = bounds[-1][1]
        return first, bounds

    def _begin_anew(self) -> None:
        """Forget the restored position: a new epoch starts."""
        before, self._restored = self._restored, None
        self._images = self.epoch_images
        if before is None or before["seed"] == self.seed or not self._is_random or self.rank > 0:
            return
        if self._clock is None:  # with a clock it belongs to a data module, which warns itself
            warnings.warn(
                f"BatchLoader: the images come in the order of seed {self.seed}, as given; the "
                f"checkpoint's run had seed {before['seed']}.",
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
                generator=torch.Generator(),  # otherwise it draws from the global one
            )
        if self.pin_memory:
            return (_pinned(share[step]) for step in steps)
        return map(share.__getitem__, steps)

    def state_dict(self) -> LoaderState:
        """Return the position within the epoch as plain numbers."""
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
        """Continue at the position in `state`, as long as its epoch is the current one.

        Args:
            state: Result of `state_dict` of a loader with the same images, seed and global batch. The number
                of processes may differ.

        Raises:
            ValueError: If it is not such a state.
        """
        if set(state) != set(LoaderState.__annotations__):
            raise ValueError(f"BatchLoader: expected the state of a BatchLoader, got {state}")
        self._restored = state
        self._epoch, self._batches, self._images = state["epoch"], state["batches"], state["images"]


def progress_of(trainer: Trainer) -> tuple[int, int]:
    """Return the epoch and the number of its finished batches: a `clock` for a `BatchLoader`."""
    # If a run is continued at the end of an epoch with max_steps, Lightning 2.6 runs an empty epoch. It then
    # passes a number to set_epoch that is one too high, while current_epoch is right.
    return trainer.current_epoch, trainer.fit_loop.batch_idx + 1


def _unchanged(batch: Any) -> Any:
    return batch


def _pinned(batch: Batch) -> Batch:
    return batch._replace(images=batch.images.pin_memory(), labels=batch.labels.pin_memory())


class _EpochSampler:
    """Receives the epoch from Lightning."""

    def __init__(self, loader: BatchLoader) -> None:
        self.set_epoch = loader.set_epoch


class _InOrder(SequentialSampler):
    """The same, with the type by which Lightning recognises loaders that do not shuffle."""

    def __init__(self, loader: BatchLoader) -> None:
        super().__init__(range(len(loader.indices)))
        self.set_epoch = loader.set_epoch
