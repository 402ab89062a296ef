"""The pictures of the methods' cards, a file for each kind of method."""

from card_pictures import (
    callbacks,
    data,
    layers,
    losses,
    networks,
    optimizers,
    schedules,
    strategies,
)
from card_pictures.registry import PICTURES

__all__ = [
    "PICTURES",
    "callbacks",
    "data",
    "layers",
    "losses",
    "networks",
    "optimizers",
    "schedules",
    "strategies",
]
