"""Quantities computed about a network or an optimizer, to be drawn or printed."""

from lightning_optreg.analysis.deviations import Dynamics, compute_dynamics, deviation, fitted_order
from lightning_optreg.analysis.directions import along, principal_directions, random_direction
from lightning_optreg.analysis.layers import LayerRow, describe, format_table, total
from lightning_optreg.analysis.loss_grid import loss_grid
from lightning_optreg.analysis.odes import Problem, iterates, solve_ode
from lightning_optreg.analysis.parallel_methods import (
    SimulatedDDP,
    SimulatedDownpour,
    SimulatedElasticAveraging,
    SimulatedHogwild,
    SimulatedLocalSGD,
)
from lightning_optreg.analysis.scaling import Moment, ScalingRun, simulate
from lightning_optreg.analysis.sharpness import keskar_sharpness, largest_eigenvalue
from lightning_optreg.analysis.speeds import Interconnect, StepTimes
from lightning_optreg.analysis.surfaces import SURFACES, Surface
from lightning_optreg.analysis.trajectories import follow
from lightning_optreg.analysis.workload import Workload, sparse_logistic_regression

__all__ = [
    "SURFACES",
    "Dynamics",
    "Interconnect",
    "LayerRow",
    "Moment",
    "Problem",
    "ScalingRun",
    "SimulatedDDP",
    "SimulatedDownpour",
    "SimulatedElasticAveraging",
    "SimulatedHogwild",
    "SimulatedLocalSGD",
    "StepTimes",
    "Surface",
    "Workload",
    "along",
    "compute_dynamics",
    "describe",
    "deviation",
    "fitted_order",
    "follow",
    "format_table",
    "iterates",
    "keskar_sharpness",
    "largest_eigenvalue",
    "loss_grid",
    "principal_directions",
    "random_direction",
    "simulate",
    "solve_ode",
    "sparse_logistic_regression",
    "total",
]
