"""The pictures of the methods' cards, a file for each kind of method."""

from card_pictures import (
    adaptive_optimizers,
    callbacks,
    data,
    layers,
    losses,
    networks,
    optimizers,
    schedules,
    small_networks,
    strategies,
)
from card_pictures.registry import PICTURES

__all__ = [
    "PICTURES",
    "adaptive_optimizers",
    "callbacks",
    "data",
    "layers",
    "losses",
    "networks",
    "optimizers",
    "schedules",
    "small_networks",
    "strategies",
]
