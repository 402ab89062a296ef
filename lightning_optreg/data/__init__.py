"""Image datasets in memory, loaded in whole batches, and transforms of whole batches on the device."""

from lightning_optreg.data.cifar10 import CIFAR10DataModule
from lightning_optreg.data.curriculum import Pacing, rank_images
from lightning_optreg.data.curriculum_sampler import CurriculumSampler
from lightning_optreg.data.datamodule import ImageDataModule
from lightning_optreg.data.fashion_mnist import FashionMNISTDataModule
from lightning_optreg.data.image_folder import ImageFolderDataModule
from lightning_optreg.data.loader import Batch, BatchLoader
from lightning_optreg.data.sources import ImageSet, Source
from lightning_optreg.data.statistics import Statistics, compute_statistics
from lightning_optreg.data.transforms import (
    BatchTransform,
    ColorJitter,
    LensDistortion,
    PCAColorJitter,
    PerImageStandardization,
    RandomAutocontrast,
    RandomCrop,
    RandomEqualize,
    RandomErasing,
    RandomGrayscale,
    RandomHorizontalFlip,
    RandomInvert,
    RandomPosterize,
    RandomResizedCrop,
    RandomScaleCrop,
    RandomSolarize,
    RandomStretch,
    TFColorJitter,
)
from lightning_optreg.data.views import Flips, MultiScale, RandomViews, TenCrop, Views
from lightning_optreg.randomness.draws import Draws, Place

__all__ = [
    "Batch",
    "BatchLoader",
    "BatchTransform",
    "CIFAR10DataModule",
    "ColorJitter",
    "CurriculumSampler",
    "Draws",
    "FashionMNISTDataModule",
    "Flips",
    "ImageDataModule",
    "ImageFolderDataModule",
    "ImageSet",
    "LensDistortion",
    "MultiScale",
    "PCAColorJitter",
    "Pacing",
    "PerImageStandardization",
    "Place",
    "RandomAutocontrast",
    "RandomCrop",
    "RandomEqualize",
    "RandomErasing",
    "RandomGrayscale",
    "RandomHorizontalFlip",
    "RandomInvert",
    "RandomPosterize",
    "RandomResizedCrop",
    "RandomScaleCrop",
    "RandomSolarize",
    "RandomStretch",
    "RandomViews",
    "Source",
    "Statistics",
    "TFColorJitter",
    "TenCrop",
    "Views",
    "compute_statistics",
    "rank_images",
]
