"""The path that `lightning_optreg.optimizers.param_groups` had at first."""

from lightning_optreg.optimizers.param_groups import NORMALISATIONS, biases_and_norms, param_groups

__all__ = ["NORMALISATIONS", "biases_and_norms", "param_groups"]
