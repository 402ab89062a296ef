"""The pure functions behind the parts: one formula each, on tensors or numbers, without a Trainer.

They are defined beside the layer, loss, optimizer or callback that uses them, and gathered here:

    from lightning_optreg import functional

    functional.project(layer.weight, max_norm=3.0)

Importing this module imports none of them; a function's home is imported when its name is asked for. `mix`
hashes seeds; mixing images is torchvision's `v2.MixUp`, which the callback `MixUp` uses.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_optreg.calibration import calibration_gaps
    from lightning_optreg.callbacks.batches.label_smoothing import smooth
    from lightning_optreg.callbacks.evaluation.batch_norm_recalibration import recalibrate
    from lightning_optreg.callbacks.evaluation.spread import spread
    from lightning_optreg.callbacks.steps.batch_size_growth import noise_scale
    from lightning_optreg.callbacks.steps.prechelt import (
        generalization_loss,
        progress_quotient,
        successive_rises,
        training_progress,
    )
    from lightning_optreg.callbacks.weights.gradient_noise import noise_std
    from lightning_optreg.callbacks.weights.max_norm import project, unit_norms
    from lightning_optreg.callbacks.weights.penalties import add_penalty_gradient, penalty, proximal_map
    from lightning_optreg.classifier.brier_score import brier_score
    from lightning_optreg.data.curriculum import rank_images
    from lightning_optreg.data.scores import negative_margins
    from lightning_optreg.data.transforms.color_jitter import adjust_brightness, adjust_contrast
    from lightning_optreg.data.transforms.lens_distortion import distort
    from lightning_optreg.data.transforms.random_crop import take_windows
    from lightning_optreg.data.transforms.random_resized_crop import affine_matrices, warp
    from lightning_optreg.data.transforms.tf_color_jitter import adjust_saturation
    from lightning_optreg.data.views import ten_crop
    from lightning_optreg.layers.batch_norm import batch_norm, batch_statistics
    from lightning_optreg.layers.drop_connect import (
        gaussian_mean,
        gaussian_relu,
        masked_linear,
        masked_moments,
    )
    from lightning_optreg.layers.dropout import vanilla_dropout
    from lightning_optreg.layers.fractional_max_pool import pool_windows, random_edges
    from lightning_optreg.layers.gaussian_noise import (
        add_relative_noise,
        gaussian_noise,
        normal_like,
        relative_std,
    )
    from lightning_optreg.layers.local_response_norm import local_response_norm
    from lightning_optreg.layers.stochastic_depth import random_branch, stochastic_depth
    from lightning_optreg.layers.whitened_conv import patch_covariance, whitening_filters
    from lightning_optreg.losses import multiclass_hinge, squared_error
    from lightning_optreg.nets.residual_network import survival_probabilities
    from lightning_optreg.optimizers.bfgs import update_inverse
    from lightning_optreg.optimizers.filter_muon import orthogonalized
    from lightning_optreg.optimizers.param_groups import param_groups
    from lightning_optreg.randomness.draws import mix
    from lightning_optreg.schedulers.cosine_cycles import cosine_factor, cycle_ends

__all__ = [
    "add_penalty_gradient",
    "add_relative_noise",
    "adjust_brightness",
    "adjust_contrast",
    "adjust_saturation",
    "affine_matrices",
    "batch_norm",
    "batch_statistics",
    "brier_score",
    "calibration_gaps",
    "cosine_factor",
    "cycle_ends",
    "distort",
    "gaussian_mean",
    "gaussian_noise",
    "gaussian_relu",
    "generalization_loss",
    "local_response_norm",
    "masked_linear",
    "masked_moments",
    "mix",
    "multiclass_hinge",
    "negative_margins",
    "noise_scale",
    "noise_std",
    "normal_like",
    "orthogonalized",
    "param_groups",
    "patch_covariance",
    "penalty",
    "pool_windows",
    "progress_quotient",
    "project",
    "proximal_map",
    "random_branch",
    "random_edges",
    "rank_images",
    "recalibrate",
    "relative_std",
    "smooth",
    "spread",
    "squared_error",
    "stochastic_depth",
    "successive_rises",
    "survival_probabilities",
    "take_windows",
    "ten_crop",
    "training_progress",
    "unit_norms",
    "update_inverse",
    "vanilla_dropout",
    "warp",
    "whitening_filters",
]

_HOMES = {
    "calibration": ("calibration_gaps",),
    "callbacks.batches.label_smoothing": ("smooth",),
    "callbacks.evaluation.batch_norm_recalibration": ("recalibrate",),
    "callbacks.evaluation.spread": ("spread",),
    "callbacks.steps.batch_size_growth": ("noise_scale",),
    "callbacks.steps.prechelt": (
        "generalization_loss",
        "progress_quotient",
        "successive_rises",
        "training_progress",
    ),
    "callbacks.weights.gradient_noise": ("noise_std",),
    "callbacks.weights.max_norm": ("project", "unit_norms"),
    "callbacks.weights.penalties": ("add_penalty_gradient", "penalty", "proximal_map"),
    "classifier.brier_score": ("brier_score",),
    "data.curriculum": ("rank_images",),
    "data.scores": ("negative_margins",),
    "data.transforms.color_jitter": ("adjust_brightness", "adjust_contrast"),
    "data.transforms.lens_distortion": ("distort",),
    "data.transforms.random_crop": ("take_windows",),
    "data.transforms.random_resized_crop": ("affine_matrices", "warp"),
    "data.transforms.tf_color_jitter": ("adjust_saturation",),
    "data.views": ("ten_crop",),
    "layers.batch_norm": ("batch_norm", "batch_statistics"),
    "layers.drop_connect": ("gaussian_mean", "gaussian_relu", "masked_linear", "masked_moments"),
    "layers.dropout": ("vanilla_dropout",),
    "layers.fractional_max_pool": ("pool_windows", "random_edges"),
    "layers.gaussian_noise": ("add_relative_noise", "gaussian_noise", "normal_like", "relative_std"),
    "layers.local_response_norm": ("local_response_norm",),
    "layers.stochastic_depth": ("random_branch", "stochastic_depth"),
    "layers.whitened_conv": ("patch_covariance", "whitening_filters"),
    "losses": ("multiclass_hinge", "squared_error"),
    "nets.residual_network": ("survival_probabilities",),
    "optimizers.bfgs": ("update_inverse",),
    "optimizers.filter_muon": ("orthogonalized",),
    "optimizers.param_groups": ("param_groups",),
    "randomness.draws": ("mix",),
    "schedulers.cosine_cycles": ("cosine_factor", "cycle_ends"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"lightning_optreg.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
