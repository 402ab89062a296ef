"""Update rules: `torch.optim.Optimizer`s that torch has not got, or not as the lecture writes them."""

from lightning_optreg.optimizers.bfgs import BFGS
from lightning_optreg.optimizers.newton import Newton
from lightning_optreg.optimizers.rate_estimate import RateEstimate, StepMeter
from lightning_optreg.optimizers.swats import SWATS
from lightning_optreg.optimizers.update_rule import UpdateRule

__all__ = ["BFGS", "SWATS", "Newton", "RateEstimate", "StepMeter", "UpdateRule"]
