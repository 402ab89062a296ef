"""Update rules: `torch.optim.Optimizer`s that torch lacks, or that the lecture writes differently.

Names that begin with `Lecture` follow Yuan Yao, "An Introduction to Optimization and Regularization Methods
in Deep Learning", lecture at HKUST, where its equations differ from torch's.
"""

from lightning_optreg.optimizers.ada_delay import AdaDelay
from lightning_optreg.optimizers.adaptive_revision import AdaptiveRevision
from lightning_optreg.optimizers.add_sign import AddSign
from lightning_optreg.optimizers.bfgs import BFGS
from lightning_optreg.optimizers.filter_muon import FilterMuon
from lightning_optreg.optimizers.heavy_ball import HeavyBall
from lightning_optreg.optimizers.lecture_adagrad import LectureAdagrad, LectureRMSprop
from lightning_optreg.optimizers.lecture_adam import LectureAdam, LectureAMSGrad, LectureNAdam
from lightning_optreg.optimizers.lecture_adamax import LectureAdaMax
from lightning_optreg.optimizers.lookahead import Lookahead
from lightning_optreg.optimizers.nag import NAG
from lightning_optreg.optimizers.nag_convex import NAGConvex
from lightning_optreg.optimizers.nag_strongly_convex import NAGStronglyConvex
from lightning_optreg.optimizers.newton import Newton
from lightning_optreg.optimizers.power_sign import PowerSign
from lightning_optreg.optimizers.rate_estimate import RateEstimate, StepMeter
from lightning_optreg.optimizers.swats import SWATS
from lightning_optreg.optimizers.update_rule import UpdateRule

__all__ = [
    "BFGS",
    "NAG",
    "SWATS",
    "AdaDelay",
    "AdaptiveRevision",
    "AddSign",
    "FilterMuon",
    "HeavyBall",
    "LectureAMSGrad",
    "LectureAdaMax",
    "LectureAdagrad",
    "LectureAdam",
    "LectureNAdam",
    "LectureRMSprop",
    "Lookahead",
    "NAGConvex",
    "NAGStronglyConvex",
    "Newton",
    "PowerSign",
    "RateEstimate",
    "StepMeter",
    "UpdateRule",
]
