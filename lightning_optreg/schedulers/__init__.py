"""Learning-rate schedules that torch lacks, or that a configuration cannot name in torch's form.

They chain (`torch.optim.lr_scheduler.ChainedScheduler`) and follow each other (`SequentialLR`) as torch's do.
"""

from lightning_optreg.schedulers.inverse_time_decay import InverseTimeDecay
from lightning_optreg.schedulers.snapshot_cosine import SnapshotCosine
from lightning_optreg.schedulers.warmup import Warmup
from lightning_optreg.schedulers.warmup_multi_step import WarmupMultiStepLR

__all__ = ["InverseTimeDecay", "SnapshotCosine", "Warmup", "WarmupMultiStepLR"]
