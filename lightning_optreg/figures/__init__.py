"""Figures: pure functions from data to a matplotlib figure."""

from lightning_optreg.figures.accelerated_methods import draw_dynamics
from lightning_optreg.figures.learning_curves import draw_curves
from lightning_optreg.figures.loss_slices import draw_line, draw_plane
from lightning_optreg.figures.optimizer_paths import animate_surface, draw_surface
from lightning_optreg.figures.privacy import PrivatePoint, draw_privacy, read_private
from lightning_optreg.figures.ranking import draw_ranking
from lightning_optreg.figures.runs import draw_runs, read_metric
from lightning_optreg.figures.scaling import ScalingCurve, draw_scaling, draw_speedup, read_scaling
from lightning_optreg.figures.study import Band, draw_bands, draw_sensitivity
from lightning_optreg.figures.transport import draw_euler, draw_stability, draw_transport

__all__ = [
    "Band",
    "PrivatePoint",
    "ScalingCurve",
    "animate_surface",
    "draw_bands",
    "draw_curves",
    "draw_dynamics",
    "draw_euler",
    "draw_line",
    "draw_plane",
    "draw_privacy",
    "draw_ranking",
    "draw_runs",
    "draw_scaling",
    "draw_sensitivity",
    "draw_speedup",
    "draw_stability",
    "draw_surface",
    "draw_transport",
    "read_metric",
    "read_private",
    "read_scaling",
]
