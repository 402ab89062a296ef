"""Layers that draw random numbers, or that torch has in another form; one file each."""

from lightning_optreg.layers.batch_norm import BatchNorm
from lightning_optreg.layers.drop_connect import DropConnect
from lightning_optreg.layers.dropout import Dropout
from lightning_optreg.layers.fractional_max_pool import FractionalMaxPool
from lightning_optreg.layers.gaussian_noise import GaussianNoise
from lightning_optreg.layers.local_response_norm import LocalResponseNorm
from lightning_optreg.layers.noise import NoiseLayer
from lightning_optreg.layers.stochastic_depth import StochasticDepth, StochasticResidual
from lightning_optreg.layers.whitened_conv import WhitenedConv2d

__all__ = [
    "BatchNorm",
    "DropConnect",
    "Dropout",
    "FractionalMaxPool",
    "GaussianNoise",
    "LocalResponseNorm",
    "NoiseLayer",
    "StochasticDepth",
    "StochasticResidual",
    "WhitenedConv2d",
]
