"""Augmentation and normalisation of whole batches, with independent random choices for each image."""

from lightning_optreg.data.transforms.base import BatchTransform, ColorShift
from lightning_optreg.data.transforms.color_jitter import ColorJitter
from lightning_optreg.data.transforms.lens_distortion import LensDistortion
from lightning_optreg.data.transforms.normalize import Centring, Normalize
from lightning_optreg.data.transforms.pca_color_jitter import PCAColorJitter
from lightning_optreg.data.transforms.per_image_standardization import PerImageStandardization
from lightning_optreg.data.transforms.pipeline import Pipeline
from lightning_optreg.data.transforms.random_crop import RandomCrop
from lightning_optreg.data.transforms.random_erasing import RandomErasing
from lightning_optreg.data.transforms.random_grayscale import RandomGrayscale
from lightning_optreg.data.transforms.random_histograms import RandomAutocontrast, RandomEqualize
from lightning_optreg.data.transforms.random_horizontal_flip import RandomHorizontalFlip
from lightning_optreg.data.transforms.random_resized_crop import RandomResizedCrop
from lightning_optreg.data.transforms.random_scale_crop import RandomScaleCrop
from lightning_optreg.data.transforms.random_stretch import RandomStretch
from lightning_optreg.data.transforms.random_tone_curves import RandomInvert, RandomPosterize, RandomSolarize
from lightning_optreg.data.transforms.randomly_applied import RandomlyApplied
from lightning_optreg.data.transforms.tf_color_jitter import TFColorJitter

__all__ = [
    "BatchTransform",
    "Centring",
    "ColorJitter",
    "ColorShift",
    "LensDistortion",
    "Normalize",
    "PCAColorJitter",
    "PerImageStandardization",
    "Pipeline",
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
    "RandomlyApplied",
    "TFColorJitter",
]
