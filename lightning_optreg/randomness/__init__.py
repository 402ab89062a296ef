"""Random numbers: draws as functions of (seed, epoch, step), the run's seed, the states of all generators."""

from lightning_optreg.randomness.draws import Draws, Place

__all__ = ["Draws", "Place"]
