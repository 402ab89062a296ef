"""Layers with randomness, or that torch has in another form, one file each."""

from lightning_optreg.layers.dropout import Dropout
from lightning_optreg.layers.gaussian_noise import GaussianNoise
from lightning_optreg.layers.local_response_norm import LocalResponseNorm
from lightning_optreg.layers.noise import NoiseLayer
from lightning_optreg.layers.stochastic_depth import StochasticDepth, StochasticResidual

__all__ = [
    "Dropout",
    "GaussianNoise",
    "LocalResponseNorm",
    "NoiseLayer",
    "StochasticDepth",
    "StochasticResidual",
]
