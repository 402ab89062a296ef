"""Pictures: pure functions from data to a matplotlib figure."""

from lightning_optreg.figures.curves import draw_curves

__all__ = ["draw_curves"]
