"""Pictures: pure functions from data to a matplotlib figure."""

from lightning_optreg.figures.curves import draw_curves
from lightning_optreg.figures.runs import draw_runs, read_metric

__all__ = ["draw_curves", "draw_runs", "read_metric"]
