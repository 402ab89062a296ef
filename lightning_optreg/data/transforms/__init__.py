"""Augmentation and normalisation of whole batches, with independent random choices for each image."""

from lightning_optreg.data.transforms.base import BatchTransform, ColorShift
from lightning_optreg.data.transforms.color_jitter import ColorJitter
from lightning_optreg.data.transforms.normalize import Centring, Normalize
from lightning_optreg.data.transforms.pca_color_jitter import PCAColorJitter
from lightning_optreg.data.transforms.per_image_standardization import PerImageStandardization
from lightning_optreg.data.transforms.pipeline import Pipeline
from lightning_optreg.data.transforms.random_crop import RandomCrop
from lightning_optreg.data.transforms.random_erasing import RandomErasing
from lightning_optreg.data.transforms.random_horizontal_flip import RandomHorizontalFlip
from lightning_optreg.data.transforms.random_resized_crop import RandomResizedCrop
from lightning_optreg.data.transforms.random_scale_crop import RandomScaleCrop
from lightning_optreg.data.transforms.tf_color_jitter import TFColorJitter

__all__ = [
    "BatchTransform",
    "Centring",
    "ColorJitter",
    "ColorShift",
    "Normalize",
    "PCAColorJitter",
    "PerImageStandardization",
    "Pipeline",
    "RandomCrop",
    "RandomErasing",
    "RandomHorizontalFlip",
    "RandomResizedCrop",
    "RandomScaleCrop",
    "TFColorJitter",
]
