"""Image datasets in memory, for any Lightning Trainer and for plain PyTorch.

A batch leaves the loader as 8-bit images and is augmented and normalised as a whole on the device. All its
randomness (order, split, augmentation) is a function of the seeds and the place in the run, so a resumed run
sees the same batches as an uninterrupted one.
"""

import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Literal

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningDataModule
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from lightning_optreg._checks import check_range
from lightning_optreg.data._cache import default_cache_dir
from lightning_optreg.data._division import Division, HeldOut
from lightning_optreg.data._open_parts import OpenParts
from lightning_optreg.data._order import Shuffle, check_shuffle
from lightning_optreg.data._packed import finished_views, middles
from lightning_optreg.data._placement import Placement
from lightning_optreg.data._trained_on import check_classes, check_held_out, statistics_of
from lightning_optreg.data.loader import Batch, BatchLoader, progress_of
from lightning_optreg.data.sources import Part, Source, folder
from lightning_optreg.data.statistics import Statistics
from lightning_optreg.data.transforms import BatchTransform, Centring, Pipeline
from lightning_optreg.randomness.draws import Draws
from lightning_optreg.randomness.processes import share_of
from lightning_optreg.randomness.run_seed import RunSeed
from lightning_optreg.trust import VettedLoading

__all__ = ["ImageDataModule"]


class ImageDataModule(VettedLoading, LightningDataModule):
    """An image dataset in memory: the base of all datasets of this package.

    The module gets batches `(x, y)`: x float32 (n, C, H, W), y int64 (n,); in prediction `(x, y, index)` with
    the images' positions in the test set (or among the training images, if a fold is tested). Only training
    batches are augmented. With several processes each gets its share (see `BatchLoader`); `batch_size` is
    that of one process.

    Decoded images and the statistics of the training split are kept in a cache folder. A subclass sets
    `class_names` and `image_shape` and finds its data in `locate`.

    Args:
        data_dir: Folder with the data, which must exist. None: see the dataset.
        batch_size: Images per batch of one process, from 1 (stochastic gradient descent) to "full" (the
            whole training split: batch gradient descent).
        val_fraction: Share of the training images, the same for each class, kept for validation, in [0, 1).
            With 0 all images are used for training and there is no validation. None: 0.1, or nothing if a
            fold is the validation split.
        train_size: Number of the remaining images to train on, at least one per class and in the same
            proportions; chosen with `split_seed`, so that a smaller selection is part of a larger one. None:
            all.
        augment: Transforms of training batches, in order; None for none.
        normalize: How pixels are centred and scaled, with statistics of the training split: "mean_std",
            "mean" (VGG), "mean_image" (AlexNet) or "none" (they stay on [0, 1]). Transforms pad with black;
            with a mean image, which is subtracted before pixels move, they pad with the mean.
        seed: Seed of order and augmentation. None: the number given to `seed_everything`, else 0.
        split_seed: Seed of the validation split, and of what `train_size` and `pool_size` choose.
        num_workers: Processes that prepare batches, at least 0; with images in memory 0 is fastest.
        pin_memory: Put batches into page-locked memory if CUDA is available. None: when training on CUDA.
            Without effect on images that lie on the device.
        drop_last: Leave out a last training batch that is not full.
        shuffle: Order of the training images: "every_epoch" (a new one each epoch), "once" (a random one, the
            same in all epochs), "never" (as they are stored), "by_class" (sorted by label, to see how that
            harms training) or "poisson" (each image is in each batch with probability batch_size / N, as
            `DifferentialPrivacy` assumes; batches differ in size).
        verify_checksum: Refuse files that are not the published ones.
        cache_dir: Folder for decoded data. None: `$XDG_CACHE_HOME/lightning_optreg`, by default
            `~/.cache/lightning_optreg`.
        fold: The fold that is held out, in [0, folds); the other folds are trained on. Goes with `folds`.
            None: cross-validation is not used.
        folds: Number of folds that the training images are dealt into, at least 2. Their sizes differ by at
            most one image, and so do their numbers of each class.
        fold_seed: Seed of the deal; another seed deals anew, for repeated cross-validation.
        held_out: What the fold is: the "validation" split; or the "test" set, also for prediction, for nested
            cross-validation. Then `val_fraction` of the other folds is kept for validation, and the dataset's
            own test set is not used.
        stratified: Whether folds have the same share of every class.
        groups: File with the group of each training image, such as the patient it shows. Images of one group
            are never on both sides of a fold or of the validation split, which then have about, not exactly,
            the shares that are asked for. A .npy file of whole numbers, or a .csv file with the header
            `group`, in the order of the images; or a .csv file with the header `file,group`, for images that
            have names. None: each image for itself.
        pool_size: Number of training images to use at all, for training and validation and all folds, in the
            same proportions of classes; a smaller pool is part of a larger one. None: all.
        device: Where the images lie, in 8 bits. "cpu": in main memory, and each batch travels to the device.
            "cuda", or another device of the run: there, each process on its own, so that a step copies
            nothing. "auto": on the device if it is a GPU (CUDA or MPS), `num_workers` is 0 and the images
            take at most a quarter of its free memory; else in main memory. Batches are the same, to the bit.
            Images of different sizes always stay in main memory.

    Raises:
        FileNotFoundError: If data_dir or groups does not exist.
        NotADirectoryError: If data_dir or cache_dir is a file.
        TypeError: If augment contains anything but a `BatchTransform`.
        ValueError: If a value is out of its range, or the transforms do not fit the images.

    Example:
        A dataset of your own:

        >>> from lightning_optreg.data import ImageSet
        >>> class Noise(ImageDataModule):
        ...     class_names, image_shape = ("dark", "bright"), (1, 8, 8)
        ...     def locate(self, *, download):
        ...         images = torch.arange(40, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 8, 8)
        ...         labels = torch.arange(40) // 20
        ...         return Source("noise", {"train": []}, lambda part: ImageSet(images, labels))
        >>> data = Noise(batch_size=12, val_fraction=0.1)
        >>> data.setup("fit")
        >>> [len(y) for x, y in data.batches("train", epoch=0)], [len(y) for x, y in data.batches("val")]
        ([12, 12, 12], [4])
    """

    class_names: tuple[str, ...]
    """Names of the classes, in the order of the labels."""
    image_shape: tuple[int, int, int]
    """Shape (C, H, W) of an image before the transforms."""

    def __init__(
        self,
        data_dir: str | None = None,
        *,
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
        verify_checksum: bool = True,
        cache_dir: str | None = None,
        fold: int | None = None,
        folds: int | None = None,
        fold_seed: int = 0,
        held_out: HeldOut = "validation",
        stratified: bool = True,
        groups: str | None = None,
        pool_size: int | None = None,
        device: str = "auto",
    ) -> None:
        super().__init__()
        name = type(self).__name__
        self.data_dir = None if data_dir is None else folder(data_dir, f"{name}: data_dir")
        self.cache_dir = folder(cache_dir or default_cache_dir(), f"{name}: cache_dir", exists=False)
        self._division = Division(
            name,
            val_fraction,
            train_size,
            pool_size,
            split_seed,
            fold,
            folds,
            fold_seed,
            held_out,
            stratified,
            groups,
        )
        if normalize not in ("mean_std", "mean", "mean_image", "none"):
            raise ValueError(
                f"{name}: normalize must be mean_std, mean, mean_image or none, got {normalize!r}"
            )
        check_range(name, ">= 0", num_workers=num_workers)
        check_shuffle(shuffle, name)
        self._placement = Placement(name, device, num_workers)
        self.device = device
        self.batch_size = batch_size
        self.val_fraction = self._division.share
        self.train_size = train_size
        self.seed = seed
        self.split_seed = split_seed
        self.num_workers = num_workers
        self.pin_memory = pin_memory
        self.drop_last = drop_last
        self.shuffle = shuffle
        self.verify_checksum = verify_checksum
        self.pipeline = Pipeline(augment or (), normalize)
        self.input_shape = self.pipeline.output_shape(self.image_shape)
        self.augmenting = True
        """Whether training batches are augmented; the callback `NoiseFree` turns it off."""
        self.uncropped = False
        """Whether evaluation batches stay uncropped, for views; `TestTimeAugmentation` turns it on, and
        processes them with `views_of`."""
        self.statistics: Statistics | None = None
        self._statistics_loaded = False  # from a checkpoint, until its run ends
        self._parts: OpenParts | None = None
        self._run_seed = RunSeed(seed)
        self._sizes: list[list[int]] | None = None  # of the last uncropped batch, if they differ

    @property
    def crops(self) -> bool:
        """Whether evaluation crops images, so that views can show more of them."""
        return self.pipeline.cuts(self.image_shape)

    @property
    def num_classes(self) -> int:
        """Number of classes K."""
        return len(self.class_names)

    @property
    def has_validation(self) -> bool:
        """Whether some images are kept for validation."""
        return self._division.validates_on_fold or self.val_fraction > 0.0

    @property
    def batch_size(self) -> int | Literal["full"]:
        """Images per batch of one process; may be changed before loaders are created."""
        return self._batch_size

    @batch_size.setter
    def batch_size(self, value: int | Literal["full"]) -> None:
        if value != "full" and not (isinstance(value, int) and value >= 1):
            raise ValueError(f"{type(self).__name__}: batch_size must be >= 1 or 'full', got {value!r}")
        self._batch_size = value

    @property
    def has_test(self) -> bool:
        """Whether there are test images: a set of the dataset's own, or a fold."""
        return self._found(download=False).has_test

    # ---- reading -------------------------------------------------------------------------------------------

    def locate(self, *, download: bool) -> Source:
        """Find the data, in a subclass.

        Args:
            download: Whether the data may be downloaded now, as only one process calls this.

        Raises:
            FileNotFoundError: If the data are not found.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement locate(), which finds its data")

    def prepare_data(self) -> None:
        """Get the data and decode them into the cache; Lightning calls it in one process per machine."""
        self._found(download=True)
        self._read(None if self.trainer is None else self.trainer.state.fn)

    def setup(self, stage: str | None = None) -> None:
        """Open the data of a stage, in every process.

        Args:
            stage: "fit", "validate", "test" or "predict"; None for all.
        """
        self._read(stage)

    def _read(self, stage: str | None) -> None:
        parts = self._found(download=False) if self._parts is None else self._parts
        wanted: tuple[Part, ...] = ("test",) if stage in ("test", "predict") else ("train", "val")
        for part in ("train", "val", "test") if stage is None else wanted:
            parts.open(part)
        if self.statistics is None or self._statistics_loaded:
            self.statistics, self._statistics_loaded = parts.statistics(), False
            self.pipeline.fit(self.statistics)

    def _found(self, *, download: bool) -> OpenParts:
        source = self.locate(download=download)
        if self._parts is None:
            self._parts = OpenParts(source, self.cache_dir, self._division)
        self._parts.source = source
        return self._parts

    # ---- loaders -------------------------------------------------------------------------------------------

    def train_dataloader(self) -> BatchLoader:
        """Return batches of the training split, shuffled as configured (never with `overfit_batches`)."""
        clock = None if self.trainer is None else partial(progress_of, self.trainer)
        return self._loader("train", training=True, clock=clock)

    def val_dataloader(self) -> BatchLoader | list[BatchLoader]:
        """Return batches of the validation split in order; an empty list if there is none."""
        if self._parts is None or "val" not in self._parts.indices or len(self._parts.indices["val"]) > 0:
            return self._loader("val")
        if self.trainer is not None and self.trainer.state.fn == TrainerFn.VALIDATING:
            raise MisconfigurationException(
                f"{type(self).__name__}: val_fraction=0 leaves no images to validate on"
            )
        # With val_fraction=0 this is intended.
        warnings.filterwarnings("ignore", "Total length of `list` across ranks is zero", UserWarning)
        return []

    def test_dataloader(self) -> BatchLoader:
        """Return batches of the test set, or of the fold that takes its place, in order."""
        return self._loader("test")

    def predict_dataloader(self) -> BatchLoader:
        """Return batches of the test set, or of the fold that takes its place, in order, with labels."""
        return self._loader("test")

    def _loader(
        self, part: Part, *, training: bool = False, clock: Callable[[], tuple[int, int]] | None = None
    ) -> BatchLoader:
        parts = self._parts
        if parts is None or part not in parts.sets:
            missing = part == "test" and parts is not None and not parts.has_test
            reason = (
                "the dataset has no test images" if missing else f"setup() must open the {part} images first"
            )
            raise MisconfigurationException(f"{type(self).__name__}: {reason}")
        trainer = self.trainer
        pin_memory = self.pin_memory
        if pin_memory is None:
            pin_memory = trainer is not None and trainer.strategy.root_device.type == "cuda"
        overfit = trainer is not None and trainer.overfit_batches > 0  # type: ignore[attr-defined]  # untyped
        rank, world_size = (0, 1) if trainer is None else share_of(trainer)
        loader = BatchLoader(
            *self._placement.place(
                parts.sets[part], None if trainer is None else trainer.strategy.root_device
            ),
            indices=parts.indices[part],
            batch_size=self.batch_size,
            shuffle=self.shuffle if training and not overfit else False,
            seed=self._run_seed.settle(trainer),
            rank=rank,
            world_size=world_size,
            num_workers=self.num_workers,
            pin_memory=pin_memory,
            drop_last=training and self.drop_last,
            clock=clock,
        )
        loader.names = parts.names(part)
        return loader

    # ---- batches -------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return the seed of order and augmentation, class names, how images are normalised, and the fold."""
        return {
            "seed": self._run_seed.value,
            "preprocessing": self.preprocessing(),
            "class_names": list(self.class_names),
            "held_out": self._division.held(),
        }

    def preprocessing(self) -> dict[str, Any] | None:
        """Describe how images are processed before the network gets them, for use elsewhere.

        Returns:
            None before `setup`; then `normalize`, the mode; `mean` and `std`, one number per channel for
            pixels on [0, 1], or (with a mean image) `mean_image` (C, H, W), as far as they are used;
            `evaluation`, a list of the transforms that also act in evaluation.
        """
        if self.statistics is None:
            return None
        mode = self.pipeline.normalize.mode
        used: dict[str, Any] = {"normalize": mode, "evaluation": self.pipeline.evaluation()}
        if mode in ("mean_std", "mean"):
            used["mean"] = self.statistics.mean.tolist()
        if mode == "mean_std":
            used["std"] = self.statistics.std.tolist()
        if mode == "mean_image":
            used["mean_image"] = self.statistics.mean_image
        return used

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the seed, unless one is given, and the statistics that the network was trained with.

        Raises:
            MisconfigurationException: If the network knows other classes, or was trained on images that are
                held out here.
        """
        name = type(self).__name__
        check_classes(state_dict.get("class_names"), self.class_names, name)
        if "held_out" in state_dict:
            stage = None if self.trainer is None else self.trainer.state.fn
            is_test = stage in (TrainerFn.TESTING, TrainerFn.PREDICTING)
            check_held_out(state_dict["held_out"], self._division.held(), name, is_test=is_test)
        if self.statistics is not None:
            mode = self.pipeline.normalize.mode
            before = statistics_of(state_dict.get("preprocessing"), mode, self.statistics)
            if before is not None:
                rank_zero_warn(
                    f"{name}: the checkpoint's run had other training images; images are normalised with "
                    "their statistics"
                )
                self.statistics, self._statistics_loaded = before, True
                self.pipeline.fit(before)
        if self.trainer is None or self.trainer.state.fn == TrainerFn.FITTING:
            self._run_seed.load(state_dict["seed"], type(self).__name__)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Move a batch to the device, still in 8 bits."""
        if not isinstance(batch, Batch):
            return super().transfer_batch_to_device(batch, device, dataloader_idx)
        return batch.to(device)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> list[Tensor]:
        """Augment (in training) and normalise a batch; return a list, since callbacks may change it."""
        if not isinstance(batch, Batch):
            raise TypeError(
                f"{type(self).__name__}: expected a Batch from its own loaders, got {type(batch).__name__}"
            )
        trainer = self.trainer
        x = self.transform(batch, training=trainer is not None and trainer.training)
        if trainer is None:
            return [x, batch.labels]
        # Lightning converts to the precision before this hook, when the images still have 8 bits.
        x = trainer.precision_plugin.convert_input(x)
        return [x, batch.labels, batch.index] if trainer.predicting else [x, batch.labels]

    def transform(self, batch: Batch, *, training: bool) -> Tensor:
        """Turn a batch into the network's input, float32 (n, C, H, W).

        Args:
            batch: A batch from one of the loaders.
            training: Whether to augment, unless `augmenting` is off.
        """
        if not (training and self.augmenting):
            return self._evaluated(batch, whole=self.uncropped and not training)
        images = batch.images
        draws = Draws(self._run_seed.value, batch.place, len(images), images.device, batch.index)
        return self.pipeline.train(images, draws)

    def _evaluated(self, batch: Batch, *, whole: bool) -> Tensor:
        sizes: list[list[int]] | None = None if batch.sizes is None else batch.sizes.tolist()
        if whole:
            self._sizes = sizes
            return self.pipeline.uncropped(batch.images, self.image_shape, whole=sizes is not None)
        images = batch.images
        return self.pipeline.evaluate(
            images if sizes is None else middles(images, sizes, self.image_shape[1:])
        )

    def views_of(self, images: Tensor, views: Callable[[Tensor], Iterator[Tensor]]) -> Iterator[Tensor]:
        """Yield views of the images of the last batch, which were left uncropped.

        Args:
            images: (N, C, H, W), the result of `transform`.
            views: Makes views of images of one size; see `Views`.

        Yields:
            Each view, processed as in evaluation: a view that still has its image's size is cropped.
        """
        if self._sizes is not None and len(self._sizes) != len(images):
            raise ValueError(
                f"{type(self).__name__}: views need the whole batch of {len(self._sizes)} images, got "
                f"{len(images)}"
            )
        yield from finished_views(views, images, self._sizes, self.pipeline, self.image_shape)

    def batches(self, part: Part = "train", epoch: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Iterate over the batches of an epoch without a Trainer; call `setup` first.

        Args:
            part: "train" (augmented, in the order of `shuffle`), "val" or "test".
            epoch: Epoch, counted from 0; it determines order and augmentation.

        Yields:
            x float32 (n, C, H, W) and y int64 (n,), on the CPU or the `device` that was given.
        """
        training = part == "train"
        loader = self._loader(part, training=training)
        loader.set_epoch(epoch)
        for batch in loader:
            yield self.transform(batch, training=training), batch.labels
