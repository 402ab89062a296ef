"""Pictures: pure functions from data to a matplotlib figure."""

from lightning_optreg.figures.curves import draw_curves
from lightning_optreg.figures.dynamics import draw_dynamics
from lightning_optreg.figures.landscape import draw_line, draw_plane
from lightning_optreg.figures.ranking import draw_ranking
from lightning_optreg.figures.runs import draw_runs, read_metric
from lightning_optreg.figures.study import Band, draw_bands, draw_sensitivity
from lightning_optreg.figures.surface import animate_surface, draw_surface

__all__ = [
    "Band",
    "animate_surface",
    "draw_bands",
    "draw_curves",
    "draw_dynamics",
    "draw_line",
    "draw_plane",
    "draw_ranking",
    "draw_runs",
    "draw_sensitivity",
    "draw_surface",
    "read_metric",
]
