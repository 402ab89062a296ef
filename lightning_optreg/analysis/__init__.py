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
from lightning_optreg.analysis.transport import TransportProblem, feynman_kac
from lightning_optreg.analysis.transport_grid import solve_transport
from lightning_optreg.analysis.transport_measures import (
    EulerErrors,
    Stability,
    TransportSolutions,
    compute_transport,
    measure_euler,
    measure_stability,
)
from lightning_optreg.analysis.transport_problems import (
    TRANSPORTS,
    PointResNet,
    train_point_resnet,
    two_spirals,
)
from lightning_optreg.analysis.workload import Workload, sparse_logistic_regression

__all__ = [
    "SURFACES",
    "TRANSPORTS",
    "Dynamics",
    "EulerErrors",
    "Interconnect",
    "LayerRow",
    "Moment",
    "PointResNet",
    "Problem",
    "ScalingRun",
    "SimulatedDDP",
    "SimulatedDownpour",
    "SimulatedElasticAveraging",
    "SimulatedHogwild",
    "SimulatedLocalSGD",
    "Stability",
    "StepTimes",
    "Surface",
    "TransportProblem",
    "TransportSolutions",
    "Workload",
    "along",
    "compute_dynamics",
    "compute_transport",
    "describe",
    "deviation",
    "feynman_kac",
    "fitted_order",
    "follow",
    "format_table",
    "iterates",
    "keskar_sharpness",
    "largest_eigenvalue",
    "loss_grid",
    "measure_euler",
    "measure_stability",
    "principal_directions",
    "random_direction",
    "simulate",
    "solve_ode",
    "solve_transport",
    "sparse_logistic_regression",
    "total",
    "train_point_resnet",
    "two_spirals",
]
